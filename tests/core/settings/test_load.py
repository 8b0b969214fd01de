"""Settings: what a file may say, and the one line that tells what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.settings import (
    OBSERVED_SECTIONS,
    SETTINGS_VARIABLE,
    ModelSettings,
    Settings,
    SettingsError,
    TokensSettings,
    TrainingSettings,
    VocabSettings,
    load_settings,
    section_version,
)
from booru_embed_core.settings.load import _REMOVED
from tests.core.settings.settings_helpers import Load, leaves

ROOT = Path(__file__).parents[3]


def test_an_empty_file_has_the_defaults(load: Load, tmp_path: Path) -> None:
    assert load("") == Settings(root=tmp_path)


def test_the_projects_file_is_valid_and_says_nothing_that_is_not_known() -> None:
    settings = load_settings(ROOT / "settings.toml")
    assert settings.root == ROOT
    assert settings.warehouse_path == ROOT / settings.warehouse.path


def test_the_longer_preset_differs_in_the_network_and_its_training_alone() -> None:
    short, long = load_settings(ROOT / "settings.toml"), load_settings(ROOT / "data/sample/long.toml")
    assert (short.vocab, short.tokens, short.evaluation) == (long.vocab, long.tokens, long.evaluation)
    exports = [sorted((settings.root / settings.posts.export[0]).parent.glob("*.gz")) for settings in (short, long)]
    assert exports[0] == exports[1]
    assert exports[0]
    assert short.warehouse_path != long.warehouse_path
    assert long.model.width > short.model.width


def test_the_quick_preset_trains_less_and_differs_in_nothing_else() -> None:
    full, quick = load_settings(ROOT / "settings.toml"), load_settings(ROOT / "data/sample/quick.toml")
    assert quick.training.num_epochs < full.training.num_epochs
    assert quick.warehouse_path.resolve() == full.warehouse_path.resolve()
    for section in OBSERVED_SECTIONS:
        of_quick, of_full = quick.model_dump()[section], full.model_dump()[section]
        different = {key for key in of_full if of_quick[key] != of_full[key]}
        assert different == {"training": {"num_epochs"}, "posts": {"export", "aliases"}}.get(section, set())


def test_values_of_the_file_are_taken(load: Load) -> None:
    settings = load(
        """
        [warehouse]
        keep_versions = 9
        [posts]
        export = ["a.csv", "b/*.csv.gz"]
        [vocab]
        keep_percentile = 90
        min_count = 2
        [vocab.artist]
        keep_percentile = 50.5
        [model]
        matryoshka_dims = []
        [training]
        precision = "fp32"
        """
    )
    assert settings.warehouse.keep_versions == 9
    assert settings.posts.export == ("a.csv", "b/*.csv.gz")
    assert settings.model.matryoshka_dims == ()
    assert settings.training.precision == "fp32"
    assert settings.vocab.cut(Category.GENERAL) == (90.0, 2)
    assert settings.vocab.cut(Category.ARTIST) == (50.5, 2)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_category_may_differ_in_either_value(category: Category) -> None:
    for own, wanted in (({}, (80.0, 7)), ({"keep_percentile": 10}, (10.0, 7)), ({"min_count": 1}, (80.0, 1))):
        cuts = VocabSettings.model_validate({"keep_percentile": 80, "min_count": 7, category.value: own})
        assert cuts.cut(category) == wanted
        others = [cuts.cut(other) for other in CATEGORIES if other != category]
        assert others == [(80.0, 7)] * 4


@pytest.mark.parametrize("percentile", ["0", "0.0", "-1", "100.0001", "101", "1e9"])
@pytest.mark.parametrize("section", ["vocab", "vocab.artist"])
def test_a_percentile_outside_its_range_is_refused(load: Load, section: str, percentile: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(f"[{section}]\nkeep_percentile = {percentile}")
    value = float(percentile) if "." in percentile or "e" in percentile else int(percentile)
    problem = f"{section}.keep_percentile = {value!r}: should be above 0 and at most 100; correct the value"
    assert f"settings.toml: {problem}" in str(error.value)


@given(st.floats(0, 100, exclude_min=True))
@settings(deadline=None)
def test_every_percentile_within_it_is_taken(percentile: float) -> None:
    assert VocabSettings(keep_percentile=percentile).cut(Category.META)[0] == percentile


def test_a_budget_of_tokens_takes_the_place_of_the_number_of_posts(load: Load) -> None:
    default, by_tokens = load("").training, load("[training]\nbatch_tokens = 9000").training
    assert (default.batch_posts, default.batch_tokens) == (256, None)
    assert (by_tokens.batch_posts, by_tokens.batch_tokens) == (None, 9000)
    assert type(by_tokens).model_validate_json(by_tokens.model_dump_json()) == by_tokens  # as a checkpoint keeps it
    with pytest.raises(ValueError, match="set one of the two"):
        type(by_tokens)(batch_posts=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nnum_epoch = 5", "unknown setting 'training.num_epoch'; known here: num_epochs, "),
        ("[vocab.artists]\nmin_count = 5", "unknown setting 'vocab.artists'; known here: artist, character, copyright"),
        ("[vocab.artist]\nkeep = 5", "unknown setting 'vocab.artist.keep'; known here: keep_percentile, min_count"),
        (
            "[colour]\na = 1",
            "unknown setting 'colour'; known here: duckdb, evaluation, model, posts, processes, tokens, training",
        ),
        ("num_epochs = 3", "unknown setting 'num_epochs'; known here: duckdb, "),
        ('"a\\nb" = 3', "unknown setting 'a b'; known here: duckdb, "),
        ('root = "/"', "unknown setting 'root'; remove it"),
        ('[training]\nnum_epochs = "12"', "training.num_epochs = '12': should be a whole number, without quotes or"),
        ("[training]\nnum_epochs = 12.0", "training.num_epochs = 12.0: should be a whole number"),
        ("[training]\nnum_epochs = true", "training.num_epochs = True: should be a whole number"),
        ("[training]\nnum_epochs = 0", "training.num_epochs = 0: should be at least 1 and at most 10,000; correct"),
        ('[vocab]\nkeep_percentile = "99"', "vocab.keep_percentile = '99': should be a number, without quotes"),
        ("[vocab]\nkeep_percentile = true", "vocab.keep_percentile = True: should be a number"),
        ("[vocab]\nkeep_percentile = nan", "vocab.keep_percentile = nan: should be a finite number"),
        ("[training]\nlearning_rate = inf", "training.learning_rate = inf: should be a finite number"),
        ('[training]\nprecision = "fp16"', "training.precision = 'fp16': Input should be 'auto', 'bf16' or 'fp32'"),
        ("training = 5", "training = 5: is a section with keys, not a value; correct the value"),
        ('[posts]\nexport = "a.csv"', "posts.export = 'a.csv': should be a list, in brackets; correct the value"),
        ("[posts]\nexport = []", "posts.export = []: should have at least one entry"),
        ("[posts]\nexport = [1]", "posts.export.0 = 1: should be text, in quotes"),
        ("[posts]\nmax_rejected_share = 1", "posts.max_rejected_share = 1: should be at least 0 and below 1"),
        ("[posts]\nratings = []", "posts.ratings = []: should have at least one entry; correct the value"),
        ("[posts]\nlimit_posts = 0", "posts.limit_posts = 0: should be at least 1 and at most 1,000,000,000;"),
        ("[posts]\nmin_score = 1.5", "posts.min_score = 1.5: should be a whole number, without quotes or point"),
        ('[duckdb]\nmemory_limit = "lots"', "duckdb.memory_limit = 'lots': should be a size from '1MB' to '1000000GB'"),
        ("[warehouse]\npath = 3", "warehouse.path = 3: should be a path, in quotes"),
        ("[warehouse]\nkeep_versions = 0", "warehouse.keep_versions = 0: should be at least 1 and at most 100,000;"),
        ('[evaluation]\nbaselines = ["bm25"]', "evaluation.baselines.0 = 'bm25': Input should be 'popularity', "),
        (
            "[tokens]\nvalidation_share = 0.6\ntest_share = 0.5",
            "tokens: validation_share + test_share must be below 1, or nothing is left to train on; correct the value",
        ),
        (
            "[model]\nwidth = 100\nnum_heads = 5",
            "model: width 100 must be num_heads (5) times a multiple of 8, for flash attention; correct the value",
        ),
        (
            "[model]\nembedding_dim = 32\nmatryoshka_dims = [16, 32]",
            "model: matryoshka_dims [16, 32] must ascend and lie below embedding_dim (32); correct the value",
        ),
        (
            '[posts]\nexport = ["a.csv"]\nbigquery_table = "a.b.c"',
            "posts: export and bigquery_table (a.b.c) are both set; remove one of them",
        ),
        (
            '[posts]\nbigquery_project = "mine"',
            "posts: bigquery_project (mine) is set without a bigquery_table; name both",
        ),
        ("[model]\nmatryoshka_dims = [16, 16]", "model: matryoshka_dims [16, 16] must ascend and lie below "),
        ("[model]\nmatryoshka_dims = [8, 4]", "model: matryoshka_dims [8, 4] must ascend and lie below "),
        (
            "[training]\nbatch_posts = 256\nbatch_tokens = 9000",
            "training: batch_posts 256 and batch_tokens 9000: set one of the two; correct the value",
        ),
        ("[training]\nbatch_tokens = 0", "training.batch_tokens = 0: should be at least 1 and at most 100,000,000;"),
        (
            "[evaluation]\nppmi_dim = 64",
            "[evaluation] ppmi_dim was removed in 0.2.0; it is now a constant in "
            "booru_embed_core/evaluation/tag_vectors.py; delete the line",
        ),
        ("[vocab]\nppmi_dim = 64", "unknown setting 'vocab.ppmi_dim'; known here: artist, "),
        ("a = ", "not valid TOML: Invalid value (at end of document); correct that line"),
        (
            "[vocab]\n[vocab]",
            "not valid TOML: Cannot declare ('vocab',) twice (at line 2, column 7); correct that line",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(load: Load, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(text)
    assert str(error.value).startswith(f"{tmp_path / 'settings.toml'}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", _REMOVED)
def test_a_removed_setting_names_the_constant_that_took_its_place(load: Load, key: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"\[evaluation\] {key} was removed in 0\.2\.0; .*; delete the line$"
    ) as error:
        load(f"[evaluation]\n{key} = 4")
    (file,) = re.findall(r"booru_embed_core/evaluation/\w+\.py", str(error.value))
    assert f"\n{key.upper()}: Final = " in (ROOT / file).read_text(encoding="utf-8")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: no such settings file; name one"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match=r"cannot be read \(Is a directory\); give a settings file"):
        load_settings(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'[posts]\nexport = ["\xe9.csv"]')
    with pytest.raises(SettingsError, match=r"latin\.toml: not valid TOML: .*can't decode byte 0xe9"):
        load_settings(tmp_path / "latin.toml")


def test_the_file_is_the_given_one_or_the_variables_or_the_working_directorys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("here/settings.toml", "there/other.toml", "given.toml"), start=1):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"[warehouse]\nkeep_versions = {number}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    assert load_settings().warehouse.keep_versions == 1
    monkeypatch.setenv(SETTINGS_VARIABLE, str(tmp_path / "there" / "other.toml"))
    assert load_settings().warehouse.keep_versions == 2
    assert load_settings(tmp_path / "given.toml").warehouse.keep_versions == 3
    monkeypatch.setenv(SETTINGS_VARIABLE, "")
    assert load_settings().warehouse.keep_versions == 1
    monkeypatch.setenv(SETTINGS_VARIABLE, "nowhere.toml")
    with pytest.raises(SettingsError, match=r"^nowhere\.toml: no such settings file"):
        load_settings()


def test_relative_paths_start_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    file = tmp_path / "project" / "settings.toml"
    file.write_text('[warehouse]\npath = "out/warehouse"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for path in (file, Path("project/settings.toml"), "project/settings.toml"):
        settings = load_settings(path)
        assert settings.root == tmp_path / "project"
        assert settings.warehouse_path == tmp_path / "project" / "out" / "warehouse"
    file.write_text('[warehouse]\npath = "/var/warehouse"\n', encoding="utf-8")
    assert load_settings(file).warehouse_path == Path("/var/warehouse")


def test_a_sections_version_follows_its_values_alone(load: Load) -> None:
    plain = load("[vocab]\nkeep_percentile = 90.0\nmin_count = 3\n[tokens]\ntest_share = 0.1")
    same = load("# a comment\n[tokens]\ntest_share = 1e-1\n\n[vocab]\nmin_count = 3 # why\nkeep_percentile = 90")
    other = load("[vocab]\nkeep_percentile = 90.1\nmin_count = 3\n[tokens]\ntest_share = 0.1")
    assert section_version(plain.vocab) == section_version(same.vocab) != section_version(other.vocab)
    assert section_version(plain.tokens) == section_version(same.tokens) == section_version(other.tokens)
    own = load("[vocab]\nkeep_percentile = 90.0\nmin_count = 3\n[vocab.meta]\nmin_count = 4")
    assert section_version(own.vocab) != section_version(plain.vocab)


def test_a_version_is_16_hex_digits_and_no_two_sections_share_one() -> None:
    versions = [section_version(getattr(Settings(), name)) for name in OBSERVED_SECTIONS]
    assert all(len(version) == 16 and int(version, 16) >= 0 for version in versions)
    assert len(set(versions)) == len(versions)


def changed(value: object) -> object:
    """Another value of the same type, valid or not."""
    if isinstance(value, tuple):
        return (*value, *(value[:1] or (77,)))
    if isinstance(value, str):
        return value + " changed"
    if isinstance(value, dict):
        return {**value, "3": "g"}
    assert value is None or isinstance(value, int | float)
    return (value or 0) + 1


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", [name for name in leaves(Settings) if name.partition(".")[0] in OBSERVED_SECTIONS])
def test_every_value_that_says_what_to_make_is_part_of_its_sections_version(name: str) -> None:
    section, *path, last = name.split(".")
    before = getattr(Settings(), section)
    if path:
        inner = getattr(before, path[0])
        after = before.model_copy(update={path[0]: inner.model_copy(update={last: changed(getattr(inner, last))})})
    else:
        after = before.model_copy(update={last: changed(getattr(before, last))})
    operational = ("checkpoint_every_minutes", "checkpoint_every_steps", "keep_states", "num_processes")
    merely_how = {f"training.{key}" for key in operational}
    assert (section_version(after) == section_version(before)) == (name in merely_how)


def test_settings_cannot_be_changed_by_accident() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.training.num_epochs = 5  # type: ignore[misc]


@given(validation=st.floats(0, 0.999), test=st.floats(0, 0.999))
@settings(deadline=None)
def test_splits_leave_something_to_train_on_or_are_refused(validation: float, test: float) -> None:
    if validation + test < 1:
        assert TokensSettings(validation_share=validation, test_share=test).test_share == test
    else:
        with pytest.raises(ValueError, match="nothing is left to train on"):
            TokensSettings(validation_share=validation, test_share=test)


@given(heads=st.integers(1, 16), head_dim=st.integers(1, 80))
@settings(deadline=None)
def test_heads_have_a_size_that_flash_attention_takes(heads: int, head_dim: int) -> None:
    values = {"width": heads * head_dim, "num_heads": heads}
    if head_dim % 8 == 0:
        assert ModelSettings.model_validate(values).width == heads * head_dim
    else:
        with pytest.raises(ValueError, match="times a multiple of 8"):
            ModelSettings.model_validate(values)


def test_settings_survive_json() -> None:
    """They travel inside config.json and to the process that trains."""
    for section in (VocabSettings(), TokensSettings(), ModelSettings(), TrainingSettings(learning_rate=1)):
        again = type(section).model_validate_json(section.model_dump_json())
        assert again == section
        assert section_version(again) == section_version(section)
