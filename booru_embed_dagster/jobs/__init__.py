"""Jobs that a person or a schedule starts: rebuild, percentile sweep, prune.

Sensors that react to changes are in ``automation``.
"""
