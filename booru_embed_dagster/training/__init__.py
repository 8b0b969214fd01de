"""The training process as Dagster sees it: launched, stopped, and its end explained.

The training loop itself is in ``booru_embed_core.training``.
"""
