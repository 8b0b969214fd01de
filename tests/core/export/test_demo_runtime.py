"""onnxruntime-web is found where it is named, and npm fetches it otherwise; what is something else is refused."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from booru_embed_core.export.demo_runtime import SCRIPT_FILE, WASM_FILE, find_runtime
from tests.core.export.demo_helpers import WASM, stand_in_runtime


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return stand_in_runtime(tmp_path / "node_modules" / "onnxruntime-web")


@pytest.fixture
def archive(package: Path, tmp_path: Path) -> Path:
    file = tmp_path / "onnxruntime-web.tgz"
    with tarfile.open(file, "w:gz") as packed:
        packed.add(package, "package")
    return file


def test_a_folder_and_an_archive_give_the_same(package: Path, archive: Path) -> None:
    found = [find_runtime(given) for given in (package, package / "dist", package.parent, archive)]
    assert found == [found[0]] * 4
    assert found[0].wasm == WASM
    script = found[0].script
    assert script.endswith("globalThis.ort={InferenceSession:Session,Tensor:Tensor,env:env};")
    assert "sourceMappingURL" not in script
    assert "export" not in script


def npm(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_npm_packs_it(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "told"
    npm(tmp_path / "bin", f'echo "$@" > {told}; cp {archive} .', monkeypatch)
    assert find_runtime(None).wasm == WASM
    assert told.read_text().startswith("pack onnxruntime-web@1.30.0 ")


def test_a_failure_of_npm_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm(tmp_path / "bin", "echo 'npm error network getaddrinfo' >&2; echo more >&2; exit 1", monkeypatch)
    with pytest.raises(ValueError, match=r"^npm pack onnxruntime-web@1.30.0: npm error network getaddrinfo; run `npm"):
        find_runtime(None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"needs onnxruntime-web@1.30.0 from npm, and npm is not .* --runtime$"):
        find_runtime(None)


def test_what_is_something_else_is_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: not the \.tgz of onnxruntime-web .*No such file.*--runtime"):
        find_runtime(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"empty/{SCRIPT_FILE}: .*; run `npm pack"):
        find_runtime(tmp_path / "empty")
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as packed:
        packed.add(package, "other")
    with pytest.raises(ValueError, match=r"other\.tgz: not the \.tgz of onnxruntime-web"):
        find_runtime(tmp_path / "other.tgz")
    for script in ("const x = 1;", "'</script>';export{x as y};"):
        (package / "dist" / SCRIPT_FILE).write_text(script, encoding="utf-8")
        with pytest.raises(ValueError, match=f"{SCRIPT_FILE} is not that of onnxruntime-web@1.30.0"):
            find_runtime(package)
    (package / "dist" / WASM_FILE).unlink()
    with pytest.raises(ValueError, match=WASM_FILE):
        find_runtime(package)
