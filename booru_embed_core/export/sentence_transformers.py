"""A model for the library sentence-transformers that loads without custom code.

sentence-transformers loads only its own modules unless its user trusts remote code. So the weights are rearranged for
an architecture of transformers that computes the same function up to rounding: Qwen3 with bidirectional attention.

* RMSNorm, QK-norm and SwiGLU are the same; gains are ones. The pooling block is a layer read at its first token.
* Rotary positions are divided by 1e30, which makes their angles 0.
* In Qwen3 heads share one gain for queries; here each head has a temperature. Heads get twice the dimensions, with
  queries ``[q, c q]`` and keys ``[k, 0]``: the greater c, the less of q the norm leaves (`_attention_weights`).

Rules of the ``tokenizers`` library read the text: see ``caption_rules``.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from booru_embed_core.export.caption_rules import PAD_ENTRY, tokenizer_json
from booru_embed_core.model.encoder import Attention, Block, FeedForward, Linear, Pool, SetEncoder
from booru_embed_core.schema import PAD_TOKEN, SPECIAL_TOKENS
from booru_embed_core.tags.vocab import Vocab

_MAX_LENGTH: Final = 1_000_000
SUBFOLDER: Final = "sentence_transformer"
_MODULES_FILE: Final = "modules.json"
_LIBRARY_CONFIG: Final = "config_sentence_transformers.json"
_MODULES: Final = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize"))


def has_counterpart(model: SetEncoder) -> bool:
    """Whether transformers has an architecture for `model`."""
    return model.config.settings.trunk == "attention"


def write_sentence_transformer(model: SetEncoder, vocab: Vocab, out_dir: Path) -> None:
    """Writes the folder that `SentenceTransformer(path)` loads.

    Raises:
        ValueError: the trunk is not attention.
    """
    settings = model.config.settings
    if not has_counterpart(model):
        raise ValueError(f"trunk {settings.trunk!r} has no counterpart in transformers; export hub or onnx instead")
    width, dim = settings.width, settings.embedding_dim
    for _, folder in _MODULES[1:]:
        (out_dir / folder).mkdir()
    save_file(transformer_weights(model), out_dir / "model.safetensors", metadata={"format": "pt"})
    bottleneck = model.bottleneck
    assert isinstance(bottleneck, Linear)
    weights = {"linear.weight": bottleneck.weight.detach().contiguous()}
    save_file(weights, out_dir / "2_Dense" / "model.safetensors", metadata={"format": "pt"})
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (name, path) in enumerate(_MODULES)
    ]
    dense = {"in_features": width, "out_features": dim, "bias": False}
    files: dict[str, Any] = {
        _MODULES_FILE: modules,
        "config.json": transformer_config(model),
        _LIBRARY_CONFIG: {"similarity_fn_name": "cosine"},
        "sentence_bert_config.json": {"max_seq_length": _MAX_LENGTH},
        "tokenizer.json": tokenizer_json(vocab),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD_ENTRY,
            "model_max_length": _MAX_LENGTH,
            "model_input_names": ["input_ids", "attention_mask"],
        },
        "1_Pooling/config.json": {"word_embedding_dimension": width, "pooling_mode_cls_token": True}
        | dict.fromkeys(["pooling_mode_mean_tokens", "pooling_mode_max_tokens"], False),
        "2_Dense/config.json": dense | {"activation_function": "torch.nn.modules.linear.Identity"},
    }
    for name, content in files.items():
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (out_dir / name).write_text(text + "\n", encoding="utf-8")


def write_beside(model: SetEncoder, vocab: Vocab, out_dir: Path) -> None:
    """Writes the same into `SUBFOLDER` of `out_dir`, a folder that has a ``config.json`` and weights of its own.

    ``modules.json`` and the library's settings lie in `out_dir`, so `SentenceTransformer(out_dir)` loads it too.
    """
    folder = out_dir / SUBFOLDER
    folder.mkdir()
    write_sentence_transformer(model, vocab, folder)
    (folder / _LIBRARY_CONFIG).rename(out_dir / _LIBRARY_CONFIG)
    file = folder / _MODULES_FILE
    modules = json.loads(file.read_text(encoding="utf-8"))
    for module in modules:
        module["path"] = f"{SUBFOLDER}/{module['path']}".rstrip("/")
    file.unlink()
    (out_dir / _MODULES_FILE).write_text(json.dumps(modules, indent=1) + "\n", encoding="utf-8")


def transformer_config(model: SetEncoder) -> dict[str, Any]:
    """The ``config.json`` of transformers."""
    settings = model.config.settings
    rope = {"rope_type": "linear", "factor": 1e30, "rope_theta": 10000.0}
    return {
        "architectures": ["Qwen3Model"],
        "model_type": "qwen3",
        "vocab_size": model.config.num_tokens,
        "hidden_size": settings.width,
        "intermediate_size": settings.ffn_width,
        "num_hidden_layers": settings.num_layers + 1,
        "num_attention_heads": settings.num_heads,
        "num_key_value_heads": settings.num_heads,
        "head_dim": 2 * settings.width // settings.num_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-12,
        "max_position_embeddings": _MAX_LENGTH,
        "rope_theta": rope["rope_theta"],
        "rope_parameters": rope,
        "rope_scaling": rope,  # the name in transformers 4
        "attention_bias": False,
        "is_causal": False,  # transformers 5.2 and newer, with any implementation of attention
        "use_cache": False,
        "tie_word_embeddings": False,
        "pad_token_id": SPECIAL_TOKENS.index(PAD_TOKEN),
        "dtype": "float32",
        "torch_dtype": "float32",
    }


@torch.inference_mode()
def transformer_weights(model: SetEncoder) -> dict[str, Tensor]:
    """The weights by their names in transformers, float32."""
    width = model.config.settings.width
    first, *later = model.blocks
    assert isinstance(first, Block)
    table = first.before_attention(model.input_vectors())
    weights = {"embed_tokens.weight": table, "norm.weight": torch.ones(width)}
    # transformers' layers end with their feed-forward. Where a block begins with it, the layer before has it, and the
    # table has the first one.
    following: list[nn.Module | None] = [*later, None] if first.feed_forward_first else [*model.blocks]
    for index, (block, owner) in enumerate(zip([*model.blocks, model.pool], [*following, model.pool], strict=True)):
        assert isinstance(block, Block | Pool)
        assert block.attention is not None
        layer = _attention_weights(block.attention) | _feed_forward_weights(_feed_forward_of(owner, first))
        layer |= {f"{name}_layernorm.weight": torch.ones(width) for name in ("input", "post_attention")}
        weights |= {f"layers.{index}.{name}": value for name, value in layer.items()}
    return {name: value.detach().clone().contiguous() for name, value in weights.items()}


def _feed_forward_of(owner: nn.Module | None, other: Block) -> FeedForward:
    """The feed-forward of `owner`; without one, an idle one of the size of that of `other`."""
    if owner is not None:
        assert isinstance(owner, Block | Pool)
        return owner.feed_forward
    idle = copy.deepcopy(other.feed_forward)
    for parameter in idle.parameters():
        parameter.zero_()
    return idle


def _attention_weights(part: Attention) -> dict[str, Tensor]:
    """Attention weights with twice the head dimensions D, which give each head its temperature.

    Let s be the heads' temperatures, g = max(s) / sqrt(2) the gain of all queries, and c² = (max(s) / s)² - 1. The RMS
    norm over 2D numbers turns ``[q, c q]`` into sqrt(2) / sqrt(1 + c²) * q / rms(q) and D more numbers, and ``[k, 0]``
    into sqrt(2) * k / rms(k) and zeros. Their product over sqrt(2D) is g sqrt(2) / sqrt(1 + c²) = s times the original.
    """
    heads, head_dim = part.num_heads, part.head_dim
    key, value = (weight.view(heads, head_dim, -1) for weight in part.key_value.weight.chunk(2))
    query = part.query.weight.view(heads, head_dim, -1)
    scales = part.log_scale.exp()
    gain = scales.max() / 2**0.5
    beside = ((scales.max() / scales) ** 2 - 1).clamp(min=0).sqrt()[:, None, None]
    nothing = torch.zeros_like(key)
    output = part.output.weight.view(-1, heads, head_dim)
    return {
        "self_attn.q_proj.weight": torch.cat([query, beside * query], 1).flatten(0, 1),
        "self_attn.k_proj.weight": torch.cat([key, nothing], 1).flatten(0, 1),
        "self_attn.v_proj.weight": torch.cat([value, nothing], 1).flatten(0, 1),
        "self_attn.o_proj.weight": torch.cat([output, torch.zeros_like(output)], 2).flatten(1),
        "self_attn.q_norm.weight": gain.expand(2 * head_dim),
        "self_attn.k_norm.weight": torch.ones(2 * head_dim),
    }


def _feed_forward_weights(part: FeedForward) -> dict[str, Tensor]:
    gate, up = part.gate_up.weight.chunk(2)
    return {"mlp.gate_proj.weight": gate, "mlp.up_proj.weight": up, "mlp.down_proj.weight": part.down.weight}
