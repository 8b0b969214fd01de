"""What decides that an asset is stale: observations, recorded inputs, the condition, and the sensors that act on it.

Jobs that a person or a schedule starts are in ``jobs``.
"""
