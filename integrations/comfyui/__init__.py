"""The node pack for ComfyUI: put this folder into ``ComfyUI/custom_nodes`` as ``booru_embed``.

ComfyUI reads the three names at the bottom. The nodes need ``pip install booru-embed`` without an extra; torch, which
ComfyUI has, is imported by the embed node alone.
"""

from importlib.util import find_spec

if find_spec("booru_embed_core") is None:
    raise ImportError("booru-embed is not installed: run `pip install booru-embed` with ComfyUI's Python")

from .autocomplete import add_route
from .nodes import NODES

NODE_CLASS_MAPPINGS = {name: node for name, (node, _) in NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {name: title for name, (_, title) in NODES.items()}
WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

add_route()
