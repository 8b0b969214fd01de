"""The script for AUTOMATIC1111's web UI and Forge, against a real server; the web UI itself is not to be had here.

``modules.scripts`` and ``gradio`` are replaced by what the script takes from their documented interfaces.
"""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.web.app import create_app
from booru_embed_core.web.completions import Completer
from booru_embed_core.web.served import Loading, Served
from booru_embed_core.web.server import DrainingServer, server_config
from tests.core.model_helpers import Trained

SCRIPT = Path(__file__).parents[2] / "integrations/a1111/booru_embed.py"
pytestmark = pytest.mark.filterwarnings("ignore::booru_embed_core.embedder.results.UnknownTagsWarning")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, as the web UI imports it."""

    class Script:
        pass

    scripts = SimpleNamespace(Script=Script, AlwaysVisible=object())
    modules = ModuleType("modules")
    modules.scripts = scripts  # type: ignore[attr-defined]
    gradio = ModuleType("gradio")
    gradio.Accordion = lambda *_args, **_options: nullcontext()  # type: ignore[attr-defined]
    for name in ("Checkbox", "Slider", "Textbox"):
        setattr(gradio, name, lambda *args, **_options: args)
    monkeypatch.setitem(sys.modules, "modules", modules)
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    spec = importlib.util.spec_from_file_location("a1111_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(trained: Trained) -> Iterator[str]:
    """The address of the API in a thread."""
    embedder = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
    served = Served(embedder, Completer(embedder))
    listening = socket.create_server(("127.0.0.1", 0))
    running = DrainingServer(server_config(create_app(Loading(lambda: served))))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    while not running.started:
        threading.Event().wait(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join()


def processed(script: Any, prompts: list[str], *values: Any) -> Any:
    p = SimpleNamespace(all_prompts=prompts, all_seeds=list(range(len(prompts))), extra_generation_params={})
    script.BooruEmbed().process(p, *values)
    return p


def test_prompts_keep_what_is_written_and_get_escaped_tags(script: Any, server: str) -> None:
    prompts = [r"masterpiece, (cat ears:1.2), <lora:style:0.8>,", "overwatch", "", "overwatch"]
    p = processed(script, prompts, True, 20.0, 0.7, "tail, *_pose", server)
    assert [found.startswith(prompt) for found, prompt in zip(p.all_prompts, prompts, strict=True)] == [True] * 4
    assert p.all_prompts[1] != p.all_prompts[3]  # by their seeds
    assert p.all_prompts == processed(script, prompts, True, 20.0, 0.7, "tail, *_pose", server).all_prompts
    added = ", ".join(p.all_prompts)
    assert r"tracer \(overwatch\)" in added
    assert "tail" not in added
    assert "pose" not in added
    assert p.extra_generation_params == {"booru-embed": "20 tags, temperature 0.7"}


def test_it_is_off_until_it_is_chosen_and_tells_of_a_server_that_does_not_run(script: Any, server: str) -> None:
    first, *_, address = script.BooruEmbed().ui(False)
    assert (first[0], address[0]) == (False, "http://127.0.0.1:8010")
    assert script.BooruEmbed().show(False) is not None
    assert processed(script, ["hat"], False, 1, 1, "", "").all_prompts == ["hat"]
    with pytest.raises(RuntimeError, match="booru-embed: banned: "):
        processed(script, ["hat"], True, 1, 0.7, ",".join(["a"] * 101), server)
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RuntimeError, match="start `booru-embed serve`"):
        processed(script, ["hat"], True, 1, 0.7, "", closed)
