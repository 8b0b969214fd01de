"""The node pack as ComfyUI loads it, and a running ComfyUI."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import socket
from types import ModuleType
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"
FOLDER_VARIABLE = "BOORU_EMBED_COMFYUI"
PYTHON_VARIABLE = "BOORU_EMBED_COMFYUI_PYTHON"
START_SECONDS = 240


def loaded_pack(name: str = "comfyui_pack") -> ModuleType:
    """The pack as a package of that name, by the same steps as in ComfyUI's ``load_custom_node``."""
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class ComfyUI:
    """A server, asked by its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        with urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """The history of `prompt`, a workflow in API format, after it ran."""
        body = json.dumps({"prompt": prompt}).encode()
        with urlopen(Request(f"{self.url}/prompt", body, {"Content-Type": "application/json"}), timeout=60) as answer:
            prompt_id = json.load(answer)["prompt_id"]
        while True:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                found: dict[str, Any] = history[prompt_id]
                return found
            time.sleep(0.1)


@contextmanager
def running_comfyui(folder: Path, work: Path, checkpoint: Path) -> Iterator[ComfyUI]:
    """ComfyUI from its `folder`, on the CPU, whose only custom nodes are the pack; its own files lie in `work`."""
    (work / "custom_nodes").mkdir(parents=True)
    (work / "user").mkdir()
    (work / "custom_nodes" / "booru_embed").symlink_to(PACK)
    with closing(socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        os.environ.get(PYTHON_VARIABLE, sys.executable), "main.py", "--cpu", "--listen", "127.0.0.1",
        "--port", str(port), "--base-directory", str(work), "--disable-api-nodes", "--disable-auto-launch",
        "--database-url", f"sqlite:///{work / 'user' / 'comfyui.db'}",
    ]  # fmt: skip
    environment = os.environ | {"BOORU_EMBED_CHECKPOINT": str(checkpoint), "PYTHONDONTWRITEBYTECODE": "1"}
    with (
        (work / "log").open("wb") as log,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            server = ComfyUI(port)
            _wait(server, process, work / "log")
            yield server
        finally:
            process.kill()


def _wait(server: ComfyUI, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            server.get("/queue")
        except URLError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"ComfyUI did not start:\n{log.read_text(errors='replace')[-3000:]}")
