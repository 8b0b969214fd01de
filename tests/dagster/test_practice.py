"""A practice run's settings, what it leaves alone, and what it says at its end. Dagster itself is not started."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.settings import SettingsError, load_settings
from booru_embed_dagster import practice


def test_the_settings_are_valid_and_within_the_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "practice.toml"
    file.write_text(practice.practice_settings(["exports/posts-*.csv"]))
    settings = load_settings(file)
    assert settings.posts.export == (f"{tmp_path}/exports/posts-*.csv",)
    assert settings.training.max_minutes == 8
    assert settings.evaluation.max_fitted_tags == 4096
    assert settings.warehouse_path == tmp_path / "warehouse"


def test_sections_of_a_file_of_yours_are_taken_with_their_paths(tmp_path: Path) -> None:
    base = tmp_path / "mine" / "mine.toml"
    base.parent.mkdir()
    base.write_text(
        '[posts]\nexport = ["other.csv"]\npreset = "e621-export"\ntag_categories = "tags.csv"\n'
        "[posts.columns]\nid = 'post id'\n[vocab.artist]\nkeep_percentile = 85\n[training]\nnum_epochs = 3\n"
    )
    file = tmp_path / "practice.toml"
    file.write_text(practice.practice_settings([str(tmp_path / "posts.csv")], base))
    settings = load_settings(file)
    (source,) = settings.posts.sources
    assert settings.posts.export == (str(tmp_path / "posts.csv"),)
    assert settings.tag_tables == (base.parent / "tags.csv",)
    assert source.columns.id == "post id"
    assert settings.vocab.artist.keep_percentile == 85
    assert settings.training.num_epochs == 12  # the schedule is the practice run's


def test_several_sources_are_refused_in_one_line(tmp_path: Path) -> None:
    base = tmp_path / "mine.toml"
    base.write_text(
        '[[posts.source]]\nsite = "a"\nexport = ["a.csv"]\n[[posts.source]]\nsite = "b"\nexport = ["b.csv"]\n'
    )
    with pytest.raises(SettingsError, match=r"several \[\[posts.source\]\]"):
        practice.practice_settings(["posts.csv"], base)


@pytest.mark.parametrize(("made", "code"), [(practice.ASSETS, 0), (practice.ASSETS, 1), (practice.ASSETS[:2], 1)])
def test_a_run_has_its_own_folder_and_instance_and_ends_with_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    made: tuple[str, ...],
    code: int,
) -> None:
    out, ran = tmp_path / "practice", []

    def run(command: list[str], env: dict[str, str], check: bool) -> subprocess.CompletedProcess[Any]:
        ran.append((command[1:], env["DAGSTER_HOME"], env["BOORU_EMBED_SETTINGS"], check))
        for asset in made:
            (out / "warehouse" / asset / "current").mkdir(parents=True)
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(subprocess, "run", run)
    is_whole = made == practice.ASSETS
    assert practice.main(["posts.csv", "--out", str(out), "--home", str(tmp_path)]) == code
    launch = ["launch", "--module-name", "booru_embed_dagster.definitions", "--assets", 'key:"*"']
    assert ran == [(launch, str(out / "dagster_home"), str(out / "settings.toml"), False)]
    said = capsys.readouterr().out
    if is_whole:
        assert "This was a practice run" in said
        assert "make run" in said
        assert ("The run failed" in said) == bool(code)
    else:
        assert "tag_embeddings, post_embeddings is missing" in said
