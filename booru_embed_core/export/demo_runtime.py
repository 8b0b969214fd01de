"""onnxruntime-web, which computes the network in the demo page: from npm, or from where it was unpacked."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from booru_embed_core.errors import first_line

PACKAGE: Final = "onnxruntime-web"
RUNTIME_VERSION: Final = "1.30.0"
SCRIPT_FILE: Final = "ort.wasm.bundle.min.mjs"
WASM_FILE: Final = "ort-wasm-simd-threaded.wasm"
_SPECIFIER: Final = f"{PACKAGE}@{RUNTIME_VERSION}"
_REMEDY: Final = f"run `npm pack {_SPECIFIER}` where npm is, and name the .tgz with --runtime"
_EXPORTS: Final = re.compile(r"export\s*\{([^{}]*)\};?\s*(?://[^\n]*)?\s*\Z")
_SOURCE_MAP: Final = re.compile(r"//# sourceMappingURL=[^\n]*")


@dataclass(frozen=True)
class Runtime:
    """The script of onnxruntime-web as statements that set ``globalThis.ort``, and its WebAssembly."""

    script: str
    wasm: bytes


def find_runtime(given: Path | None) -> Runtime:
    """The runtime in `given`: the package's folder, its ``dist``, or its ``.tgz``; without one, npm packs it.

    Raises:
        ValueError: it is not there, is not this package, or npm is missing or fails.
    """
    if given is None:
        with tempfile.TemporaryDirectory(prefix="booru-embed-") as folder:
            return _read(_packed(Path(folder)))
    return _read(given)


def _packed(folder: Path) -> Path:
    """The package as npm packs it into `folder`, by the registry that npm is set up for; npm checks its hash."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"the demo needs {_SPECIFIER} from npm, and npm is not on the PATH; {_REMEDY}")
    command = [npm, "pack", _SPECIFIER, "--silent", "--prefer-offline", "--pack-destination", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603  # npm itself
    packed = sorted(folder.glob("*.tgz"))
    if done.returncode or not packed:
        said = next((line for line in done.stderr.splitlines() if line.strip()), "it wrote nothing")
        raise ValueError(f"npm pack {_SPECIFIER}: {said}; {_REMEDY}")
    return packed[0]


def _read(path: Path) -> Runtime:
    if path.is_dir():
        folder = next(
            (one for one in (path / "dist", path / PACKAGE / "dist", path) if (one / SCRIPT_FILE).is_file()), path
        )
        files = {name: _content(folder / name) for name in (SCRIPT_FILE, WASM_FILE)}
    else:
        files = _unpacked(path)
    return Runtime(_as_statements(files[SCRIPT_FILE].decode("utf-8"), path), files[WASM_FILE])


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: {first_line(error)}; {_REMEDY}") from None


def _unpacked(archive: Path) -> dict[str, bytes]:
    found = {}
    try:
        with tarfile.open(archive) as packed:
            for name in (SCRIPT_FILE, WASM_FILE):
                member = packed.extractfile(f"package/dist/{name}")
                assert member is not None  # None for folders and links, which raise KeyError before or are not packed
                found[name] = member.read()
    except (OSError, KeyError, tarfile.TarError) as error:
        raise ValueError(f"{archive}: not the .tgz of {PACKAGE} ({first_line(error)}); {_REMEDY}") from None
    return found


def _as_statements(script: str, path: Path) -> str:
    """`script`, a module, for a page that holds it: a page from a file may not import modules.

    Raises:
        ValueError: it does not end with exports, or cannot stand in a page.
    """
    exports = _EXPORTS.search(script)
    if exports is None or "</script" in script:
        raise ValueError(f"{path}: {SCRIPT_FILE} is not that of {_SPECIFIER}; {_REMEDY}")
    names = [name.split(" as ") for name in exports[1].split(",") if name.strip()]
    given = ",".join(f"{name[-1].strip()}:{name[0].strip()}" for name in names)
    return _SOURCE_MAP.sub("", script[: exports.start()]) + f"globalThis.ort={{{given}}};"
