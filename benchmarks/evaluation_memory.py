"""How much memory does an evaluation take, by the size of corpus and vocabulary?

``python -m benchmarks.evaluation_memory VOCAB_DIR PACKED_FILE --fitted 8192`` evaluates an untrained network beside
EASE, whose matrices are the largest of all baselines, with 300 posts of each split. It prints CPU seconds and the peak
of resident memory after each step: the peak depends on the training posts, on the tags, and on the tags that baselines
know, and hardly on the posts that are tested.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks._full_scale import cpu_seconds, own_peak_mb


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluates once and prints the peaks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation_memory")
    parser.add_argument("vocab_dir", type=Path)
    parser.add_argument("packed", type=Path)
    parser.add_argument("--fitted", type=int, default=8192, help="[evaluation] max_fitted_tags")
    parser.add_argument("--posts", type=int, default=300, help="[evaluation] max_posts")
    options = parser.parse_args(arguments)

    from booru_embed_core.evaluation.report import run_evaluation
    from booru_embed_core.evaluation.scorers import model_scorers
    from booru_embed_core.model.encoder import SetEncoder
    from booru_embed_core.settings import EvaluationSettings, ModelSettings
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile
    from booru_embed_core.training.checkpoint import encoder_config

    vocab = Vocab.load(options.vocab_dir)
    packed = PackedFile.open(options.packed, vocab.hash)
    model = SetEncoder(encoder_config(vocab, ModelSettings())).eval()
    settings = EvaluationSettings(
        max_posts=options.posts, max_fitted_tags=options.fitted, baselines=("ease",), ease_lambdas=(300.0,)
    )
    peaks: dict[str, int] = {}

    def report(line: str) -> None:
        peaks[line] = own_peak_mb()
        sys.stderr.write(f"{cpu_seconds():8.1f} s {own_peak_mb():6} MB  {line}\n")

    report("loaded")
    run_evaluation(model_scorers(model), packed, vocab, settings, report)
    report("done")
    found = {"num_posts": packed.num_posts, "num_tags": vocab.num_tags, "fitted": options.fitted}
    found |= {"cpu_seconds": round(cpu_seconds()), "loaded_mb": peaks["loaded"], "peak_mb": peaks["done"]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
