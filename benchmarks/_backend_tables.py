"""Tables of ``results/embedding_backends.json``: the start, backends by number of captions, light checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_LIMITS: Final = {"sample": ".5", "131,072 tags": "1.0", "import": ".3"}
_CASES: Final = {
    "sample": "`booru-embed complete`, the sample's size",
    "131,072 tags": "`booru-embed complete`, 131,072 tags",
    "import": "`import booru_embed_core`",
    "import of BooruEmbedder": "`from booru_embed_core import BooruEmbedder`",
}


def embedding_backends(result: Mapping[str, Any]) -> str:
    """The tables of starts, of backends, and of light checkpoints."""
    before = result["before"]
    starts = [
        [_CASES[case], *(f"{seconds[build]:.2f}" for build in ("before", "now")), _LIMITS.get(case, "")]
        for case, seconds in result["start"].items()
    ]
    sizes = [
        [
            f"{int(size):,}",
            *(f"{row[name]:.2f}" for name in ("numpy", "torch", "auto")),
            f"{row['auto_over_best']:.2f}",
        ]
        for size, row in result["matrix"].items()
    ]
    same = result["largest_difference"]
    machine = result["machine"]
    return "\n".join(
        [
            f"CPU seconds from the start of a process; the build before is `{before}`. Medians of {result['rounds']} "
            f"alternating rounds, at commit `{result['start_commit']}`.",
            "",
            *_table(["", "build before", "now", "limit"], starts),
            "",
            "CPU seconds to the vectors of some captions, from the start of a process, by what computes them. `auto` "
            "may cost 1.2 times the faster one.",
            "",
            *_table(["captions", "numpy", "torch", "`auto`", "`auto` ÷ the faster one"], sizes),
            "",
            "The largest batch was embedded once. Between numpy and torch in float32, no number of a vector differs by "
            f"more than {same['embeddings']:.0e} over {same['captions']:,} captions, and no probability by more than "
            f"{same['probabilities']:.0e} over {same['completed_captions']:,}.",
            "",
            *_light(result["light"]),
            f"Commit `{result['commit']}`, {result['time'][:10]}, {machine['cpu']}, one thread, torch "
            f"{result['torch']}. Load average at the start: {result['load_average_before']}.",
        ]
    )


def _light(cases: Mapping[str, Any]) -> list[str]:
    """The tables of ``booru-embed export light``."""
    parts = ["What `booru-embed export light` saves and costs.", ""]
    for size, found in cases.items():
        of = {key: value for key, value in found.items() if key != "posts"}
        rows = [
            [
                precision,
                f"{figures['bytes'] / 1e6:,.1f}",
                *(f"{figures[f'load_seconds_{backend}']:.2f}" for backend in ("numpy", "torch")),
                f"{figures['complete_seconds']:.2f}",
            ]
            for precision, figures in of.items()
        ]
        title = "The sample's checkpoint" if size == "sample" else f"An untrained checkpoint of {size}"
        header = [
            "",
            "MB of weights",
            "CPU s to load without imports, numpy",
            "torch",
            "`booru-embed complete`",
        ]
        parts += [f"{title}:", "", *_table(header, rows), ""]
        metrics = of["half"].get("recall", {})
        if metrics:
            recall = [
                [metric, f"{one['exact']:.4f}", *(_lost(of[name]["recall"][metric]) for name in ("half", "int8"))]
                for metric, one in metrics.items()
            ]
            parts += [
                f"Recall on {found['posts']:,} test posts of the sample; ± is the standard error of the difference.",
                "",
                *_table(["", "float32", "half", "int8"], recall),
                "",
            ]
    return parts


def _lost(one: Mapping[str, float]) -> str:
    return f"{one['rounded']:.4f} ({one['rounded'] - one['exact']:+.4f} ± {one['standard_error']:.4f})"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
