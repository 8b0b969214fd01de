"""The node pack for ComfyUI, by ComfyUI's documented interface; and in ComfyUI itself, where its folder is named."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from booru_embed_core import BooruEmbedder
from booru_embed_core.embedder.results import UnknownTagsError
from booru_embed_core.training.checkpoint_config import CheckpointError
from tests.integrations.comfyui_helpers import FOLDER_VARIABLE, PACK, loaded_pack, running_comfyui

if TYPE_CHECKING:
    from tests.core.model_helpers import Trained

EXAMPLE = PACK / "example_api.json"
WORKFLOW = PACK / "example_workflows" / "complete_a_prompt.json"
BUILT_IN = {"PreviewAny"}
WIDGETS = {"STRING", "INT", "FLOAT"}


@pytest.fixture(scope="module")
def pack() -> ModuleType:
    return loaded_pack()


@pytest.fixture(scope="module")
def model(pack: ModuleType, trained: Trained) -> BooruEmbedder:
    (embedder,) = pack.NODE_CLASS_MAPPINGS["BooruEmbedLoad"]().run(str(trained.checkpoint))
    assert isinstance(embedder, BooruEmbedder)
    return embedder


def call(pack: ModuleType, name: str, **values: Any) -> Any:
    """What the node `name` returns, called as ComfyUI does: its method by name, other inputs by their defaults."""
    node = pack.NODE_CLASS_MAPPINGS[name]
    inputs = {}
    for key, (kind, *options) in node.INPUT_TYPES()["required"].items():
        default = options[0].get("default") if options else None
        inputs[key] = kind[0] if isinstance(kind, list) and default is None else default
    return getattr(node(), node.FUNCTION)(**inputs | values)


def test_nodes_have_the_documented_interface(pack: ModuleType) -> None:
    assert set(pack.NODE_CLASS_MAPPINGS) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
    assert (PACK / pack.WEB_DIRECTORY).is_dir()
    for name, node in pack.NODE_CLASS_MAPPINGS.items():
        inputs = node.INPUT_TYPES()
        assert set(inputs) == {"required"}
        assert (
            len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(getattr(node, "OUTPUT_TOOLTIPS", node.RETURN_TYPES))
        )
        code = getattr(node, node.FUNCTION).__code__
        assert code.co_varnames[1 : code.co_argcount] == tuple(inputs["required"]), name
        assert node.CATEGORY
        assert node.DESCRIPTION
        json.dumps(inputs)  # the page asks for it as JSON


def test_the_pack_needs_the_base_alone() -> None:
    """What modules import when they are loaded; inside functions, the embed node imports torch."""
    base = {"__future__", "booru_embed_core", "numpy", "safetensors", *sys.stdlib_module_names}
    for file in PACK.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                assert {name.name.split(".")[0] for name in node.names} <= base, file
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] in base, file


def test_complete_gives_the_tags_of_the_library(pack: ModuleType, model: BooruEmbedder) -> None:
    caption = "1girl, (cat ears:1.2), no_such_tag"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # notes tell of unknown tags, not ComfyUI's log
        prompt, tags, table, notes = call(pack, "BooruEmbedComplete", model=model, caption=caption, k=3, ban="*ail")
        assert "no_such_tag: not in the vocabulary" in notes.splitlines()
    with pytest.warns(UserWarning, match="no_such_tag"):
        expected = model.complete(caption, 3, banned=["*ail"])
    assert [line.split()[-1] for line in table.splitlines()] == [one.tag for one in expected]
    assert prompt == f"1girl, (cat ears:1.2), no such tag, {tags}"
    assert model.normalize(tags).tags == tuple((one.category, one.tag) for one in expected)


def test_a_category_and_a_dialect_are_obeyed(pack: ModuleType, model: BooruEmbedder) -> None:
    _, tags, *_ = call(pack, "BooruEmbedComplete", model=model, caption="", k=9, category="character")
    assert "tracer \\(overwatch\\)" in tags
    assert len(tags.split(", ")) == 3
    _, tags, *_ = call(
        pack, "BooruEmbedComplete", model=model, caption="", k=9, category="character", dialect="danbooru"
    )
    assert "tracer_(overwatch)" in tags.split(" ")


def test_fill_gives_the_caption_of_the_library(pack: ModuleType, model: BooruEmbedder) -> None:
    values = {"caption": "1girl", "n": 5, "temperature": 1.0, "seed": 3}
    prompt, tags, _ = call(
        pack, "BooruEmbedFill", model=model, **values, categories="general\n, character", limits="character = 0"
    )
    filled = model.fill(**values, categories=["general", "character"], limits={"character": 0})
    assert prompt == filled.prompt("comfyui") == f"1girl, {tags}"


def test_similar_tags_are_those_of_the_library(pack: ModuleType, model: BooruEmbedder) -> None:
    tags, table = call(pack, "BooruEmbedSimilar", model=model, tag="cat ears,\n", k=3)
    names = [one.tag for one in model.similar_tags("cat_ears", 3)]
    assert [line.split()[-1] for line in table.splitlines()] == names
    assert tags == ", ".join(name.replace("_", " ") for name in names)


def test_a_caption_becomes_a_prompt(pack: ModuleType, model: BooruEmbedder) -> None:
    prompt, unknown, notes = call(
        pack, "BooruEmbedPrompt", model=model, caption="tracer_(overwatch) {cat_ears} no_such_tag"
    )
    assert prompt == "tracer \\(overwatch\\), (cat ears:1.05), no such tag"
    assert unknown == "no_such_tag"
    assert "no_such_tag: not in the vocabulary" in notes
    _, _, notes = call(pack, "BooruEmbedPrompt", model=model, caption="{cat_ears}", dialect="danbooru")
    assert "a danbooru prompt has no weights; left out: cat_ears (1.05)" in notes


def test_embed_gives_states_and_the_pooled_vector(pack: ModuleType, model: BooruEmbedder, tmp_path: Path) -> None:
    conditioning, notes = call(pack, "BooruEmbedEmbed", model=model, caption="1girl, cat ears", rating="g", score="-2")
    ((states, options),) = conditioning
    assert states.dtype == options["pooled_output"].dtype == torch.float32
    expected, _ = model.hidden_states(["1girl, cat ears"], "g", -2)
    np.testing.assert_array_equal(states.numpy(), expected[None])
    vector = model.embed(["1girl, cat ears"], "g", -2)
    np.testing.assert_allclose(options["pooled_output"].numpy(), vector * 4, rtol=1e-6)  # the root of 16
    assert notes == ""

    adapter = torch.nn.ModuleDict({"states": torch.nn.Linear(32, 7), "pooled": torch.nn.Linear(16, 5, bias=False)})
    file = tmp_path / "adapter.safetensors"
    save_file({name: value.numpy() for name, value in adapter.state_dict().items()}, file)
    ((mapped, mapped_options),), _ = call(
        pack, "BooruEmbedEmbed", model=model, caption="1girl, cat ears", rating="g", score="-2", adapter=str(file)
    )
    with torch.inference_mode():
        torch.testing.assert_close(mapped, adapter["states"](states))
        torch.testing.assert_close(mapped_options["pooled_output"], adapter["pooled"](options["pooled_output"]))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("BooruEmbedComplete", {"caption": "no_such_tag"}, "no_such_tag"),
        ("BooruEmbedFill", {"caption": "1girl", "limits": "artist"}, "limits: 'artist'.*artist=0"),
        ("BooruEmbedFill", {"caption": "1girl", "categories": "colour"}, "'colour' is not one of"),
        ("BooruEmbedSimilar", {"tag": "1girl, solo"}, "2 tags, not one"),
        ("BooruEmbedEmbed", {"caption": "1girl", "score": "many"}, "score: 'many' is not a whole number"),
        ("BooruEmbedEmbed", {"caption": "1girl", "score": "3"}, "score 3 needs a rating"),
        ("BooruEmbedEmbed", {"caption": "1girl", "adapter": "/nowhere/a"}, "adapter /nowhere/a: .*leave it empty"),
    ],
)
def test_errors_have_one_line(
    pack: ModuleType, model: BooruEmbedder, name: str, values: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        call(pack, name, model=model, **values)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"states.weight": (3, 31)}, r"\[3, 31\].* does not map the 32 numbers of states"),
        ({"pooled.bias": (3,)}, "does not map the 16 numbers of pooled"),
        ({"states.weight": (3, 32), "states.bias": (4,)}, "does not map"),
        ({"linear.weight": (3, 32)}, "holds linear.weight, not"),
    ],
)
def test_adapters_of_other_sizes_are_refused(
    pack: ModuleType, model: BooruEmbedder, tmp_path: Path, weights: dict[str, tuple[int, ...]], message: str
) -> None:
    file = tmp_path / "adapter.safetensors"
    save_file({name: np.ones(shape, np.float32) for name, shape in weights.items()}, file)
    with pytest.raises(ValueError, match=message):
        call(pack, "BooruEmbedEmbed", model=model, caption="1girl", adapter=str(file))


def test_checkpoints_are_found_in_the_folder_of_models(
    pack: ModuleType, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`folder_paths`, a module of ComfyUI, is stood in for."""
    resolved = sys.modules[f"{pack.__name__}.checkpoints"].resolved
    monkeypatch.delenv("BOORU_EMBED_CHECKPOINT", raising=False)
    with pytest.raises(ValueError, match=r"models/booru_embed .*it is empty"):
        resolved("")
    monkeypatch.setitem(sys.modules, "folder_paths", SimpleNamespace(models_dir=str(tmp_path)))
    (tmp_path / "booru_embed").mkdir()
    (tmp_path / "booru_embed" / "mine").symlink_to(trained.checkpoint)
    assert resolved("") == resolved(" mine ") == resolved(str(trained.checkpoint)) == trained.checkpoint.resolve()
    (tmp_path / "booru_embed" / "other").mkdir()
    with pytest.raises(ValueError, match="it has mine, other; write one of them"):
        resolved("")
    monkeypatch.setenv("BOORU_EMBED_CHECKPOINT", str(trained.checkpoint))
    assert resolved("") == trained.checkpoint.resolve()
    with pytest.raises(CheckpointError, match="nowhere"):
        call(pack, "BooruEmbedLoad", checkpoint="nowhere")


def test_tags_are_listed_as_they_begin(pack: ModuleType, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route, with ComfyUI's module `server` stood in for."""
    web = pytest.importorskip("aiohttp.web")
    from aiohttp.test_utils import make_mocked_request

    routes = web.RouteTableDef()
    stand_in = SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(routes=routes)))
    monkeypatch.setitem(sys.modules, "server", stand_in)
    sys.modules[f"{pack.__name__}.autocomplete"].add_route()
    (route,) = routes

    def ask(text: str, checkpoint: object = trained.checkpoint, k: int = 10) -> Any:
        request = make_mocked_request("GET", f"{route.path}?checkpoint={checkpoint}&k={k}&text={text}")
        answer = asyncio.run(route.handler(request))
        return json.loads(answer.body), answer.status

    found, status = ask("solo, (cat+e")
    assert (status, found) == (
        200, [{"tag": "cat_ears", "category": "general", "count": found[0]["count"], "insert": "cat ears", "typed": 6,
               "alias": None}]
    )  # fmt: skip
    assert [one["insert"] for one in ask("tra")[0]] == ["tracer \\(overwatch\\)"]
    assert [one["tag"] for one in ask("1girl cat_e")[0]] == ["cat_ears"]  # spaces separate
    assert ask("1girl, blue cat")[0] == []  # commas separate
    counts = [one["count"] for one in ask("s")[0]]
    assert counts == sorted(counts, reverse=True)
    assert [one["tag"] for one in ask("character:h")[0]] == ["hatsune_miku"]
    assert len(ask("s", k=2)[0]) == 2
    found, status = ask("s", "/nowhere")
    assert (status, "/nowhere" in found["error"]) == (400, True)


def test_the_example_is_one_graph_in_both_formats(pack: ModuleType) -> None:
    api, workflow = (json.loads(file.read_text(encoding="utf-8")) for file in (EXAMPLE, WORKFLOW))
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        values = {}
        if node["type"] not in BUILT_IN:
            inputs = pack.NODE_CLASS_MAPPINGS[node["type"]].INPUT_TYPES()["required"]
            names = []
            for name, (kind, *options) in inputs.items():
                if isinstance(kind, list) or kind in WIDGETS:
                    names += [name, "control"] if options and "control_after_generate" in options[0] else [name]
            values = dict(zip(names, node["widgets_values"], strict=True))
            values.pop("control", None)
        linked = {one["name"]: links[one["link"]] for one in node["inputs"] if one["link"] is not None}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": values | linked}
    assert graph == api
    assert {node["class_type"] for node in api.values()} == {*pack.NODE_CLASS_MAPPINGS, *BUILT_IN}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_comfyui_runs_the_example(trained: Trained, tmp_path: Path) -> None:
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        pytest.skip(f"{FOLDER_VARIABLE} names no folder of ComfyUI, whose requirements are installed")
    api = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    with running_comfyui(Path(folder), tmp_path / "base", trained.checkpoint) as comfyui:
        assert {f"BooruEmbed{name}" for name in ("Load", "Complete", "Fill", "Similar", "Embed", "Prompt")} <= set(
            comfyui.get("/object_info")
        )
        assert "/extensions/booru_embed/autocomplete.js" in comfyui.get("/extensions")
        history = comfyui.run(api)
        assert history["status"]["status_str"] == "success", history["status"]
        texts = {key: output["text"][0] for key, output in history["outputs"].items()}
        embedder = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
        filled = embedder.fill("1girl, (cat ears:1.2)", 12, 0.7, 7, ["general"])
        assert texts["3"] == filled.prompt("comfyui")
        assert texts["9"].startswith("1girl, solo, (cat ears:1.05)")
        assert "pooled_output" in texts["11"]
        completed = [one.tag for one in embedder.complete("1girl, cat ears", 6)]
        assert [line.split()[-1] for line in texts["5"].splitlines()] == completed
        assert [one["tag"] for one in comfyui.get("/booru_embed/tags?text=1girl,%20cat")] == ["cat_ears"]

        api["2"]["inputs"]["caption"] = "no_such_tag"
        failed = comfyui.run({key: api[key] for key in ("1", "2", "3")})
        ((_, error),) = [message for message in failed["status"]["messages"] if message[0] == "execution_error"]
        assert error["node_type"] == "BooruEmbedFill"
        assert error["exception_type"].endswith(UnknownTagsError.__name__)
        assert error["exception_message"].strip().count("\n") == 0
