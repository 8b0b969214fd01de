"""The command line as people and programs meet it: exit codes, one-line errors, JSON that is nothing but JSON."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.evaluation.metrics import evaluate_scorer
from booru_embed_core.evaluation.scorers import model_scorers
from booru_embed_core.evaluation.tasks import Hide, captions_from_tags, hold_out
from booru_embed_core.evaluation.tuning import baselines_from_packed
from booru_embed_core.schema import CATEGORIES, tag_column
from booru_embed_core.settings import EvaluationSettings
from tests.core.cli_helpers import Run, cli
from tests.core.export_helpers import csv_bytes
from tests.core.model_helpers import Trained, topic_posts

COMMANDS = (
    "ingest", "embed", "complete", "similar", "evaluate", "inspect vocab", "inspect tokens", "inspect words",
    "inspect checkpoint", "export",
)  # fmt: skip
RUN_MAIN = [sys.executable, "-c", "from booru_embed_core.cli.main import main; main()"]


@pytest.fixture(scope="module")
def embedder(trained: Trained) -> BooruEmbedder:
    return BooruEmbedder.load(trained.checkpoint)


@pytest.fixture(scope="module")
def new_posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Posts that were not trained on: some with tags that nobody knows, one with a single tag."""
    posts = topic_posts(60, seed=9)
    for number, post in enumerate(posts):
        post["id"] = 10**6 + number
        if number % 7 == 0:
            post["tag_string_general"] = f"{post['tag_string_general']} unheard_of"
    posts.append({**posts[0], "id": 5, **{tag_column(category): "" for category in CATEGORIES}})
    posts[-1]["tag_string_general"] = "solo unheard_of"
    file = tmp_path_factory.mktemp("posts") / "new.csv"
    file.write_bytes(csv_bytes(posts))
    return file


def program(*arguments: object, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*RUN_MAIN, *map(str, arguments)], stdout=stdout, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def test_every_command_has_help(run: Run) -> None:
    top = run("--help")
    assert top.code == 0
    for command in COMMANDS:
        found = run(*command.split(), "--help")
        assert found.code == 0
        assert f"booru-embed {command}" in found.out
        assert "--json" in found.out
        assert command.split()[0] in top.out


@pytest.mark.parametrize("arguments", [(), ("inspect",)])
def test_no_command_shows_the_help_and_is_wrong_use(run: Run, arguments: tuple[str, ...]) -> None:
    found = run(*arguments)
    assert found.code == 2
    assert "Usage: booru-embed" in found.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("paint",), "No such command 'paint'. See `booru-embed --help`"),
        (("embed",), "Missing argument 'CAPTIONS...'. See `booru-embed embed --help`"),
        (
            ("embed", "solo", "--colour"),
            "No such option '--colour'. Did you mean '--score'? See `booru-embed embed --help`",
        ),
        (("embed", "solo", "--rating", "x"), "Invalid value for '--rating': 'x' is not one of 'g', 's', 'q', 'e'."),
        (("embed", "solo", "--score", "3"), "--score needs --rating: scores are compared among posts of one rating."),
        (("embed", "solo", "--score", "high"), "Invalid value for '--score': 'high' is not a valid int"),
        (("embed", "solo", "--dim", "0"), "Invalid value for '--dim': 0 is not in the range x>=1."),
        (("embed", "solo", "--json", "-o", "x.npy"), "--output writes a .npy file and --json prints: give one of"),
        (("complete", "solo", "-k", "0"), "Invalid value for '-k': 0 is not in the range x>=1."),
        (("complete", "solo", "--category", "x"), "Invalid value for '--category': 'x' is not one of 'general', "),
        (("evaluate",), "Missing option '--posts'. See `booru-embed evaluate --help`"),
        (("evaluate", "--posts", "x.csv", "--hide", "all"), "Invalid value for '--hide': 'all' is not one of 'one', "),
        (("inspect", "colour"), "No such command 'colour'. See `booru-embed inspect --help`"),
    ],
)
def test_wrong_use_is_code_2_and_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    assert run(*arguments).failed(2).startswith(message)


def test_a_dim_beyond_the_embedding_is_wrong_use(run: Run, trained: Trained) -> None:
    found = run("embed", "solo", "--dim", 99, "-c", trained.checkpoint).failed(2)
    assert found == "--dim 99 is more than the 16 numbers there are. See `booru-embed embed --help`"


@pytest.mark.parametrize(
    "arguments",
    [
        ("embed", "solo", "-c"),
        ("complete", "solo", "-c"),
        ("similar", "solo", "-c"),
        ("evaluate", "--posts", "x.csv", "-c"),
        ("inspect", "checkpoint"),
        ("inspect", "vocab"),
        ("inspect", "tokens"),
    ],
)
def test_a_missing_folder_is_code_1_and_named(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    message = run(*arguments, tmp_path / "nowhere").failed(1)
    assert message.startswith(str(tmp_path / "nowhere"))
    assert ": no such " in message


def test_debug_shows_the_traceback_of_a_failure_only(
    run: Run, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["similar", "solo", "-c", str(tmp_path)]
    for debugging in (["--debug", *arguments], [*arguments, "--debug"]):
        monkeypatch.setattr(sys, "argv", ["booru-embed", *debugging])
        with pytest.raises(ValueError, match=r"config\.json: no such file"):
            cli.main()
    assert capsys.readouterr().out == ""
    assert "No such command" in run("paint", "--debug").failed(2)
    assert run("similar", "solo", "-c", trained.checkpoint, "--debug").code == 0


def test_a_module_that_no_extra_brings_is_no_one_line_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be a fault of the package itself. What is said of an extra's is seen in `test_wheel`."""
    monkeypatch.setitem(sys.modules, "booru_embed_core.embedder.embedder", None)
    with pytest.raises(ModuleNotFoundError, match=r"serving\.embedder"):
        run("embed", "1girl")


def test_embed_prints_a_line_of_numbers_a_caption(run: Run, trained: Trained, embedder: BooruEmbedder) -> None:
    captions = ["1girl, cat ears", "1boy sword", ""]
    found = run("embed", *captions, "-c", trained.checkpoint, "--dim", 8)
    assert (found.code, found.err) == (0, "")
    rows = [[float(number) for number in line.split("\t")] for line in found.out.splitlines()]
    assert np.array(rows) == pytest.approx(embedder.embed(captions, dim=8), abs=1e-6)


def test_embed_as_json_names_unknown_tags_there_and_on_stderr(
    run: Run, trained: Trained, embedder: BooruEmbedder
) -> None:
    captions = ["1girl, no such tag, cat ears", "solo"]
    found = run("embed", *captions, "-c", trained.checkpoint, "--json", "--rating", "q", "--score", "5")
    assert found.json["dim"] == 16
    rows = found.json["embeddings"]
    assert [row["caption"] for row in rows] == captions
    assert [row["unknown"] for row in rows] == [["no_such_tag"], []]
    with pytest.warns(UserWarning, match="no_such_tag"):
        wanted = embedder.embed(captions, rating="q", score=5)
    assert np.array([row["vector"] for row in rows]) == pytest.approx(wanted, abs=1e-7)
    assert found.err == (
        f"warning: {captions[0]!r}: not in the vocabulary: no_such_tag; left out. "
        "`booru-embed inspect vocab` lists what is known\n"
    )


def test_what_was_read_otherwise_than_it_stands_is_noted(run: Run, trained: Trained) -> None:
    asked = ("1girl, (cat ears:1.2)", "--checkpoint", trained.checkpoint, "-k", 2)
    plain, noted = run("complete", "1girl cat_ears", *asked[1:]), run("complete", *asked)
    assert (noted.code, noted.out) == (0, plain.out)
    assert noted.err == "note: (cat ears:1.2): brackets and weights are left out\n"


def test_embed_writes_a_npy_file_whole(run: Run, trained: Trained, embedder: BooruEmbedder, tmp_path: Path) -> None:
    file = tmp_path / "vectors.npy"
    found = run("embed", "solo", "1girl", "-c", trained.checkpoint, "-o", file)
    assert (found.code, found.out, found.err) == (0, "", f"{file}: float32 [2, 16]\n")
    assert np.array_equal(np.load(file), embedder.embed(["solo", "1girl"]))
    assert [one.name for one in tmp_path.iterdir()] == ["vectors.npy"]
    message = run("embed", "solo", "-c", trained.checkpoint, "-o", tmp_path / "none" / "x.npy").failed(1)
    assert message == f"{tmp_path / 'none'}: no such folder, for --output x.npy; create it first"


def test_nothing_but_unknown_tags_is_a_failure(run: Run, trained: Trained) -> None:
    for arguments in (("embed", "solo", "xyzzy"), ("complete", "xyzzy", "--json"), ("similar", "xyzzy")):
        message = run(*arguments, "-c", trained.checkpoint).failed(1)
        assert message.startswith("'xyzzy': not in the vocabulary: xyzzy; ")


def test_complete_is_the_librarys(run: Run, trained: Trained, embedder: BooruEmbedder) -> None:
    found = run("complete", "1girl cat_ears", "-c", trained.checkpoint, "--json", "-k", 5, "--category", "general")
    wanted = embedder.complete("1girl cat_ears", k=5, category="general")
    assert found.json["unknown"] == []
    assert [tuple(one.values()) for one in found.json["completions"]] == wanted
    assert set(found.json["completions"][0]) == {"tag", "category", "probability"}
    table = run("complete", "1girl cat_ears", "-c", trained.checkpoint, "-k", 5, "--category", "general")
    assert [line.split()[1:] for line in table.out.splitlines()] == [["general", one.tag] for one in wanted]
    unknown = run("complete", "solo xyzzy", "-c", trained.checkpoint, "--json")
    assert unknown.json["unknown"] == ["xyzzy"]
    assert "xyzzy" in unknown.err
    every = run("complete", " ".join(embedder.vocab.tags), "-c", trained.checkpoint)
    assert (every.code, every.out) == (0, "")


def test_a_rating_that_was_never_given_in_training_is_a_failure(run: Run, trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(trained.checkpoint, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "trained_ratings": ["s"]}), encoding="utf-8")
    for command in ("embed", "complete"):
        message = run(command, "solo", "-c", copy, "--rating", "g").failed(1)
        assert message.startswith("rating 'g' was never given in training, which knew s; leave rating and score out")
        assert run(command, "solo", "-c", copy, "--rating", "s").code == 0


def test_similar_is_the_librarys(run: Run, trained: Trained, embedder: BooruEmbedder) -> None:
    found = run("similar", "cat ears", "-c", trained.checkpoint, "--json", "-k", 4, "--category", "character")
    wanted = embedder.similar_tags("cat_ears", k=4, category="character")
    assert found.json["tag"] == "cat ears"
    assert [tuple(one.values()) for one in found.json["neighbours"]] == wanted
    table = run("similar", "cat ears", "-c", trained.checkpoint, "-k", 4)
    assert len(table.out.splitlines()) == 4


@pytest.mark.parametrize("hide", ["one", "half"])
def test_evaluate_is_the_librarys(
    run: Run, trained: Trained, embedder: BooruEmbedder, new_posts: Path, hide: Hide
) -> None:
    found = run("evaluate", "-c", trained.checkpoint, "--posts", new_posts, "--hide", hide, "--seed", 3, "--json")
    result = found.json
    assert list(result) == ["hide", "num_posts", "models"]
    with new_posts.open(encoding="utf-8", newline="") as stream:
        posts = list(csv.DictReader(stream))
    fields = [{category: post[tag_column(category)] for category in CATEGORIES} for post in posts]
    num_special = embedder.vocab.num_special
    tags = [[i - num_special for i in embedder.tokenizer.encode_fields(one).token_ids] for one in fields]
    post_ids = np.array([int(post["id"]) for post in posts])
    held_out = hold_out(captions_from_tags(tags, embedder.vocab.num_tags), post_ids, hide, 3)
    assert result["num_posts"] == held_out.num_posts == sum(len(one) >= 2 for one in tags) < len(posts)
    baselines = baselines_from_packed(trained.corpus.packed, embedder.vocab, EvaluationSettings())
    scorers = [*model_scorers(embedder.network.model), *baselines.scorers[hide]]
    assert result["models"] == {scorer.name: evaluate_scorer(scorer, held_out) for scorer in scorers}
    assert {"booru-embed", "booru-embed-head", "ease", "popularity"} <= set(result["models"])
    assert all(set(one) == {"recall@1", "recall@10", "recall@50", "mrr"} for one in result["models"].values())
    assert f"{new_posts}: 61 posts read, 61 kept, 0 duplicate, 0 rejected, 0 filtered" in found.err
    assert "trained on" not in found.err


def test_evaluate_as_a_table_warns_of_posts_that_were_trained_on(run: Run, trained: Trained) -> None:
    found = run("evaluate", "-c", trained.checkpoint, "--posts", trained.corpus.export)
    assert found.code == 0
    title, header, first, *_ = found.out.splitlines()
    assert title.endswith(" posts, one hidden, seed 7")
    assert header.split() == ["recall@1", "recall@10", "recall@50", "mrr"]
    assert first.split()[0] == "booru-embed"
    num_train = trained.report.num_train_posts
    assert f"warning: {num_train} of 300 posts were trained on; figures flatter" in found.err


def test_evaluate_wants_the_packed_file_that_was_trained_on(
    run: Run, trained: Trained, new_posts: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(trained.checkpoint, tmp_path / "checkpoint" / "v1")
    arguments = ("evaluate", "-c", moved, "--posts", new_posts, "--json")
    message = run(*arguments).failed(1)
    assert message.startswith(f"{tmp_path / 'packed_tokens' / 'v1' / 'tokens.safetensors'}: no such file")
    assert message.endswith("name the packed file that the checkpoint was trained on with --tokens")
    assert run(*arguments, "--tokens", trained.corpus.packed_path).json["num_posts"] == 60
    link = tmp_path / "checkpoint" / "current"
    link.symlink_to("v1")
    shutil.copytree(trained.corpus.packed_path.parent, tmp_path / "packed_tokens" / "v1")
    assert run("evaluate", "-c", link, "--posts", new_posts, "--json").json["num_posts"] == 60


def test_evaluate_refuses_what_is_no_export(run: Run, trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "posts.csv"
    arguments = ("evaluate", "-c", trained.checkpoint, "--posts", file)
    assert str(file) in run(*arguments).failed(1)
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    assert "wrong columns" in run(*arguments).failed(1)
    file.write_bytes(csv_bytes([]))
    assert run(*arguments).code == 1
    message = run("evaluate", "-c", trained.checkpoint, "--posts", trained.corpus.export, "--tokens", file).failed(1)
    assert message.startswith(f"{file}: not a packed file")


def test_as_a_program_json_is_alone_on_stdout(trained: Trained, embedder: BooruEmbedder) -> None:
    process = program("complete", r"solo xyzzy tracer_\(overwatch\)", "-k", 3, "-c", trained.checkpoint, "--json")
    out, err = process.communicate()
    assert process.returncode == 0
    completions = json.loads(out)["completions"]
    wanted = embedder.complete("solo tracer_(overwatch)", k=3)
    assert [one["tag"] for one in completions] == [one.tag for one in wanted]
    assert err.startswith("warning: ")
    assert len(err.splitlines()) == 1


def test_as_a_program_it_exits_with_its_code_and_one_line(tmp_path: Path) -> None:
    failure, wrong_use = program("inspect", "vocab", tmp_path / "nowhere"), program("inspect", "vocab", "-k", "many")
    for process, code in ((failure, 1), (wrong_use, 2)):
        out, err = process.communicate()
        assert (process.returncode, out) == (code, "")
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
    traced = program("--debug", "inspect", "vocab", tmp_path / "nowhere")
    err = traced.communicate()[1]
    assert traced.returncode == 1
    assert err.startswith("Traceback (most recent call last):")


def test_as_a_program_it_ends_quietly_when_nobody_reads_on(trained: Trained) -> None:
    process = program("inspect", "vocab", trained.corpus.vocab_dir, "-k", 100)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait() == 1


def test_help_and_data_commands_start_without_torch() -> None:
    code = "import sys; from booru_embed_core import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
