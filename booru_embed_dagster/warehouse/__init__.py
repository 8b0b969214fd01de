"""Versions of products on disk: written once, published by one link, kept or pruned.

Which version an asset was made from is recorded in ``automation``.
"""
