"""How many CPU seconds does the default training take, compared with an earlier build, and what does it reach?

It trains the default network on a warehouse's packed file, on a CPU with one thread, by the build in the folder
``--before`` (a checkout) and then by this one, for each seed. CPU seconds are those of `train`, with its validations.
Recall@10 is over the test split, with the tags hidden that the evaluation hides. ``ratio`` is the time of this build
over that of the other.

``--now`` and ``--before-settings`` take [training] keys as JSON, such as ``{"num_epochs": 4}``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parents[1]
_HELD_OUT_SEED: Final = 7
_SCORERS: Final = ("embedding", "head")


def trained(vocab_dir: Path, packed_path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Cost and recall of a training in this process, with the `booru_embed_core` that it imports."""
    import torch

    from booru_embed_core.evaluation.metrics import evaluate_scorer
    from booru_embed_core.evaluation.scorers import model_scorers
    from booru_embed_core.evaluation.tasks import HIDES, hold_out
    from booru_embed_core.settings import ModelSettings, TrainingSettings
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.batches import rows_of_split
    from booru_embed_core.tokens.cooccurrence import captions_from_packed
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
    packed = PackedFile.open(packed_path, vocab.hash)
    rows = rows_of_split(packed, "test")
    captions, post_ids = captions_from_packed(packed, vocab, rows), packed.post_id[rows]
    recalls = {}
    for hide in HIDES:
        held_out = hold_out(captions, post_ids, hide, _HELD_OUT_SEED, vocab.is_unknown)
        for name, scorer in zip(_SCORERS, model_scorers(network)[: len(_SCORERS)], strict=True):
            recalls[f"{hide}, {name}"] = round(evaluate_scorer(scorer, held_out)["recall@10"], 4)
    cost = {"cpu_seconds": round(seconds, 1), "num_steps": report.num_steps, "num_epochs": settings.num_epochs}
    return {"seed": settings.seed, **cost, "validation_loss": report.validation_loss, "recall@10": recalls}


def _by_build(build: Path, warehouse: Path, values: dict[str, Any]) -> dict[str, Any]:
    """`trained` in a new process, with the code of the folder `build`."""
    from booru_embed_core.tokens.packed_file import PACKED_FILE

    paths = [str(warehouse / "vocab/current"), str(warehouse / "packed_tokens/current" / PACKED_FILE)]
    done = subprocess.run(
        [sys.executable, __file__, "--train", *paths, "--now", json.dumps(values)],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(build), "OMP_NUM_THREADS": "1"},
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compared(
    warehouse: Path, before: Path, seeds: list[int], now_values: dict[str, Any], before_values: dict[str, Any]
) -> list[dict[str, Any]]:
    """For each of `seeds`, the figures of the build in `before`, of this one, and the ratio of their CPU seconds."""
    found = []
    for seed in seeds:
        other = _by_build(before, warehouse, {**before_values, "seed": seed})
        mine = _by_build(_ROOT, warehouse, {**now_values, "seed": seed})
        found.append({"before": other, "now": mine, "ratio": round(mine["cpu_seconds"] / other["cpu_seconds"], 3)})
        print(json.dumps(found[-1]), flush=True)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Prints and writes the figures of both builds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warehouse", type=Path, default=Path("data/warehouse"))
    parser.add_argument("--before", type=Path, help="a checkout of the earlier build")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    parser.add_argument("--now", type=json.loads, default={})
    parser.add_argument("--before-settings", type=json.loads, default={})
    parser.add_argument("--train", type=Path, nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.train:
        print(json.dumps(trained(*chosen.train, chosen.now)))
        return
    if chosen.before is None:
        sys.exit("name a checkout of the earlier build with --before, such as one that `git worktree add` makes")
    from benchmarks._results import write

    runs = compared(chosen.warehouse, chosen.before, chosen.seeds, chosen.now, chosen.before_settings)
    write("time_to_quality", {"now": chosen.now, "before_settings": chosen.before_settings, "runs": runs})


if __name__ == "__main__":
    main()
