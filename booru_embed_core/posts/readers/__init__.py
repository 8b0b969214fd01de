"""One file a format: each parses an export into record batches and says which records it could not parse.

Rules about posts (ratings, flags, duplicates) are in ``posts``, not here.
"""
