"""Assets: one file per stage, named like the folders of the core."""

from typing import Final

OWNERS: Final = ["team:booru-embed"]
"""The owners that the UI shows for each asset; a fork names its own."""
