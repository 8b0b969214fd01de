"""One file a stage, named like the folders of the core."""

from typing import Final

OWNERS: Final = ["team:booru-embed"]
"""Whom the UI names for an asset; a fork writes its own people in."""
