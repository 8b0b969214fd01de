"""Exports to the ``posts`` table."""
