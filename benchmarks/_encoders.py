"""Peer encoders of padded batches: booru-embed's own network, padded, and Hugging Face classes.

They train with booru-embed's objective, so that a step differs only in the encoder.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from booru_embed_core.model.encoder import Attention, EncoderConfig, FeedForward, SetEncoder

PEERS: Final = ("BertModel", "ModernBertModel")


def pad(token_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Sets padded to the longest: token ids int64 ``[S, L]``, 0 at padding, and the mask of tokens, bool ``[S, L]``.

    Args:
        token_ids: int64 ``[T]``, sets concatenated.
        lengths: int64 ``[S]``.
    """
    mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    return torch.zeros_like(mask, dtype=token_ids.dtype).masked_scatter_(mask, token_ids), mask


def padded_forward(model: SetEncoder, token_ids: Tensor, lengths: Tensor, _: int, dtype: torch.dtype) -> Tensor:
    """``model(token_ids, lengths, …)`` on a padded batch, with torch's own attention, RMSNorm and SwiGLU."""
    table = torch.cat([model.tokens.weight[: model.config.num_special], model.tag_vectors()])
    ids, mask = pad(token_ids, lengths)
    width = model.config.settings.width

    def norm(x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],))

    def attention(layer: Attention, queries: Tensor, states: Tensor) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], layer.num_heads, layer.head_dim)

        q = norm(heads(layer.query(queries))) * layer.log_scale.exp().to(dtype)[:, None]
        k, v = layer.key_value(states).chunk(2, dim=-1)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), norm(heads(k)).transpose(1, 2), heads(v).transpose(1, 2), attn_mask=mask[:, None, None]
        )
        return layer.output(mixed.transpose(1, 2).reshape(*queries.shape[:2], width))

    def feed_forward(layer: FeedForward, x: Tensor) -> Tensor:
        gate, up = layer.gate_up(x).chunk(2, dim=-1)
        return layer.down(F.silu(gate) * up)

    x = norm(F.embedding(ids, table)).to(dtype)
    for block in model.blocks:
        if block.feed_forward_first:
            x = x + feed_forward(block.feed_forward, norm(x))
        x = x + attention(block.attention, norm(x), norm(x))
        if not block.feed_forward_first:
            x = x + feed_forward(block.feed_forward, norm(x))
    summary = x[:, :1] + attention(model.pool.attention, norm(x[:, :1]), norm(x))
    return norm((summary + feed_forward(model.pool.feed_forward, norm(summary)))[:, 0].float())


class Peer(SetEncoder):
    """booru-embed with a Hugging Face class instead of blocks and pool; the summary token's state is the pooled state.

    Weights are float32 and autocast computes in bf16, as usual for these classes. The word embeddings are the tag
    vectors, so that both networks have the same table.
    """

    def __init__(self, config: EncoderConfig, trunk: nn.Module) -> None:
        super().__init__(config)
        self.blocks, self.pool = nn.ModuleList(), nn.Identity()
        trunk.set_input_embeddings(self.tokens)
        # The prefix "tokens" makes the optimizer treat position embeddings as vectors, not as a matrix.
        self.tokens_of_trunk = nn.ModuleList(part for part in trunk.modules() if isinstance(part, nn.Embedding))
        self.trunk = trunk

    def forward(self, token_ids: Tensor, lengths: Tensor, _: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """See `SetEncoder.forward`."""
        ids, mask = pad(token_ids, lengths)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            states = self.trunk(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return F.rms_norm(states[:, 0].float(), states.shape[-1:])


def peer(name: str, config: EncoderConfig, max_length: int, attention: str = "sdpa") -> Peer:
    """The `Peer` with class `name` of `PEERS`, with random weights and the same size as booru-embed.

    Width, heads and feed-forward weights are the same; one more block stands for the pool.

    Args:
        name: name of the class.
        config: the network's shape.
        max_length: tokens of the longest set.
        attention: Hugging Face's name of the attention implementation.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel

    shape = config.settings
    size = {
        "vocab_size": config.num_tokens,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.num_layers + 1,
        "num_attention_heads": shape.num_heads,
        "max_position_embeddings": max_length,
        "pad_token_id": 0,
        "attn_implementation": attention,
    }
    if name == "ModernBertModel":  # gated, like SwiGLU
        dropout = dict.fromkeys(("attention_dropout", "mlp_dropout", "embedding_dropout"), shape.dropout)
        # The class's default special ids are outside this vocabulary.
        none = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
        modern = ModernBertConfig(**size, **dropout, **none, intermediate_size=shape.ffn_width)
        return Peer(config, ModernBertModel(modern))
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), shape.dropout)
    bert = BertConfig(**size, **dropout, intermediate_size=shape.ffn_width * 3 // 2)
    return Peer(config, BertModel(bert, add_pooling_layer=False))


def installed_peers() -> dict[str, str]:
    """{"transformers": version}; empty if it is not installed, which is printed."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        print("  transformers is not installed; its classes are left out", flush=True)
        return {}
    return {"transformers": version("transformers")}
