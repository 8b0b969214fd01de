"""Posts found by their vectors and tags: the index, the posts beside it, and the query language.

Nothing here speaks HTTP; the page and the API are in ``web``.
"""
