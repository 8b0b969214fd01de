"""The evaluation of a checkpoint as a stage: one process or several ranks, in parts that an interruption leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from booru_embed_core.evaluation.evaluation_file import EVALUATION_FILE, REPORT_FILE
from booru_embed_core.evaluation.markdown import render_markdown
from booru_embed_core.evaluation.model_parts import PART_POSTS
from booru_embed_core.evaluation.report import help_to_evaluate, run_evaluation
from booru_embed_core.evaluation.scorers import model_scorers
from booru_embed_core.filesystem import file_sha256
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.training.checkpoint import load_checkpoint
from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE
from booru_embed_core.training.distributed import ONE_RANK, Ranks
from booru_embed_core.training.hardware import pick_device
from booru_embed_core.training.parts import Parts

_FORMAT: Final = 1
"""Of the parts: raise it when results change."""


def evaluate_checkpoint(
    checkpoint_dir: Path,
    packed_path: Path,
    out_dir: Path,
    work_dir: Path,
    settings: EvaluationSettings,
    device: str = "auto",
    log: Callable[[str], object] = print,
    ranks: Ranks = ONE_RANK,
) -> None:
    """Evaluates a checkpoint on the test posts of a packed file; the first rank writes figures and report to `out_dir`.

    Every rank calls this with the same arguments. The bytes are the same for any number of ranks.

    Args:
        checkpoint_dir: folder of the model.
        packed_path: packed file of the posts, made with the checkpoint's vocabulary.
        out_dir: an existing folder.
        work_dir: an existing folder that keeps finished parts, so that the same call can resume. All ranks see it.
        settings: seed, baselines and their grids.
        device: as in `BooruEmbedder.load`.
        log: receives lines of progress.
        ranks: this one and the others.

    Raises:
        RankLostError: another rank ended; finished parts stay.
        ValueError: as `run_evaluation`; or the checkpoint was trained with other splits and may have seen the posts.
    """
    model, config, vocab = load_checkpoint(checkpoint_dir, pick_device(device))
    packed = PackedFile.open(packed_path, vocab.hash)
    if packed.split_settings != config.splits:
        raise ValueError(f"{checkpoint_dir}: trained with other splits than {packed_path} has; materialize checkpoint")
    made_from = _made_from(checkpoint_dir / WEIGHTS_FILE, packed_path, settings)
    ranks.check_agreement("the checkpoint, the packed file or [evaluation]", made_from[:16])
    parts = Parts(ranks, work_dir, made_from)
    dropped = vocab.implications if config.splits.drop_implied else None
    scorers = model_scorers(model, dropped, 4 * PART_POSTS)  # a part is scored by all of them in turn

    def report(line: str) -> None:
        log(line)

    if not ranks.is_first:
        help_to_evaluate(scorers, packed, vocab, settings, parts, report)
        return
    practice = (config.practice_note,) if config.practice_note else ()
    result = run_evaluation(scorers, packed, vocab, settings, report, practice, parts)
    (out_dir / EVALUATION_FILE).write_text(result.to_json() + "\n", encoding="utf-8")
    (out_dir / REPORT_FILE).write_text(render_markdown(result), encoding="utf-8")


def _made_from(weights: Path, packed_path: Path, settings: EvaluationSettings) -> str:
    """A hash of all that decides the figures."""
    decided = [file_sha256(weights), file_sha256(packed_path), settings.model_dump_json()]
    decided += [version("booru-embed"), str(_FORMAT)]
    return hashlib.sha256("\n".join(decided).encode()).hexdigest()
