"""One process of the data path benchmark: ``python benchmarks/_data_path_ways.py WAY CORPUS WORK``.

The ways are booru-embed's stages, the same stages through Dagster, DuckDB's bare parse, and peer tools that compute the
same counts and ids. Each runs in its own process, for its own peak memory. The last line printed is JSON: CPU seconds
(children included, start of Python and imports excluded), peak memory, and the counts found (uses and distinct tags per
category, or tokens), so that the benchmark can check that all ways agree.

It imports only the packages of booru-embed: with another folder on ``PYTHONPATH``, it measures the build in there.
"""

from __future__ import annotations

import collections
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from booru_embed_core.posts.database import connect, quoted
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.schema import CATEGORIES, TAG_COLUMNS, tag_column
from booru_embed_core.settings import DuckdbSettings, PostsSettings, TokensSettings, VocabSettings
from booru_embed_core.tags.build import build_vocab, save_vocab
from booru_embed_core.tags.frequency import count_tags
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.encode import encode_posts

DUCKDB: Final = DuckdbSettings()
# The corpus has tags with commas, and tags such as `null`. Builds without these settings read them as such.
_CONVENTIONS: Final[Mapping[str, Any]] = {"tag_separator": " ", "null_words": []}
CONVENTIONS: Final = {key: value for key, value in _CONVENTIONS.items() if key in PostsSettings.model_fields}
TYPES: Final = {"id": "bigint", "score": "integer"}


def bare_parse(corpus: Path, work: Path) -> str:
    """DuckDB parses every value of every column and keeps none."""
    columns = _columns(corpus)
    types = ", ".join(f"{quoted(name)}: {quoted(TYPES.get(name, 'varchar'))}" for name in columns)
    source = f"read_csv({quoted(str(corpus / '*.csv'))}, columns = {{{types}}}, auto_detect = false, header = true)"
    with connect(DUCKDB, work) as connection:
        counts = connection.sql(f"select count(*), {', '.join(f'count({name})' for name in columns)} from {source}")
        return f"rows {counts.fetchall()[0][0]}"


def posts(corpus: Path, work: Path) -> str:
    """CSV to posts."""
    out = _fresh(work / "posts")
    report = read_posts(_files(corpus), out, PostsSettings.model_validate(CONVENTIONS), DUCKDB, work)
    return f"rows {report.num_kept}"


def tag_frequencies(corpus: Path, work: Path) -> str:  # noqa: ARG001
    """Posts to frequencies."""
    summaries = count_tags(work / "posts", _fresh(work / "frequencies"), DUCKDB, work)
    return _found({name: (summary.num_uses, summary.num_tags) for name, summary in summaries.items()})


def vocab(corpus: Path, work: Path) -> str:  # noqa: ARG001
    """Frequencies to vocabulary, with the default settings."""
    made = build_vocab(
        work / "frequencies", VocabSettings(), lambda line: print(f"warning: {line}", file=sys.stderr, flush=True)
    )
    save_vocab(made, _fresh(work / "vocab"))
    return f"tags {made.num_tags}"


def packed_tokens(corpus: Path, work: Path) -> str:  # noqa: ARG001
    """Posts and vocabulary to the packed file."""
    report = encode_posts(work / "posts", Vocab.load(work / "vocab"), _fresh(work / "tokens"), TokensSettings(), work)
    return f"tokens {report.num_tokens}"


def _through_dagster(asset: str, corpus: Path, work: Path) -> Callable[[Path, Path], str]:
    """A run of `asset` and its checks into a warehouse below `work`, ready to start: imports do not count."""
    import dagster as dg

    project = work / "dagster"
    home = project / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    conventions = "".join(f"{key} = {json.dumps(value)}\n" for key, value in CONVENTIONS.items())
    settings = f"[warehouse]\npath = 'warehouse'\n[posts]\nexport = ['{corpus.absolute()}/*.csv']\n{conventions}"
    (project / "settings.toml").write_text(settings, encoding="utf-8")
    os.environ["BOORU_EMBED_SETTINGS"] = str(project / "settings.toml")
    shutil.rmtree(project / "warehouse" / asset, ignore_errors=True)
    from booru_embed_dagster.definitions import defs

    job, instance = defs.resolve_implicit_global_asset_job_def(), dg.DagsterInstance.from_config(str(home))
    instance.get_runs_count()  # creates the database

    def run(corpus: Path, work: Path) -> str:  # noqa: ARG001
        result = job.execute_in_process(asset_selection=[dg.AssetKey(asset)], instance=instance)
        (event,) = result.asset_materializations_for_node(asset)
        name, figure = _DAGSTER_FOUND[asset]
        return f"{name} {event.metadata[figure].value}"

    return run


def to_tsv(corpus: Path, work: Path) -> str:
    """CSV to unquoted TSV, which awk can split, by Python's csv module."""
    rows = 0
    with (work / "captions.tsv").open("w", encoding="utf-8", newline="") as out:
        for row in _records(corpus):
            out.write("\t".join(row) + "\n")
            rows += 1
    return f"rows {rows}"


def gawk(corpus: Path, work: Path) -> str:
    """Frequencies by gawk, with one pass over the TSV per category."""
    found = {}
    for category in CATEGORIES:
        column = _columns(corpus).index(tag_column(category)) + 1
        # Split at single spaces: awk takes a plain " " for any white space.
        program = (
            f'{{ n = split(${column}, t, / /); for (i = 1; i <= n; i++) if (t[i] != "") c[t[i]]++ }} '
            "END { for (tag in c) { u += c[tag]; k++ } print u + 0, k + 0 }"
        )
        answer = subprocess.run(
            ["gawk", "-F", "\t", program, str(work / "captions.tsv")],
            env={"LC_ALL": "C"}, check=True, capture_output=True, text=True,
        )  # fmt: skip
        uses, tags = answer.stdout.split()
        found[category] = (int(uses), int(tags))
    return _found(found)


def python_tokenizer(corpus: Path, work: Path) -> str:
    """TSV to 16-bit ids by one dict per category and a Python loop over posts."""
    made = Vocab.load(work / "vocab")
    ids = [{tag: local_id for local_id, tag in enumerate(made.tags_of(category))} for category in CATEGORIES]
    columns = [_columns(corpus).index(name) for name in TAG_COLUMNS]
    num_tokens = 0
    with (work / "captions.tsv").open(encoding="utf-8", newline="") as lines, (work / "loop.bin").open("wb") as out:
        for line in lines:
            fields = line[:-1].split("\t")
            tokens = []
            for known, column in zip(ids, columns, strict=True):
                tokens += [known[tag] for tag in fields[column].split(" ") if tag in known]
            num_tokens += len(tokens)
            out.write(np.array(tokens, dtype=np.uint16).tobytes())
    return f"tokens {num_tokens}"


def polars_counts(corpus: Path, work: Path) -> str:  # noqa: ARG001
    """Frequencies by polars, streaming."""
    import polars as pl

    source = pl.scan_csv(corpus / "*.csv")
    found = {}
    for category in CATEGORIES:
        tags = source.select(pl.col(tag_column(category)).fill_null("").str.split(" ").alias("tag")).explode("tag")
        counts = tags.filter(pl.col("tag") != "").group_by("tag").len().collect(engine="streaming")
        found[category] = (int(counts["len"].sum()), len(counts))
    return _found(found)


def polars_tokens(corpus: Path, work: Path) -> str:
    """16-bit ids by polars: tags cast to an Enum of the vocabulary."""
    import polars as pl

    made = Vocab.load(work / "vocab")
    source = pl.scan_csv(corpus / "*.csv")
    num_tokens = 0
    for category in CATEGORIES:
        known = pl.Enum(list(made.tags_of(category)))
        ids = (
            pl.col(tag_column(category))
            .str.split(" ")
            .list.eval(pl.element().cast(known, strict=False).to_physical().drop_nulls())
        )
        column = source.select(ids.alias("ids")).collect(engine="streaming")["ids"]
        column.explode().drop_nulls().cast(pl.UInt16).to_numpy().tofile(work / f"polars-{category}.bin")
        num_tokens += int(column.list.len().sum())
    return f"tokens {num_tokens}"


def pandas_counts(corpus: Path, work: Path) -> str:  # noqa: ARG001
    """Frequencies by pandas."""
    found = {}
    frame = _frame(corpus)
    for category in CATEGORIES:
        tags = frame[tag_column(category)].str.split(" ").explode()
        counts = tags[tags != ""].value_counts()
        found[category] = (int(counts.sum()), len(counts))
    return _found(found)


def pandas_tokens(corpus: Path, work: Path) -> str:
    """16-bit ids by pandas: a column's tags mapped by a dict."""
    made = Vocab.load(work / "vocab")
    frame = _frame(corpus)
    num_tokens = 0
    for category in CATEGORIES:
        ids = {tag: local_id for local_id, tag in enumerate(made.tags_of(category))}
        tokens = frame[tag_column(category)].str.split(" ").explode().map(ids).dropna().to_numpy().astype(np.uint16)
        tokens.tofile(work / f"pandas-{category}.bin")
        num_tokens += len(tokens)
    return f"tokens {num_tokens}"


def _frame(corpus: Path):  # type: ignore[no-untyped-def]
    import pandas as pd

    return pd.concat(
        [pd.read_csv(file, keep_default_na=False, dtype=dict.fromkeys(TAG_COLUMNS, str)) for file in _files(corpus)]
    )


def _files(corpus: Path) -> list[Path]:
    return sorted(corpus.glob("*.csv"))


def _columns(corpus: Path) -> list[str]:
    with _files(corpus)[0].open(encoding="utf-8", newline="") as lines:
        return next(csv.reader(lines))


def _records(corpus: Path) -> Iterator[list[str]]:
    for file in _files(corpus):
        with file.open(encoding="utf-8", newline="") as lines:
            rows = csv.reader(lines)
            next(rows)
            yield from rows


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _found(uses_and_tags: Mapping[str, tuple[int, int]]) -> str:
    return "uses, tags " + " ".join(f"{uses},{tags}" for uses, tags in uses_and_tags.values())


WAYS: Final[Mapping[str, Callable[[Path, Path], str]]] = collections.OrderedDict(
    (way.__name__, way)
    for way in (
        bare_parse, posts, tag_frequencies, vocab, packed_tokens,
        to_tsv, gawk, python_tokenizer, polars_counts, polars_tokens, pandas_counts, pandas_tokens,
    )
)  # fmt: skip


_DAGSTER_FOUND: Final = {
    "posts": ("rows", "dagster/row_count"),
    "tag_frequencies": ("all uses", "num_uses"),
    "vocab": ("tags", "num_tags"),
    "packed_tokens": ("tokens", "num_tokens"),
}
"""What each asset found and the metadata that holds it."""
_DAGSTER: Final = "dagster_"
"""What the name of an asset's way begins with."""


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _peak_mb() -> int:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(max(usage.ru_maxrss for usage in usages) * 1024 / 1e6)


if __name__ == "__main__":
    name, given_corpus, given_work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    asset = name.removeprefix(_DAGSTER)
    way = _through_dagster(asset, given_corpus, given_work) if asset != name else WAYS[name]
    before = _cpu_seconds()
    found = way(given_corpus, given_work)
    print(json.dumps({"cpu_seconds": round(_cpu_seconds() - before, 3), "peak_mb": _peak_mb(), "found": found}))
