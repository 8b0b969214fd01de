"""A script for AUTOMATIC1111's web UI and Forge: adds tags to each prompt, by a running ``booru-embed serve``.

Copy this file into the folder ``scripts`` of the web UI and restart it. It needs no package and no extension.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import gradio as gr
from modules import scripts

SERVER = "http://127.0.0.1:8010"
SECONDS = 30


class BooruEmbed(scripts.Script):  # type: ignore[misc]  # the web UI has no types
    """Adds tags to every prompt of a batch before its pictures are drawn; what you wrote stays as it is."""

    def title(self) -> str:
        """Its name among the scripts."""
        return "booru-embed"

    def show(self, _is_img2img: bool) -> Any:
        """Always, as a part of the page that folds."""
        return scripts.AlwaysVisible

    def ui(self, _is_img2img: bool) -> list[Any]:
        """What `process` gets."""
        with gr.Accordion("booru-embed: add tags", open=False):
            is_on = gr.Checkbox(False, label="Add tags to each prompt, chosen by its seed")
            num_tags = gr.Slider(1, 50, 12, step=1, label="Tags")
            temperature = gr.Slider(0, 2, 0.7, step=0.1, label="Temperature")
            banned = gr.Textbox("", label="Never these, nor what matches", placeholder="*_background, solo")
            server = gr.Textbox(SERVER, label="Server")
        return [is_on, num_tags, temperature, banned, server]

    def process(self, p: Any, is_on: bool, num_tags: float, temperature: float, banned: str, server: str) -> None:
        """Completes the prompts of `p`, each by its own seed."""
        if not is_on:
            return
        names = [name for name in map(str.strip, banned.split(",")) if name]
        p.all_prompts = [
            completed(server, prompt, int(num_tags), temperature, int(seed), names)
            for prompt, seed in zip(p.all_prompts, p.all_seeds, strict=True)
        ]
        p.extra_generation_params["booru-embed"] = f"{int(num_tags)} tags, temperature {temperature:g}"


def completed(server: str, prompt: str, num_tags: int, temperature: float, seed: int, banned: list[str]) -> str:
    """`prompt`, unchanged, and further tags behind it, escaped as the web UI reads them.

    Raises:
        RuntimeError: the server does not run, or refuses the prompt; one line, which the web UI shows.
    """
    asked = {"tags": prompt, "n": num_tags, "temperature": temperature, "seed": seed, "banned": banned}
    drawn = [one["tag"] for one in _call(server, asked)["tags"] if one["origin"] == "drawn"]
    if not drawn:
        return prompt
    tags = _call(server, {"tags": " ".join(drawn), "n": 0, "dialect": "a1111"})["prompt"]
    return f"{prompt.rstrip().rstrip(',')}, {tags}" if prompt.strip() else str(tags)


def _call(server: str, asked: dict[str, Any]) -> Any:
    body, headers = json.dumps(asked).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.rstrip('/')}/api/fill", body, headers)  # noqa: S310  your own server
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"booru-embed: {json.load(error)['error']}") from None
    except OSError as error:
        raise RuntimeError(f"booru-embed: {server} does not answer ({error}); start `booru-embed serve`") from None
