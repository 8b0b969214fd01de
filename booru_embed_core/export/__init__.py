"""A checkpoint written in the formats of other libraries: Hub folder, sentence-transformers, ONNX, tables of vectors.

Exports of posts are read in ``posts``, not here.
"""
