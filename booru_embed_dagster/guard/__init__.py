"""The command ``booru-embed build``: which assets a selection names, why they run and what they cost, then the run.

Belongs here: what is said and asked before a run. The run itself is Dagster's ``dg launch``.
"""
