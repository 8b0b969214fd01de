"""Exports to the ``posts`` table: ``readers`` parse formats, the rest validates, filters and writes posts."""
