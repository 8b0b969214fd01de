"""How many CPU seconds does the default training take, compared with an earlier one, and what does it reach?

It trains the default network on a warehouse's packed file, on a CPU with one thread, by the build in the folder
``--before`` (a checkout) and then by this one, for each seed. CPU seconds are those of `train`, with its validations.
Recall@10 is over the test split, with the tags hidden that the evaluation hides; R@1 is that of split-half retrieval.
``ratio`` is the time of this build over that of the other.

``--now`` and ``--before-settings`` take [training] keys as JSON, such as ``{"num_epochs": 4}``, and those of [model]
under ``model``. ``--steps`` alternates as many steps of both settings in this build, whose ratio other work on the
machine disturbs less. Without ``--before``, only this build trains.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from booru_embed_core.model.encoder import SetEncoder
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile

_ROOT: Final = Path(__file__).resolve().parents[1]
_HELD_OUT_SEED: Final = 7
_SCORERS: Final = ("embedding", "head", "64 numbers", "32 numbers", "16 numbers")
_UNTIMED_STEPS: Final = 2


def trained(vocab_dir: Path, packed_path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Cost and recall of a training in this process, with the `booru_embed_core` that it imports."""
    import torch

    from booru_embed_core.settings import ModelSettings, TrainingSettings
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile
    from booru_embed_core.training.checkpoint import load_checkpoint
    from booru_embed_core.training.loop import train

    torch.set_num_threads(1)
    model, settings = ModelSettings(**values.pop("model", {})), TrainingSettings(device="cpu", **values)
    vocab = Vocab.load(vocab_dir)
    with tempfile.TemporaryDirectory() as folder:
        out_dir = Path(folder, "checkpoint")
        out_dir.mkdir()
        started = time.process_time()
        report = train(packed_path, vocab_dir, Path(folder, "work"), out_dir, model, settings)
        seconds = time.process_time() - started
        network = load_checkpoint(out_dir)[0]
    cost = {"cpu_seconds": round(seconds, 1), "num_steps": report.num_steps, "num_epochs": settings.num_epochs}
    reached = recalls_of(network, PackedFile.open(packed_path, vocab.hash), vocab)
    return {"seed": settings.seed, **cost, "validation_loss": report.validation_loss, **reached}


def recalls_of(network: SetEncoder, packed: PackedFile, vocab: Vocab) -> dict[str, Any]:
    """Recall@10 of each scorer with one tag or half of them hidden, and R@1, over the test split."""
    from booru_embed_core.evaluation.metrics import evaluate_scorer, split_half_recall
    from booru_embed_core.evaluation.scorers import BottleneckScorer, PooledStates, model_scorers
    from booru_embed_core.evaluation.tasks import HIDES, hold_out
    from booru_embed_core.tokens.batches import rows_of_split
    from booru_embed_core.tokens.cooccurrence import captions_from_packed

    rows = rows_of_split(packed, "test")
    captions, post_ids = captions_from_packed(packed, vocab, rows), packed.post_id[rows]
    scorers, recalls = dict(zip(_SCORERS, model_scorers(network), strict=False)), {}
    for hide in HIDES:
        held_out = hold_out(captions, post_ids, hide, _HELD_OUT_SEED, vocab.is_unknown)
        for name, scorer in scorers.items():
            recalls[f"{hide}, {name}"] = round(evaluate_scorer(scorer, held_out)["recall@10"], 4)
    halves = hold_out(captions, post_ids, "half", _HELD_OUT_SEED, vocab.is_unknown)
    embed = BottleneckScorer(PooledStates(network)).embed
    return {"recall@10": recalls, "R@1": round(split_half_recall(embed(halves.visible), embed(halves.hidden)), 4)}


def alternated_steps(
    vocab_dir: Path, packed_path: Path, settings: tuple[dict[str, Any], dict[str, Any]], num_steps: int
) -> dict[str, Any]:
    """CPU seconds of a step with each of `settings`, medians, and the median and range of the ratio of the second."""
    import torch

    from booru_embed_core.settings import ModelSettings, TrainingSettings
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile
    from booru_embed_core.training.distributed import joined_ranks
    from booru_embed_core.training.loop import start_run
    from booru_embed_core.training.step import compute_step

    torch.set_num_threads(1)
    vocab = Vocab.load(vocab_dir)
    packed = PackedFile.open(packed_path, vocab.hash)
    seconds: list[list[float]] = [[], []]
    with joined_ranks() as ranks:
        runs = []
        for values in settings:
            training = {name: value for name, value in values.items() if name != "model"}
            shape = ModelSettings(**values.get("model", {}))
            runs.append(start_run(packed, vocab, shape, TrainingSettings(device="cpu", **training), ranks))
        for batches in zip(*(run.batches.read_from(0, 0, 1) for run in runs), strict=True):
            for run, batch, of_run in zip(runs, batches, seconds, strict=True):
                started = time.process_time()
                run.draw_tags(batch)
                compute_step(run, batch)
                run.take_step(run.settings.learning_rate / 10)
                of_run.append(time.process_time() - started)
            if len(seconds[0]) == _UNTIMED_STEPS + num_steps:
                break
    before, now = (of_run[_UNTIMED_STEPS:] for of_run in seconds)
    ratios = [second / first for first, second in zip(before, now, strict=True)]
    return {
        "num_steps": len(ratios),
        "before": round(statistics.median(before), 4),
        "now": round(statistics.median(now), 4),
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def _by_build(build: Path, warehouse: Path, values: dict[str, Any]) -> dict[str, Any]:
    """`trained` in a new process, with the code of the folder `build`."""
    done = subprocess.run(
        [sys.executable, __file__, "--train", *map(str, _inputs(warehouse)), "--now", json.dumps(values)],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(build), "OMP_NUM_THREADS": "1"},
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _inputs(warehouse: Path) -> tuple[Path, Path]:
    """The vocabulary's folder and the packed file of `warehouse`."""
    from booru_embed_core.tokens.packed_file import PACKED_FILE

    return warehouse / "vocab/current", warehouse / "packed_tokens/current" / PACKED_FILE


def compared(
    warehouse: Path,
    before: Path | None,
    seeds: list[int],
    now_values: dict[str, Any],
    before_values: dict[str, Any],
) -> list[dict[str, Any]]:
    """For each of `seeds`, the figures of the build in `before`, if any, of this one, and the ratio of CPU seconds."""
    found = []
    for seed in seeds:
        run: dict[str, Any] = {}
        if before is not None:
            run["before"] = _by_build(before, warehouse, {**before_values, "seed": seed})
        run["now"] = _by_build(_ROOT, warehouse, {**now_values, "seed": seed})
        if before is not None:
            run["ratio"] = round(run["now"]["cpu_seconds"] / run["before"]["cpu_seconds"], 3)
        found.append(run)
        print(json.dumps(run), flush=True)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Prints and writes the figures of both builds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warehouse", type=Path, default=Path("data/warehouse"))
    parser.add_argument("--before", type=Path, help="a checkout of the earlier build")
    parser.add_argument("--seeds", type=int, nargs="*", default=[7])
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--now", type=json.loads, default={})
    parser.add_argument("--before-settings", type=json.loads, default={})
    parser.add_argument("--train", type=Path, nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.train:
        vocab_dir, packed_path = chosen.train
        print(json.dumps(trained(vocab_dir, packed_path, chosen.now)))
        return
    if chosen.before is None and not chosen.steps:
        sys.exit("name a checkout of the earlier build with --before, or --steps")
    from benchmarks._results import write

    both = (chosen.before_settings, chosen.now)
    step = alternated_steps(*_inputs(chosen.warehouse), both, chosen.steps) if chosen.steps else None
    runs = compared(chosen.warehouse, chosen.before, chosen.seeds, chosen.now, chosen.before_settings)
    settings = {"now": chosen.now, "before_settings": chosen.before_settings}
    write("time_to_quality", {**settings, "step": step, "runs": runs})


if __name__ == "__main__":
    main()
