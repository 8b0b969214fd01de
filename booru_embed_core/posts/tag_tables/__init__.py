"""Rows of tables of tags and aliases, by format; what they mean is up to ``tag_table.py``. Posts have ``readers``."""
