"""One file a stage, named like the folders of the core."""
