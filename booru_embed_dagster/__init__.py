"""The DAG: assets that call one function of `booru_embed_core` each, and the warehouse they publish to."""
