"""The page and the JSON API of ``booru-embed serve``.

What an endpoint answers is computed in ``embedder`` and ``search``.
"""
