"""A page that completes captions without a server: network, vocabulary and onnxruntime-web in one folder.

Browsers let a page from a file load plain scripts, but neither modules nor other files. So everything else than the
page itself is a script that sets a value: the vocabulary, and gzipped bytes in base64.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from pathlib import Path
from typing import Any, Final

import onnx

from booru_embed_core.embedder.onnx_network import COMPLETION_FILE, INT8_FILES, MODEL_FILE, WEIGHTS_INPUT
from booru_embed_core.export.demo_runtime import RUNTIME_VERSION, Runtime
from booru_embed_core.export.onnx_graphs import write_onnx
from booru_embed_core.model.encoder import SUMMARY_ID, SetEncoder
from booru_embed_core.schema import CATEGORIES
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab

PAGE_FILE: Final = "index.html"
VOCAB_SCRIPT: Final = "vocab.js"
RUNTIME_SCRIPT: Final = "runtime.js"
NETWORK_SCRIPT: Final = "network.js"
MAX_FLOAT_BYTES: Final = 64 << 20
"""Graphs in float32 of more bytes are replaced by those in int8, of a quarter of the bytes."""
_SOURCES: Final = Path(__file__).with_name("demo_page")
_ICON: Final = Path(__file__).parents[1] / "web" / "static" / "icon.svg"
_LICENSES: Final = f"""{RUNTIME_SCRIPT} and {PAGE_FILE} hold onnxruntime-web {RUNTIME_VERSION}.
Copyright (c) Microsoft Corporation. Licensed under the MIT License: https://github.com/microsoft/onnxruntime
"""
_CARD: Final = """---
title: booru-embed
emoji: 🏷️
sdk: static
app_file: {page}
license: {license}
---
# Complete captions of tags

Open `{page}`: the network computes in the page, and nothing is sent anywhere. The folder needs no server. It is also a
static Space of the Hugging Face Hub as it is. The network is in {precision}.
"""


def write_demo(
    model: SetEncoder, vocab: Vocab, runtime: Runtime, out_dir: Path, *, drops_implied: bool, license_id: str
) -> None:
    """Writes the page and what it loads.

    Args:
        model: the network.
        vocab: of the checkpoint.
        runtime: onnxruntime-web.
        out_dir: an empty folder.
        drops_implied: whether the network reads captions without implied tags.
        license_id: of the model, for the Hub.
    """
    graphs = out_dir / "graphs"
    graphs.mkdir()
    write_onnx(model, vocab.hash, graphs)
    names = (MODEL_FILE, COMPLETION_FILE)
    is_int8 = sum((graphs / name).stat().st_size for name in names) > MAX_FLOAT_BYTES
    encoder, completion = (onnx.load_model(graphs / (INT8_FILES[name] if is_int8 else name)) for name in names)
    shutil.rmtree(graphs)
    _require_weights(encoder.graph)
    _write_values(out_dir / VOCAB_SCRIPT, {"vocab": vocab_values(vocab, drops_implied)})
    _write_values(out_dir / RUNTIME_SCRIPT, {"runtime": _packed(runtime.wasm)})
    _write_values(
        out_dir / NETWORK_SCRIPT,
        {
            name: _packed(graph.SerializeToString())
            for name, graph in (("encoder", encoder), ("completion", completion))
        },
    )
    precision = "int8" if is_int8 else "float32"
    texts = {
        PAGE_FILE: _page(runtime),
        "README.md": _CARD.format(page=PAGE_FILE, license=license_id, precision=precision),
        "LICENSES": _LICENSES,
    }
    for name, text in texts.items():
        (out_dir / name).write_text(text, encoding="utf-8")


def _require_weights(graph: onnx.GraphProto) -> None:
    """Takes the default from the input of weights: onnxruntime-web takes no input that has one."""
    (default,) = [one for one in graph.initializer if one.name == WEIGHTS_INPUT]
    graph.initializer.remove(default)


def vocab_values(vocab: Vocab, drops_implied: bool) -> dict[str, Any]:
    """What the page knows of `vocab`; tags are tag indices.

    ``spellings`` are those that are not the tag, ``firsts`` the first index of each category, ``implications`` the
    effects of each tag that has any.
    """
    tokenizer = Tokenizer(vocab)
    implications: dict[int, list[int]] = {}
    for cause, effect in vocab.implications.pairs.tolist():
        implications.setdefault(cause, []).append(effect)
    spelled = zip(tokenizer.spellings, vocab.tags, strict=True)
    return {
        "tags": vocab.tags,
        "counts": vocab.counts.tolist(),
        "categories": [category.value for category in CATEGORIES],
        "firsts": [vocab.first_token_id(category) - vocab.num_special for category in CATEGORIES],
        "spellings": {index: spelling for index, (spelling, tag) in enumerate(spelled) if spelling != tag},
        "aliases": [[alias, token_id - vocab.num_special] for alias, token_id in tokenizer.aliases.items()],
        "unknown": vocab.is_unknown.nonzero()[0].tolist(),
        "implications": implications,
        "num_special": vocab.num_special,
        "summary": SUMMARY_ID,
        "drops_implied": drops_implied,
    }


def _page(runtime: Runtime) -> str:
    """The page; its parts go in one after another, so that none is taken for a place of another."""
    page = (_SOURCES / PAGE_FILE).read_text(encoding="utf-8")
    icon = "data:image/svg+xml;base64," + base64.b64encode(_ICON.read_bytes()).decode("ascii")
    parts = {
        "icon": icon,
        "style": (_SOURCES / "style.css").read_text(encoding="utf-8"),
        "reader": (_SOURCES / "reader.js").read_text(encoding="utf-8"),
        "page": (_SOURCES / "page.js").read_text(encoding="utf-8"),
        "runtime": runtime.script,
    }
    for name, text in parts.items():
        page = page.replace(f"{{{name}}}", text)
    return page


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def _write_values(file: Path, values: dict[str, Any]) -> None:
    lines = (f"booruEmbed.{name} = {json.dumps(value, ensure_ascii=False)};\n" for name, value in values.items())
    file.write_text("".join(lines), encoding="utf-8")
