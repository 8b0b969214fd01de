"""The training objective: predict one part of a caption from the other.

Each caption is split at random into two sets, and each set predicts the tags of the other. The loss of a set, with H
the tags to predict and N every tag that the caption does not have::

    L = 1/|H| * sum over h in H of [ log(exp s_h + sum over n in N of exp s_n) - s_h ]

Each hidden tag competes only with true negatives: the other hidden tags are correct too, and visible tags are never
targets. A separate term, ``-log(1 - P_visible)``, penalises scoring visible tags; its weight is a setting. InfoNCE
pulls the two embeddings of a caption together, away from those of other captions. The embedding also predicts rating
and score where these were withheld from the input.

What belongs here: the split, the loss and its terms.

Shape legend: T tags of the batch's captions, N captions, 2N sets (all first sets, then all second sets), V tags.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from booru_embed_core.model.encoder import SUMMARY_ID, SetEncoder
from booru_embed_core.model.output_layer import MAX_BYTES, log_sum_of_others
from booru_embed_core.model.rank_shard import SINGLE_RANK, RankShard
from booru_embed_core.schema import NUM_SCORE_BINS, RATING_TOKENS, SCORE_TOKENS, SPECIAL_TOKENS
from booru_embed_core.settings import TrainingSettings

FIRST_RATING_ID = SPECIAL_TOKENS.index(RATING_TOKENS[0])
FIRST_SCORE_ID = SPECIAL_TOKENS.index(SCORE_TOKENS[0])
_MEAN_SCORE_BIN = (NUM_SCORE_BINS - 1) / 2
_SCORE_BIN_DEVIATION = math.sqrt((NUM_SCORE_BINS**2 - 1) / 12)  # of a uniform distribution over the deciles

TERMS: Final = ("bottleneck", "head", "duplicates", "contrastive", "metadata")
"""Names of the loss terms."""


@dataclass(frozen=True)
class CaptionBatch:
    """A batch of whole captions on the device."""

    tags: Tensor
    """int64 ``[T]``: tag indices (``token_id - num_special``), caption after caption."""
    lengths: Tensor
    """int64 ``[N]``: tags per caption, 0 allowed."""
    ratings: Tensor
    """int64 ``[N]``: index into ``schema.RATINGS``."""
    score_bins: Tensor
    """int64 ``[N]``: decile of the score among training posts of the same rating."""
    max_length: int
    """Tags of the longest caption, known on the host."""


@dataclass(frozen=True)
class CaptionViews:
    """Two random views of each caption, as in contrastive learning: sets ``i`` and ``i + N`` split caption ``i``."""

    token_ids: Tensor
    """int64 ``[T + prefixes]``: encoder input. Each set is a summary token, an optional rating and score, and tags."""
    lengths: Tensor
    """int64 ``[2N]``: tokens per set."""
    tag_sets: Tensor
    """int64 ``[T]``: the set in which each tag is visible; the caption's other set predicts it."""
    rating_given: Tensor
    """bool ``[2N]``: whether the set's input has the rating."""
    score_given: Tensor
    """bool ``[2N]``: whether the set's input has the score decile."""


def read_tokens(
    tags: Tensor, sets: Tensor, num_sets: int, num_special: int, ratings: Tensor | None, score_bins: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The encoder's input: token ids int64 ``[T + prefixes]`` and lengths int64 ``[num_sets]``.

    Args:
        tags: int64 ``[T]`` tag indices, in any order.
        sets: int64 ``[T]``, the set of each tag.
        num_sets: number of sets, including empty ones.
        num_special: the token id of tag 0.
        ratings: int64 ``[num_sets]``, -1 for none.
        score_bins: int64 ``[num_sets]``, -1 for none.
    """
    every_set = torch.arange(num_sets, device=tags.device)
    ids, owners = [torch.full_like(every_set, SUMMARY_ID)], [every_set]
    for values, first_id in ((ratings, FIRST_RATING_ID), (score_bins, FIRST_SCORE_ID)):
        if values is not None:
            given = values >= 0
            ids.append(values[given] + first_id)
            owners.append(every_set[given])
    all_sets = torch.cat([*owners, sets])
    order = torch.argsort(all_sets, stable=True)
    return torch.cat([*ids, tags + num_special])[order], torch.bincount(all_sets, minlength=num_sets)


@dataclass(frozen=True)
class Split:
    """A random split of the captions of a batch."""

    tag_sets: Tensor
    """int64 ``[T]``: the set in which each tag is visible."""
    rating_given: Tensor
    """bool ``[2N]``: whether the set's input has the rating."""
    score_given: Tensor
    """bool ``[2N]``: whether the set's input has the score decile."""

    def num_with_targets(self) -> Tensor:
        """The number of sets that have at least one tag to predict."""
        num_sets = len(self.rating_given)
        predicting = (self.tag_sets + num_sets // 2) % max(1, num_sets)
        return (torch.bincount(predicting, minlength=num_sets) > 0).sum()


def draw_split(captions: CaptionBatch, settings: TrainingSettings, generator: torch.Generator) -> Split:
    """A random split of each caption, each tag drawn independently.

    A tag falls into its caption's first set with a probability drawn per caption: the mean of
    ``settings.split_draws`` uniform numbers in (0, 1). More draws bring it closer to one half.
    """
    num, device = captions.lengths.numel(), captions.tags.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    owners = torch.repeat_interleave(
        torch.arange(num, device=device), captions.lengths, output_size=captions.tags.numel()
    )
    second = uniform(captions.tags.numel()) >= uniform(settings.split_draws, num).mean(0)[owners]
    rating_given = uniform(2 * num) < settings.metadata_keep_share
    score_given = uniform(2 * num) < settings.metadata_keep_share
    return Split(owners + num * second, rating_given, score_given)


def take_shard(captions: CaptionBatch, split: Split, shard: RankShard) -> tuple[CaptionBatch, Split]:
    """One rank's captions and their split. The split is drawn for the whole batch, so ranks do not affect it."""
    num, device = captions.lengths.numel(), captions.tags.device
    rows = shard.rows(num, device)
    local = torch.full((num,), -1, device=device).index_copy(0, rows, torch.arange(len(rows), device=device))
    owners = local[split.tag_sets % num]
    mine, sets = owners >= 0, torch.cat([rows, rows + num])
    taken = CaptionBatch(
        captions.tags[mine],
        captions.lengths[rows],
        captions.ratings[rows],
        captions.score_bins[rows],
        captions.max_length,
    )
    tag_sets = (owners + len(rows) * (split.tag_sets >= num))[mine]
    return taken, Split(tag_sets, split.rating_given[sets], split.score_given[sets])


def caption_views(captions: CaptionBatch, split: Split, num_special: int) -> CaptionViews:
    """The two views of each caption by `split`, as encoder input."""
    ratings = torch.where(split.rating_given, captions.ratings.repeat(2), -1)
    score_bins = torch.where(split.score_given, captions.score_bins.repeat(2), -1)
    num_sets = len(split.rating_given)
    token_ids, lengths = read_tokens(captions.tags, split.tag_sets, num_sets, num_special, ratings, score_bins)
    return CaptionViews(token_ids, lengths, split.tag_sets, split.rating_given, split.score_given)


def split_captions(
    captions: CaptionBatch, num_special: int, settings: TrainingSettings, generator: torch.Generator
) -> CaptionViews:
    """Two views of each caption, split at random."""
    return caption_views(captions, draw_split(captions, settings, generator), num_special)


@dataclass(frozen=True)
class Losses:
    """Loss and its terms, float32 scalars: means over the batch's sets, or one rank's contribution to them."""

    total: Tensor
    """The weighted sum. Summed over ranks, its gradients are the batch's; its value is so only on a single rank."""
    terms: dict[str, Tensor]
    """The terms by name. Summed over ranks, they are the batch's."""


def weighted_total(terms: Mapping[str, Tensor], settings: TrainingSettings) -> Tensor:
    """The weighted sum of `terms`."""
    return (
        terms["bottleneck"]
        + terms["head"]
        + settings.duplicate_weight * terms["duplicates"]
        + settings.contrastive_weight * terms["contrastive"]
        + settings.metadata_weight * terms["metadata"]
    )


def tag_losses(
    decoded: Tensor,
    vectors: Tensor,
    bias: Tensor,
    captions: CaptionBatch,
    views: CaptionViews,
    max_bytes: int = MAX_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """Per set ``[2N]``: the true-negatives loss, ``-log(1 - P_visible)``, both float32, and whether it has targets.

    Args:
        decoded: float32 ``[2N, d]``, the states that score tags.
        vectors: float32 ``[V, d]``, the tag vectors.
        bias: float32 ``[V]``, the bias of each tag's score.
        captions: the whole captions.
        views: their split.
        max_bytes: see `output_layer.MAX_BYTES`.
    """
    num = captions.lengths.numel()
    visible_in, hidden_in = views.tag_sets, (views.tag_sets + num) % (2 * num)
    negatives, own = log_sum_of_others(
        decoded, vectors, bias, torch.cat([hidden_in, visible_in]), captions.tags.repeat(2), max_bytes
    )
    hidden_scores, visible_scores = own.chunk(2)

    num_hidden = torch.bincount(hidden_in, minlength=2 * num)
    per_tag = F.softplus(negatives[hidden_in] - hidden_scores)
    per_set = torch.zeros_like(negatives).index_add(0, hidden_in, per_tag) / num_hidden.clamp(min=1)
    allowed = torch.logaddexp(negatives, _segment_logsumexp(hidden_scores, hidden_in, 2 * num))
    visible = _segment_logsumexp(visible_scores, visible_in, 2 * num)
    # -log(1 - P_visible) = log(sum over all tags) - log(sum over all but visible tags)
    duplicates = F.softplus(visible - allowed)
    return per_set, duplicates, num_hidden > 0


def _segment_logsumexp(values: Tensor, segments: Tensor, num_segments: int) -> Tensor:
    """Log-sum-exp of each segment, float32 ``[num_segments]``; -1e4 for an empty segment."""
    floor = torch.full((num_segments,), -1e4, dtype=values.dtype, device=values.device)
    highest = floor.scatter_reduce(0, segments, values.detach(), "amax")
    sums = torch.zeros_like(highest).index_add(0, segments, (values - highest[segments]).exp())
    return torch.where(sums > 0, sums, torch.ones_like(sums)).log() + highest


def contrastive_loss(embedding: Tensor, temperature: float, max_bytes: int = MAX_BYTES) -> Tensor:
    """InfoNCE between the two views of each caption, in both directions (van den Oord et al. 2018): a scalar.

    Args:
        embedding: float32 ``[2N, E]``, not necessarily of unit length.
        temperature: divides the cosine.
        max_bytes: see `output_layer.MAX_BYTES`.
    """
    first, second = F.normalize(embedding, dim=-1).chunk(2)
    none = torch.empty(0, dtype=torch.int64, device=embedding.device)
    sums = [
        log_sum_of_others(a / temperature, b, None, none, none, max_bytes)[0]
        for a, b in ((first, second), (second, first))
    ]
    return (torch.stack(sums).mean(0) - (first * second).sum(-1) / temperature).mean()


def random_prefixes(
    embedding: Tensor,
    dims: tuple[int, ...],
    generator: torch.Generator,
    num: int | None = None,
    shard: RankShard = SINGLE_RANK,
    whole_share: float = 0.5,
) -> Tensor:
    """`embedding` ``[S, E]``, each row zeroed beyond a random Matryoshka prefix; a share of the rows stays whole.

    One random prefix per row trains all prefixes at the cost of one; Kusupati et al. (2022, §3) sum over them.

    Args:
        embedding: float32, one row per set of this rank.
        dims: lengths of the prefixes.
        generator: draws a prefix for every set of the batch.
        num: number of captions in the batch, over all ranks; None with a single rank.
        shard: this rank's captions.
        whole_share: share of the rows that stay whole; the others are divided evenly between the prefixes.
    """
    if not dims:
        return embedding
    full = embedding.shape[-1]
    choices = torch.tensor([*dims, full], device=embedding.device)
    num_drawn = len(embedding) if num is None else 2 * num
    drawn = torch.rand(num_drawn, generator=generator, device=embedding.device)
    picked = (drawn * (len(dims) / (1 - whole_share))).long().clamp(max=len(dims))
    if shard.num_ranks > 1:
        rows = shard.rows(num_drawn // 2, embedding.device)
        picked = picked[torch.cat([rows, rows + num_drawn // 2])]
    kept = torch.arange(full, device=embedding.device)[None, :] < choices[picked][:, None]
    return embedding * kept


def objective(
    model: SetEncoder,
    captions: CaptionBatch,
    settings: TrainingSettings,
    generator: torch.Generator,
    dtype: torch.dtype,
    encode: Callable[..., Tensor] | None = None,
    shard: RankShard = SINGLE_RANK,
) -> Losses:
    """The loss of a batch that `generator` splits at random; `encode` replaces `model.forward`.

    total = L(bottleneck) + L(head) + duplicate_weight * duplicates + contrastive_weight * InfoNCE
    + metadata_weight * [CE(rating) + 2 MSE(score decile, in standard deviations)]

    Every rank gets the whole batch, draws random numbers for all of it and computes its `shard`. Means are over the
    whole batch.
    """
    split, num = draw_split(captions, settings, generator), captions.lengths.numel()
    num_with_targets = split.num_with_targets().clamp(min=1)
    withheld = ((~split.rating_given).sum().clamp(min=1), (~split.score_given).sum().clamp(min=1))
    if shard.num_ranks > 1:
        captions, split = take_shard(captions, split, shard)
    views = caption_views(captions, split, model.config.num_special)
    pooled = (encode or model)(views.token_ids, views.lengths, captions.max_length + 3, dtype)
    embedding = model.embed(pooled)
    prefixes = random_prefixes(
        embedding, model.config.settings.matryoshka_dims, generator, num, shard, settings.whole_share
    )
    terms: dict[str, Tensor] = {}
    duplicates = []
    vectors = model.tag_vectors()
    for name, decoded in (("bottleneck", model.decode(prefixes)), ("head", model.complete(pooled))):
        per_set, duplicate, has_targets = tag_losses(decoded, vectors, model.score_bias(), captions, views)
        terms[name] = (per_set * has_targets).sum() / num_with_targets
        duplicates.append(duplicate.sum() / (2 * num))
    terms["duplicates"] = torch.stack(duplicates).mean()
    terms["contrastive"] = contrastive_loss(shard.whole(embedding, num), settings.contrastive_temperature)
    terms["metadata"] = _metadata_loss(model, embedding, captions, views, withheld)
    if shard.num_ranks == 1:
        return Losses(weighted_total(terms, settings), terms)
    weight = shard.weight(num)
    own = {name: term if name == "contrastive" else weight * term for name, term in terms.items()}
    # Every rank computes all of InfoNCE, with the gradient of its own embeddings.
    return Losses(weighted_total(own, settings), {**own, "contrastive": terms["contrastive"] / shard.num_ranks})


def _metadata_loss(
    model: SetEncoder, embedding: Tensor, captions: CaptionBatch, views: CaptionViews, withheld: tuple[Tensor, Tensor]
) -> Tensor:
    unit = F.normalize(embedding, dim=-1) * math.sqrt(embedding.shape[-1])
    rating = F.cross_entropy(model.rating_head(unit), captions.ratings.repeat(2), reduction="none")
    target = (captions.score_bins.repeat(2) - _MEAN_SCORE_BIN) / _SCORE_BIN_DEVIATION
    score = (model.score_head(unit)[:, 0] - target).square()
    num_ratings, num_scores = withheld
    rating_loss: Tensor = (rating * ~views.rating_given).sum() / num_ratings
    score_loss: Tensor = (score * ~views.score_given).sum() / num_scores
    return rating_loss + 2 * score_loss
