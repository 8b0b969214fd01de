"""Jobs that a person or a schedule starts: rebuild, percentile sweep, prune.

Sensors that follow changes by themselves are in ``automation``.
"""
