"""A checkpoint in use: captions in, vectors and completions out, by torch or by ONNX.

Nothing here trains, measures quality or answers over a network.
"""
