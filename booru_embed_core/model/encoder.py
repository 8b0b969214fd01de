"""The whole network: token ids to an embedding and to tag scores. Reads top to bottom.

Design choices:

* A caption is a set: no positions, no causal mask; the output does not change when tags are permuted.
* A token is a tag: its vector is the tag's plus its category's. The decoder uses the same tag vectors.
* Every set begins with the summary token, so that an empty caption has a state. The pooling block attends with the
  summary token as its only query, which costs next to nothing.
* With `feed_forward_first`, a block's feed-forward comes before its attention. Without positions, the first one depends
  only on the tag, so a CPU computes it once per tag of the vocabulary instead of once per token.
* Pre-RMSNorm without gains, QK-norm, SwiGLU, no biases: stable at high learning rates, with nothing to tune.
* The bottleneck is a Matryoshka embedding: its prefixes work on their own. The decoder reads the unit-length vector:
  what predicts tags is exactly what a user gets.
* `trunk="deepsets"` is the control: feed-forward blocks and a mean instead of attention between tags.

Shape legend: T tokens, S sets, d width, E embedding_dim, V tags.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from booru_embed_core.model.attention import SetLayout, attend, order_by_length, pick_backend
from booru_embed_core.model.pooled_states import pool, pool_values
from booru_embed_core.model.rows import take_rows
from booru_embed_core.schema import NUM_CATEGORIES, RATINGS, SPECIAL_TOKENS, SUMMARY_TOKEN
from booru_embed_core.settings import ModelSettings

SUMMARY_ID: Final = SPECIAL_TOKENS.index(SUMMARY_TOKEN)


class EncoderConfig(BaseModel):
    """The network's shape: the model settings and the vocabulary's sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: ModelSettings
    num_special: int
    category_sizes: tuple[int, ...]
    """Number of tags per category, in schema order; token ids of a category are contiguous, in the same order."""

    @property
    def num_tags(self) -> int:
        """V: the tags that can be predicted."""
        return sum(self.category_sizes)

    @property
    def num_tokens(self) -> int:
        """Rows of the embedding table: special tokens, then tags."""
        return self.num_special + self.num_tags


class Linear(nn.Linear):
    """A linear map without bias; computes in its input's dtype, with float32 weights."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rms_norm(x: Tensor) -> Tensor:
    """`x` scaled to a root mean square of 1 along the last dimension, without a gain (Zhang & Sennrich 2019)."""
    if x.is_cuda:
        return F.rms_norm(x, (x.shape[-1],))
    if torch.is_inference_mode_enabled():
        return x * _inverse_rms(x)  # calling a function of autograd takes longer than the norms of a caption
    normed: Tensor = _RmsNorm.apply(x)  # type: ignore[no-untyped-call]
    return normed


def _inverse_rms(x: Tensor) -> Tensor:
    """One over the root mean square of each row."""
    root: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
    return root.clamp(min=1e-6).reciprocal()


class _RmsNorm(torch.autograd.Function):
    """On CPU torch's RMSNorm and its gradient take 13 passes over memory; these take 5.

    With y = x / rms(x) and g the gradient of y, the gradient of x is (g - y * mean(g * y)) / rms(x).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = _inverse_rms(x)
        y: Tensor = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        y, inverse = ctx.saved_tensors
        projection = (grads[0] * y).mean(-1, keepdim=True)
        return torch.addcmul(grads[0], y, projection, value=-1).mul_(inverse)


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up``, where gate and up are the two halves of the last dimension."""
    if gate_up.is_cuda:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    if torch.is_inference_mode_enabled():
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)
    return _SwiGLU.apply(gate_up)  # type: ignore[no-any-return, no-untyped-call]


class _SwiGLU(torch.autograd.Function):
    """On CPU, autograd would concatenate the two gradients with a copy; here both are written in place."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        ctx.save_for_backward(gate_up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad = torch.empty_like(gate_up)
        grad_gate, grad_up = grad.chunk(2, dim=-1)
        torch.mul(grads[0], F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=grad_gate)
        return grad


class Attention(nn.Module):
    """Multi-head attention within each set, with RMS-normalised queries and keys (Henry et al. 2020)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.num_heads = settings.num_heads
        self.head_dim = settings.width // settings.num_heads
        self.query = Linear(settings.width, settings.width)
        self.key_value = Linear(settings.width, 2 * settings.width)
        self.output = Linear(settings.width, settings.width)
        # QK-norm fixes the norms, so the softmax needs a temperature; it starts at 1/sqrt(head_dim).
        self.log_scale = nn.Parameter(torch.zeros(self.num_heads))

    def forward(self, states: Tensor, layout: SetLayout, rows: Tensor | None = None) -> Tensor:
        """Self-attention ``[T, d]`` of states ``[T, d]``, or of distinct states ``[R, d]`` looked up by `rows`."""
        mixed = attend(*self.project(states, states), layout, rows)
        return self.output(mixed.flatten(1))  # type: ignore[no-any-return]

    def pool(self, query_states: Tensor, states: Tensor, layout: SetLayout) -> Tensor:
        """Attention ``[S, d]`` of one query state per set ``[S, d]`` over token states ``[T, d]``."""
        if layout.backend != "buckets":
            return self.output(pool(*self.project(query_states, states), layout).flatten(1))  # type: ignore[no-any-return]
        key_weight, value_weight = self.key_value.weight.to(states.dtype).chunk(2)
        keys = rms_norm(F.linear(states, key_weight).view(-1, self.num_heads, self.head_dim))
        mixed = pool_values(self.queries(query_states), keys, states, value_weight, layout)
        return self.output(mixed)  # type: ignore[no-any-return]

    def project(self, query_states: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[Q, H, D]`` of states ``[Q, d]``, and keys and values ``[T, H, D]`` of states ``[T, d]``."""
        heads = (-1, self.num_heads, self.head_dim)
        queries = self.queries(query_states)
        keys, values = self.key_value(states).chunk(2, dim=-1)
        return queries, rms_norm(keys.view(heads)), values.view(heads)

    def queries(self, states: Tensor) -> Tensor:
        """Queries ``[Q, H, D]`` of states ``[Q, d]``: normalised, then scaled by each head's temperature."""
        scale = self.log_scale.exp().to(states.dtype)[:, None]
        return rms_norm(self.query(states).view(-1, self.num_heads, self.head_dim)) * scale


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * inner_width)
        self.down = Linear(inner_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Feed-forward and attention, both pre-norm and residual; without attention for DeepSets."""

    def __init__(self, settings: ModelSettings, with_attention: bool) -> None:
        super().__init__()
        self.feed_forward_first = settings.feed_forward_first
        self.attention = Attention(settings) if with_attention else None
        self.feed_forward = FeedForward(settings.width, settings.ffn_width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, layout: SetLayout, rows: Tensor | None = None) -> Tensor:
        """States ``[T, d]`` after the block.

        Args:
            x: token states ``[T, d]``, or distinct ones ``[R, d]``.
            layout: the sets of the tokens.
            rows: int64 ``[T]``: each token's row of `x`; None if it has a row per token.
        """
        states = self.before_attention(x)
        x = states if rows is None else take_rows(states, rows)
        if self.attention is not None:
            x = x + self.dropout(self.attention(rms_norm(states), layout, rows))
        return self.after_attention(x)

    def before_attention(self, x: Tensor) -> Tensor:
        """`x` ``[…, d]`` after the part of the block that depends on no other token."""
        return self._fed_forward(x) if self.feed_forward_first else x

    def after_attention(self, x: Tensor) -> Tensor:
        """The block's result ``[…, d]`` of `x` with attention added."""
        return x if self.feed_forward_first else self._fed_forward(x)

    def _fed_forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.feed_forward(rms_norm(x)))  # type: ignore[no-any-return]


class Pool(nn.Module):
    """One state per set: the summary token attends over its set (Lee et al. 2019, PMA); DeepSets takes the mean."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.attention = Attention(settings) if settings.trunk == "attention" else None
        self.feed_forward = FeedForward(settings.width, settings.ffn_width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, layout: SetLayout) -> Tensor:
        """The pooled states ``[S, d]`` of token states ``[T, d]``."""
        first = layout.cu_seqlens[:-1].long()
        if self.attention is None:
            lengths, states = layout.cu_seqlens.diff(), x.float()
            sets = torch.repeat_interleave(torch.arange(layout.num_sets, device=x.device), lengths, output_size=len(x))
            sums = torch.zeros(layout.num_sets, x.shape[-1], dtype=torch.float32, device=x.device)
            if layout.weights is not None:
                states = states * layout.weights[:, None]
                lengths = sums.new_zeros(layout.num_sets).index_add(0, sets, layout.weights)
            pooled = sums.index_add(0, sets, states) * lengths[:, None].rsqrt()
            pooled = rms_norm(pooled).to(x.dtype)
        else:
            normed = rms_norm(x)
            summary = x.index_select(0, first)
            pooled = summary + self.dropout(self.attention.pool(rms_norm(summary), normed, layout))
        return pooled + self.dropout(self.feed_forward(rms_norm(pooled)))  # type: ignore[no-any-return]


class SetEncoder(nn.Module):
    """The set encoder: token ids to states, embedding and tag scores.

    Weights are float32. `states` computes in the given dtype, everything after the pool in float32.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        settings = config.settings
        width, dim = settings.width, settings.embedding_dim
        self.tokens = nn.Embedding(config.num_tokens, width)
        self.categories = nn.Embedding(NUM_CATEGORIES, width)
        self.blocks = nn.ModuleList(
            Block(settings, with_attention=settings.trunk == "attention") for _ in range(settings.num_layers)
        )
        self.pool = Pool(settings)
        self.bottleneck = Linear(width, dim)
        self.decoder_in = Linear(dim, width)
        self.decoder = FeedForward(width, settings.decoder_width)
        self.head = FeedForward(width, settings.decoder_width)
        self.tag_bias: Tensor = nn.Parameter(torch.zeros(config.num_tags))
        self.rating_head = Linear(dim, len(RATINGS))
        self.score_head = Linear(dim, 1)
        sizes = torch.tensor(config.category_sizes, device="cpu")  # also where the weights are made on no device
        each = torch.arange(NUM_CATEGORIES, device="cpu")
        categories = torch.repeat_interleave(each, sizes, output_size=config.num_tags)
        self.register_buffer("tag_category", categories, persistent=False)
        self.tag_category: Tensor
        self._initialise()

    def _initialise(self) -> None:
        depth = max(1, 2 * len(self.blocks))
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                # Residual branches start small, so that the scale of the states does not depend on the depth.
                is_branch = name.endswith(("attention.output", "feed_forward.down"))
                scale = math.sqrt(module.in_features * (depth if is_branch else 1))
                nn.init.normal_(module.weight, std=1 / scale)
        nn.init.normal_(self.tokens.weight, std=self.config.settings.width**-0.5)
        nn.init.zeros_(self.categories.weight)
        nn.init.zeros_(self.rating_head.weight)
        nn.init.zeros_(self.score_head.weight)

    @torch.no_grad()
    def start_from_frequencies(self, shares: Tensor) -> None:
        """Sets the bias of each tag's score to the log of its share of posts (float ``[V]``).

        Otherwise the first few hundred steps only learn which tags are common. An unknown token's count is in uses,
        and a post may have several, so shares are capped at 1.
        """
        self.tag_bias.copy_(shares.clamp(min=1e-7, max=1).log())

    def tag_vectors(self) -> Tensor:
        """float32 ``[V, d]``: each tag's vector plus its category's, shared by encoder and decoder."""
        vectors: Tensor = self.tokens.weight[self.config.num_special :] + self.categories(self.tag_category)
        return vectors

    def score_bias(self) -> Tensor:
        """float32 ``[V]``: what the objective adds to each tag's score."""
        return self.tag_bias

    def input_vectors(self) -> Tensor:
        """float32 ``[R, d]``: what the first block reads for each of the R token ids."""
        return rms_norm(torch.cat([self.tokens.weight[: self.config.num_special], self.tag_vectors()]))

    def token_vectors(self, token_ids: Tensor) -> Tensor:
        """float32 ``[R, d]``: the encoder's input vectors of `token_ids` (int64 ``[R]``)."""
        vectors: Tensor = self.tokens(token_ids)
        is_tag = token_ids >= self.config.num_special
        categories = self.tag_category[token_ids[is_tag] - self.config.num_special]
        return vectors.index_put((is_tag,), self.categories(categories), accumulate=True)

    def states(self, token_ids: Tensor, layout: SetLayout, dtype: torch.dtype) -> Tensor:
        """The token states before the pool, ``[T, d]`` in `dtype`; each set must begin with the summary token."""
        table = self.input_vectors()
        # Without positions, the first block's projections depend only on the token. A CPU computes them once per table
        # row if there are fewer rows than tokens. On a GPU, summing gradients by row costs more than the matmuls.
        rows = token_ids if layout.backend == "buckets" and len(table) < len(token_ids) else None
        x = (table if rows is not None else F.embedding(token_ids, table)).to(dtype)
        for block in self.blocks:
            x, rows = block(x, layout, rows), None
        return x

    def forward(
        self,
        token_ids: Tensor,
        lengths: Tensor,
        max_seqlen: int,
        dtype: torch.dtype = torch.float32,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The pooled state of each set, float32 ``[S, d]``, in the order of the input.

        Args:
            token_ids: int64 ``[T]``, packed sets, each beginning with the summary token.
            lengths: int64 ``[S]``, each at least 1.
            max_seqlen: an upper bound of `lengths`, known on the host.
            dtype: the trunk's compute dtype.
            weights: float32 ``[T]``, above 0: a token of weight w counts as w copies of itself. None if all are 1.
        """
        backend = pick_backend(token_ids.device, dtype, weights is not None)
        heads = self.config.settings.num_heads
        if backend != "buckets":
            layout = SetLayout.build(lengths, max_seqlen, heads, backend)
            return rms_norm(self.pool(self.states(token_ids, layout, dtype), layout).float())
        order = order_by_length(lengths)
        tokens = token_order(lengths, order)
        in_order = None if weights is None else weights[tokens]
        layout = SetLayout.build(lengths[order], max_seqlen, heads, backend, weights=in_order)
        pooled = self.pool(self.states(token_ids[tokens], layout, dtype), layout)
        return rms_norm(pooled.float())[torch.argsort(order)]

    def embed(self, pooled: Tensor) -> Tensor:
        """The bottleneck before normalisation, float32 ``[S, E]``, of pooled states ``[S, d]``."""
        return self.bottleneck(pooled)  # type: ignore[no-any-return]

    def decode(self, embedding: Tensor) -> Tensor:
        """The decoder state, float32 ``[S, d]``, of an embedding or a zero-padded prefix of it ``[S, E]``.

        The embedding is scaled to unit length first. `tag_scores` turns the state into logits.
        """
        unit = F.normalize(embedding, dim=-1) * math.sqrt(self.config.settings.embedding_dim)
        hidden = self.decoder_in(unit)
        return rms_norm(hidden + self.decoder(rms_norm(hidden)))

    def complete(self, pooled: Tensor) -> Tensor:
        """The completion head's state, float32 ``[S, d]``: like `decode`, but from the state before the bottleneck."""
        return rms_norm(pooled + self.head(pooled))

    def tag_scores(self, decoded: Tensor) -> Tensor:
        """Logits of all tags, float32 ``[S, V]``, from decoded states ``[S, d]``."""
        return F.linear(decoded, self.tag_vectors()) + self.tag_bias


def token_order(lengths: Tensor, order: Tensor) -> Tensor:
    """int64 ``[T]``: indices of the tokens of the sets in `order`, given the `lengths` of all sets, int64 ``[S]``.

    `order` may leave sets out.
    """
    starts = torch.cumsum(lengths, 0) - lengths
    new_lengths = lengths[order]
    new_starts = torch.cumsum(new_lengths, 0) - new_lengths
    total = int(new_lengths.sum())
    shift = torch.repeat_interleave(starts[order] - new_starts, new_lengths, output_size=total)
    return shift + torch.arange(total, device=lengths.device)
