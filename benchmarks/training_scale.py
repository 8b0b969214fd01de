"""What does a training step cost with a large vocabulary, compared with an earlier build?

It trains the default network on captions of random tags, on a CPU with one thread, for each of `NUM_TAGS` tags: with
this build, and with the one of ``--before``, by default the last that scored every tag in every step. The two
alternate, each in its own process. CPU seconds are those of whole steps without the first; the start is everything
before it. Peak memory is the process's after the last step, with the mapped pages of the packed file.

``--warehouse DIR`` adds a case: the vocabulary and the packed file of a warehouse.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

NUM_TAGS: Final = (494, 8_192, 65_536, 188_967)
TARGETS: Final = {"cpu_seconds_now": 1.6, "peak_mb": 1600}
"""Of the last of `NUM_TAGS`."""
BEFORE: Final = "01dc3d8~1"
ROUNDS: Final = 2
NUM_STEPS: Final = 6
NUM_POSTS: Final = 600_000
"""Initial vectors read no more than half a million of them."""
_ZIPF_SHIFT: Final = 5.0
"""A tag of rank r is used in proportion to 1 / (r + shift): batches have about as many distinct tags as real ones."""
_POSTS_AT_ONCE: Final = 50_000


def write_corpus(folder: Path, num_tags: int, num_posts: int = NUM_POSTS) -> None:
    """Writes a vocabulary and a packed file of captions with log-normal lengths and tags by Zipf's law."""
    from booru_embed_core.schema import NUM_CATEGORIES, RATINGS
    from booru_embed_core.settings import TokensSettings
    from booru_embed_core.tags.build import save_vocab
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PACKED_FILE
    from booru_embed_core.tokens.packed_writer import packed_metadata, write_packed_file

    numbers = np.random.default_rng(0)
    uses = np.cumsum(1 / (np.arange(num_tags) + _ZIPF_SHIFT))
    captions, lengths = [], []
    for start in range(0, num_posts, _POSTS_AT_ONCE):
        num = min(_POSTS_AT_ONCE, num_posts - start)
        drawn = np.exp(3.43 + 0.5 * numbers.standard_normal(num)).clip(2, 250).astype(np.int64)
        tags = np.searchsorted(uses, numbers.random(int(drawn.sum())) * uses[-1])
        pairs = np.sort(np.repeat(np.arange(num), drawn) * num_tags + tags)
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # a post has a tag once
        captions.append((pairs % num_tags).astype(np.uint32))
        lengths.append(np.bincount(pairs // num_tags, minlength=num))
    tokens, field_lengths = np.concatenate(captions), np.zeros((num_posts, NUM_CATEGORIES), np.uint16)
    field_lengths[:, 0] = np.concatenate(lengths)
    counts = np.bincount(tokens, minlength=num_tags).astype(np.int64)
    vocab = Vocab(tuple(f"tag_{rank}" for rank in range(num_tags)), np.zeros(num_tags, np.uint8), counts)
    (folder / "vocab").mkdir(parents=True)
    save_vocab(vocab, folder / "vocab")
    arrays = {
        "tokens": tokens if num_tags > np.iinfo(np.uint16).max else tokens.astype(np.uint16),
        "offsets": np.concatenate([[0], np.cumsum(field_lengths[:, 0], dtype=np.int64)]).astype(np.uint64),
        "field_lengths": field_lengths,
        "post_id": np.arange(num_posts, dtype=np.int64),
        "rating": numbers.integers(0, len(RATINGS), num_posts, np.uint8),
        "score": numbers.integers(-5, 200, num_posts, np.int32),
    }
    metadata = packed_metadata(vocab.hash, num_posts, len(tokens), TokensSettings())
    write_packed_file(folder / PACKED_FILE, arrays, metadata)


def train_steps(vocab_dir: Path, packed_path: Path, num_steps: int) -> dict[str, Any]:
    """The cost of `num_steps` steps in this process, with the `booru_embed_core` that it imports."""
    import booru_embed_core

    # What the command line and Dagster's processes do, in builds that have it: an older one would import this build's.
    if Path(booru_embed_core.__file__).with_name("memory.py").is_file():
        from booru_embed_core.memory import bound_kept_shapes

        bound_kept_shapes()
    import torch

    from booru_embed_core.settings import ModelSettings, TrainingSettings
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile
    from booru_embed_core.training.distributed import Ranks
    from booru_embed_core.training.loop import start_run
    from booru_embed_core.training.step import compute_step

    torch.set_num_threads(1)
    vocab = Vocab.load(vocab_dir)
    packed = PackedFile.open(packed_path, vocab.hash)
    settings = TrainingSettings(device="cpu", precision="auto")
    run = start_run(packed, vocab, ModelSettings(), settings, Ranks())
    start = {"start_cpu_seconds": round(time.process_time(), 3), "start_peak_mb": _peak_mb()}
    seconds, losses, num_tokens = [], [], 0
    for number, batch in enumerate(run.batches.read_from(0, 0, 1)):
        if number == num_steps:
            break
        started = time.process_time()
        if hasattr(run, "take_step"):
            run.draw_tags(batch)
            losses.append(compute_step(run, batch).total.item())
            run.take_step(settings.learning_rate)
        else:  # builds that score every tag
            losses.append(compute_step(run, batch).total.item())
            run.optimizer.step(settings.learning_rate)
            run.step += 1
        seconds.append(time.process_time() - started)
        num_tokens += len(batch.tokens)
    cost = {"cpu_seconds": statistics.median(seconds[1:]), "peak_mb": _peak_mb(), "last_loss": losses[-1]}
    return {"num_tags": vocab.num_tags, "num_tokens": num_tokens / num_steps, **start, **cost}


def _peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _trained(build: Path, vocab_dir: Path, packed_path: Path) -> dict[str, Any]:
    """`train_steps` in a new process, with the code of the folder `build`."""
    paths = [str(vocab_dir), str(packed_path)]
    done = subprocess.run(
        [sys.executable, __file__, "--train", *paths],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(build), "OMP_NUM_THREADS": "1"},
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _compared(builds: list[Path], vocab_dir: Path, packed_path: Path, num_rounds: int) -> dict[str, Any]:
    """The figures of one case, by alternating `builds`: the one before and this one."""
    rounds = [[_trained(build, vocab_dir, packed_path) for build in builds] for _ in range(num_rounds)]
    before, now = ([one[build] for one in rounds] for build in (0, 1))
    ratios = [mine["cpu_seconds"] / other["cpu_seconds"] for other, mine in zip(before, now, strict=True)]

    def both(name: str, num_digits: int = 3) -> dict[str, float]:
        of_now, of_before = (round(statistics.median(one[name] for one in of), num_digits) for of in (now, before))
        return {name: of_now, f"{name}_before": of_before}

    return {
        "num_tags": now[0]["num_tags"],
        "tokens_per_step": round(now[0]["num_tokens"]),
        "ratio_to_before": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        **both("cpu_seconds"),
        **both("peak_mb"),
        **both("start_cpu_seconds"),
        **both("start_peak_mb"),
    }


def main(before: str = BEFORE, num_rounds: int = ROUNDS, warehouse: Path | None = None) -> None:
    """Prints one line per case and writes the figures.

    Args:
        before: the git revision to compare with.
        num_rounds: rounds of both builds for each case.
        warehouse: a folder with ``vocab/current`` and ``packed_tokens/current`` for one more case.
    """
    from benchmarks._builds import ROOT, unpack
    from benchmarks._results import write
    from booru_embed_core.tokens.packed_file import PACKED_FILE

    load, cases = round(os.getloadavg()[0], 2), []
    with tempfile.TemporaryDirectory() as scratch:
        builds = [Path(scratch, "before"), ROOT]
        unpack(before, builds[0])
        for num_tags in NUM_TAGS:
            corpus = Path(scratch, f"corpus-{num_tags}")
            write_corpus(corpus, num_tags)
            cases.append(_compared(builds, corpus / "vocab", corpus / PACKED_FILE, num_rounds))
            _show(cases[-1])
            (corpus / PACKED_FILE).unlink()
        of_warehouse = None
        if warehouse is not None:
            packed = warehouse / "packed_tokens/current" / PACKED_FILE
            of_warehouse = _compared(builds, warehouse / "vocab/current", packed, num_rounds)
            _show(of_warehouse)
    content = {"load_average_before": load, "before": before, "rounds": num_rounds, "steps": NUM_STEPS}
    write("training_scale", {**content, "targets": TARGETS, "cases": cases, "warehouse": of_warehouse})


def _show(case: dict[str, Any]) -> None:
    cost = f"{case['cpu_seconds']:.2f} CPU s a step, {case['cpu_seconds_before']:.2f} before"
    memory = f"{case['peak_mb']:,.0f} MB, {case['peak_mb_before']:,.0f} before"
    start = f"start {case['start_cpu_seconds']:.1f} CPU s, {case['start_cpu_seconds_before']:.1f} before"
    print(f"{case['num_tags']:9,} tags: {cost} ({case['ratio_to_before']:.3f}); {memory}; {start}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_scale", description=__doc__.split("\n")[0])
    parser.add_argument("--before", default=BEFORE, help="git revision to alternate with (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds (default: %(default)s)")
    parser.add_argument("--warehouse", type=Path, help="warehouse for one more case")
    parser.add_argument("--train", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        asked_vocab, asked_packed = asked.train
        print(json.dumps(train_steps(asked_vocab, asked_packed, NUM_STEPS)))
    else:
        main(asked.before, asked.rounds, asked.warehouse)
