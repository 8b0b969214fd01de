"""``make practice EXPORT=…``: your own export through every asset, in a folder of its own, in less than an hour.

Belongs here: the budgets of a practice run, and the settings file that holds them. The run itself is Dagster's. Neither
your warehouse nor your Dagster instance is touched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from booru_embed_core.cli.shared import say
from booru_embed_core.settings import SettingsError, load_settings
from booru_embed_core.settings.toml_text import toml_table

BUDGETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "warehouse": {"path": "warehouse", "keep_versions": 1},
    "model": {
        "width": 128,
        "num_heads": 4,
        "ffn_width": 256,
        "decoder_width": 256,
        "embedding_dim": 64,
        "matryoshka_dims": [16, 32],
    },
    "training": {"max_minutes": 8.0},
    "evaluation": {"max_posts": 2000, "max_fitted_tags": 4096, "max_baseline_seconds": 60},
}
"""Section → values that make 5.8 million posts of 189,000 tags fit into 45 minutes of two cores."""
TAKEN: Final = ("duckdb", "posts", "vocab", "tokens")
"""Sections that a settings file of yours gives."""
ASSETS: Final = ("checkpoint", "evaluation", "tag_embeddings", "post_embeddings")
"""What a practice run ends with."""
_PATHS: Final = ("aliases", "implications", "tag_categories")
_SETTINGS_FILE: Final = "settings.toml"
_HOME: Final = "dagster_home"
_INSTANCE_FILE: Final = "dagster.yaml"


def practice_settings(exports: Sequence[str], base: Path | None = None) -> str:
    """The text of a settings file that sends `exports` through every asset within the budgets.

    Args:
        exports: files, folders or patterns, relative to the working folder.
        base: a settings file whose sections on posts, vocabulary and tokens are taken, or None for the defaults.

    Raises:
        SettingsError: `base` is not usable, or has several sources of posts.
    """
    sections: dict[str, Mapping[str, Any]] = dict(BUDGETS)
    if base is not None:
        load_settings(base)
        given = tomllib.loads(base.read_text(encoding="utf-8"))
        sections |= {name: given[name] for name in TAKEN if name in given}
    posts = dict(sections.get("posts", {}))
    if "source" in posts:
        raise SettingsError(f"{base}: has several [[posts.source]]; name a file with one [posts] section")
    assert base is not None or not posts
    for key in _PATHS:
        if base is not None and key in posts:
            posts[key] = str(base.resolve().parent / posts[key])
    sections["posts"] = {**posts, "export": [os.path.abspath(export) for export in exports]}
    head = "# Written by `make practice`, and overwritten by the next one.\n\n"
    return head + "\n".join(toml_table(name, values, {}, is_item=False) for name, values in sections.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the settings, runs all assets, and says where the products are; the exit code."""
    parser = argparse.ArgumentParser(prog="make practice EXPORT=…", description=__doc__.splitlines()[0])
    parser.add_argument("exports", nargs="+", metavar="EXPORT", help="files, folders or patterns of your export")
    parser.add_argument("--settings", type=Path, help="a settings file whose [posts], [vocab] and [tokens] are taken")
    parser.add_argument("--out", type=Path, default=Path("data/practice"), help="folder of the practice run")
    parser.add_argument("--home", type=Path, default=Path(".dagster_home"), help="instance whose dagster.yaml is taken")
    given = parser.parse_args(arguments)
    exports = [export for export in given.exports if export]
    if not exports:
        parser.error("name your export: make practice EXPORT='exports/posts-*.csv.gz'")
    try:
        text = practice_settings(exports, given.settings)
    except SettingsError as error:
        say(f"error: {error}")
        return 1
    out = given.out.resolve()
    home = out / _HOME
    home.mkdir(parents=True, exist_ok=True)
    (out / _SETTINGS_FILE).write_text(text, encoding="utf-8")
    if (given.home / _INSTANCE_FILE).exists():
        shutil.copyfile(given.home / _INSTANCE_FILE, home / _INSTANCE_FILE)
    environment = {**os.environ, "BOORU_EMBED_SETTINGS": str(out / _SETTINGS_FILE), "DAGSTER_HOME": str(home)}
    command = [str(Path(sys.executable).with_name("dg")), "launch", "--module-name", "booru_embed_dagster.definitions"]
    code = subprocess.run([*command, "--assets", 'key:"*"'], env=environment, check=False).returncode  # noqa: S603
    missing = [asset for asset in ASSETS if not (out / "warehouse" / asset / "current").exists()]
    sys.stdout.write(_ending(given.out, missing, code) + "\n")
    return code


def _ending(out: Path, missing: Sequence[str], code: int) -> str:
    """What is said at the end: where the products are, and how to get to the real ones."""
    if missing:
        return (
            f"\nThe practice run is not finished: {', '.join(missing)} is missing; see the error above, then run the "
            "same command again: what is finished is kept."
        )
    lines = [
        "",
        "This was a practice run: a small network, trained for minutes. Its figures are a lower bound.",
        f"Report:  {out}/warehouse/evaluation/current/report.md",
        f"Page:    booru-embed serve --checkpoint {out}/warehouse/checkpoint/current",
        f"Search:  booru-embed search '1girl cat_ears' --checkpoint {out}/warehouse/checkpoint/current "
        f"--posts {out}/warehouse/post_embeddings/current",
        f"For the real thing, put your export into settings.toml as {out}/{_SETTINGS_FILE} has it, and run: make run",
        f"To remove the practice run: rm -r {out}",
    ]
    if code:
        lines.insert(2, "The run failed, as the log above says: these products may be of an earlier practice run.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
