"""The training process as Dagster sees it: launching it, stopping it, and explaining its end.

The training loop itself is in ``booru_embed_core.training``.
"""
