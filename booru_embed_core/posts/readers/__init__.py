"""One file a format: each reader parses one kind of export into record batches and names what it cannot parse.

What becomes of a record (filtered, duplicate, rejected) is decided in ``posts``, not here.
"""
