"""``booru-embed from-tagger``: vectors of what an image tagger wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from booru_embed_core.cli.embed import (
    BatchSizeOption,
    DimOption,
    OnUnknown,
    OnUnknownOption,
    OutputOption,
    RestartOption,
    check_output,
    embed_source,
    expected_captions,
)
from booru_embed_core.cli.shared import (
    CHECKPOINT,
    CheckpointOption,
    JsonOption,
    RatingOption,
    ScoreOption,
    UsageError,
    load_embedder,
    say,
)

if TYPE_CHECKING:
    from booru_embed_core.embedder.tagger_captions import TaggerCounts, TaggerFile, TaggerRules

# As in ``embedder.tagger_captions``, which is imported late.
_THRESHOLD: Final = 0.05
_POWER: Final = 6.0
_MAX_POWER: Final = 100.0
_SHOWN: Final = 5
_SelectedTagsOption = Annotated[
    Path | None,
    typer.Option("--selected-tags", help="selected_tags.csv of the model, for categories.", metavar="FILE"),
]


def from_tagger(
    source: Annotated[
        Path,
        typer.Argument(
            help="A .json, .jsonl or .csv file of a tagger, or a folder of images with a file of tags beside each."
        ),
    ],
    output: OutputOption = None,
    selected_tags: _SelectedTagsOption = None,
    general_threshold: Annotated[
        float, typer.Option("--general-threshold", min=0, max=1, help="Minimal score of a tag.")
    ] = _THRESHOLD,
    character_threshold: Annotated[
        float, typer.Option("--character-threshold", min=0, max=1, help="Minimal score of a character.")
    ] = _THRESHOLD,
    power: Annotated[
        float,
        typer.Option(
            "--power", min=0, max=_MAX_POWER, help="A tag weighs its score to this power; 0 weighs all alike."
        ),
    ] = _POWER,
    on_unknown: OnUnknownOption = OnUnknown.RAISE,
    batch_size: BatchSizeOption = 1024,
    restart: RestartOption = False,
    checkpoint: CheckpointOption = CHECKPOINT,
    rating: RatingOption = None,
    score: ScoreOption = None,
    dim: DimOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed the images that a tagger has scored: each becomes a caption of weighted tags."""
    if output is not None and as_json:
        raise UsageError("--output writes a file and --json prints: give one of them.")
    if restart and output is None:
        raise UsageError("--restart is for --output, which alone is resumed.")
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; name what the tagger wrote")
    from booru_embed_core.embedder.caption_files import InputFormat
    from booru_embed_core.embedder.job_identity import JobSettings
    from booru_embed_core.embedder.tagger_captions import TaggerFile, TaggerRules
    from booru_embed_core.embedder.tagger_files import read_selected_tags

    if output is not None:
        check_output(output, source)
    kinds = {} if selected_tags is None else read_selected_tags(selected_tags)
    embedder = load_embedder(checkpoint, rating, score, dim, num_captions=max(1, expected_captions(source)))
    rules = TaggerRules(general_threshold, character_threshold, power, kinds)
    tagged = TaggerFile(source, InputFormat.JSONL, tokenizer=embedder.tokenizer, rules=rules)
    settings = JobSettings(
        input_form="tagger",
        batch_size=batch_size,
        rating=rating and str(rating),
        score=score,
        dim=dim,
        on_unknown=on_unknown.value,
    )
    embed_source(embedder, checkpoint, tagged, output, settings, restart=restart, as_json=as_json)
    _say_scores(tagged, tagged.counts, rules)


def _say_scores(source: TaggerFile, counts: TaggerCounts, rules: TaggerRules) -> None:
    """Tells what became of the scores, so that they add up."""
    kinds = [f"{counts.num_kept:,} tags kept"]
    for kind, threshold in (("general", rules.general_threshold), ("character", rules.character_threshold)):
        if counts.num_below[kind]:
            kinds.append(f"{counts.num_below[kind]:,} below --{kind}-threshold {threshold:g}")
    if counts.num_ratings:
        kinds.append(f"{counts.num_ratings:,} of ratings")
    say(f"{source.name}: {counts.num_scores:,} scores: {', '.join(kinds)}")
    if counts.unknown:
        shown = ", ".join(f"{name} ({num:,})" for name, num in counts.unknown.most_common(_SHOWN))
        say(f"warning: kept tags outside the vocabulary: {len(counts.unknown):,}, with their images: {shown}")
    if counts.ratings:
        shown = ", ".join(f"{num:,} {letter}" for letter, num in sorted(counts.ratings.items()))
        say(f"note: by rating: {shown}; ratings are no tags: give --rating to embed all images with one")
    if source.untagged:
        shown = ", ".join(source.untagged[:_SHOWN])
        say(f"warning: {len(source.untagged):,} images without tags are left out, such as {shown}")
