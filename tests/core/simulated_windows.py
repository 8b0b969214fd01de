"""A simulation of Windows on Linux: what this project's modules see and may call; their paths stay those of POSIX.

It is no Windows. It takes from this project's modules alone what typeshed says Windows lacks, and has the calls of the
system fail that fail there: folders cannot be opened, links need a privilege, a file that is open or mapped cannot be
replaced, renamed or removed, and neither can a folder that holds one. Libraries still see Linux.
"""

from __future__ import annotations

import ast
import builtins
import errno
import fcntl
import mmap
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

_OURS = ("booru_embed_core", "booru_embed_dagster")
_WATCHED = (errno, mmap, os, shutil, signal, socket, sys, time)
_O_TEMPORARY = 1 << 30
_Name = str | bytes | os.PathLike[str]


def stubs() -> Path:
    """The folder of typeshed's stubs of the standard library."""
    found = find_spec("mypy")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "typeshed/stdlib"


def _stub(module: str) -> Path:
    one = stubs() / f"{module.replace('.', '/')}.pyi"
    return one if one.exists() else one.with_suffix("") / "__init__.pyi"


def _parsed(module: str) -> list[ast.stmt]:
    return ast.parse(_text(module)).body


def lacking(module: str) -> set[str]:
    """The names that `module` has on Linux and not on Windows, by its stub."""
    return set(_defined(_parsed(module), "linux")) - set(_defined(_parsed(module), "win32"))


def lacking_modules() -> set[str]:
    """The modules of the standard library that define names on Linux and none on Windows, by their stubs."""
    told = [one for one in sys.stdlib_module_names if "win32" in _text(one)]
    return {"termios", *(one for one in told if _has_names(one, "linux") and not _has_names(one, "win32"))}


def _text(module: str) -> str:
    return _stub(module).read_text(encoding="utf-8") if _stub(module).exists() else ""


def _has_names(module: str, system: str) -> bool:
    own = [one for one in _parsed(module) if not isinstance(one, ast.Import | ast.ImportFrom)]
    return next(_defined(own, system), None) is not None


def _defined(body: list[ast.stmt], system: str) -> Iterator[str]:
    """The names that `body` of a stub defines on `system`, whatever the version of Python."""
    for one in body:
        if isinstance(one, ast.If):
            holds = _holds(one.test, system)
            yield from _defined(one.body if holds is not False else [], system)
            yield from _defined(one.orelse if holds is not True else [], system)
        elif isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield one.name
        elif isinstance(one, ast.Assign | ast.AnnAssign):
            targets = one.targets if isinstance(one, ast.Assign) else [one.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name) and target.id != "__all__")
        elif isinstance(one, ast.ImportFrom):
            if not one.level and one.names[0].name == "*":
                yield from _defined(_parsed(one.module or ""), system)
            yield from (name.asname or name.name for name in one.names if name.name != "*")


def _holds(test: ast.expr, system: str) -> bool | None:
    """Whether the condition of a stub holds on `system`; None if it does not tell."""
    if isinstance(test, ast.BoolOp):
        values = [_holds(value, system) for value in test.values]
        if isinstance(test.op, ast.And):
            return False if False in values else None if None in values else True
        return True if True in values else None if None in values else False
    if isinstance(test, ast.Compare) and ast.unparse(test.left) == "sys.platform":
        (right,) = test.comparators
        is_equal = ast.literal_eval(right) == system
        return is_equal if isinstance(test.ops[0], ast.Eq) else not is_equal
    return None


def simulate() -> None:
    """Has this process take itself for one on Windows, as far as the module says, until it ends."""
    gone = lacking_modules()
    replaced = {"os": _system_calls(), "sys": {"platform": "win32"}}
    for module in _WATCHED:
        module.__class__ = _watched(lacking(module.__name__), replaced.get(module.__name__, {}))
    imported, msvcrt = builtins.__import__, _msvcrt()

    def import_(name: str, scope: Any = None, *rest: Any, **named: Any) -> Any:
        if str((scope or {}).get("__name__", "")).startswith(_OURS):
            if name == "msvcrt":
                return msvcrt
            if name.partition(".")[0] in gone:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, scope, *rest, **named)

    builtins.__import__ = import_
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    for name in ("replace", "rename", "remove", "unlink", "rmdir"):
        setattr(os, name, _refusing_open_files(getattr(os, name)))


def _watched(gone: set[str], replaced: dict[str, Any]) -> type[ModuleType]:
    class Watched(ModuleType):
        def __getattribute__(self, name: str) -> Any:
            if name in gone or name in replaced:
                caller = sys._getframe(1).f_globals.get("__name__", "")
                if caller.startswith(_OURS):
                    if name in replaced:
                        return replaced[name]
                    raise AttributeError(f"module has no attribute {name!r} on Windows")
            return super().__getattribute__(name)

    return Watched


def _system_calls() -> dict[str, Any]:
    """What this project's own calls of ``os`` do on Windows."""
    temporary: dict[int, _Name] = {}
    open_, close, fsync = os.open, os.close, os.fsync

    def opened(path: _Name, flags: int, *mode: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        descriptor = open_(path, flags & ~_O_TEMPORARY, *mode)
        if flags & _O_TEMPORARY:
            temporary[descriptor] = path
        return descriptor

    def closed(descriptor: int) -> None:
        close(descriptor)
        path = temporary.pop(descriptor, None)
        if path is not None and path not in temporary.values():
            os.unlink(path)

    def synced(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        fsync(descriptor)

    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    calls = {"open": opened, "close": closed, "fsync": synced, "symlink": no_links}
    return {**calls, "name": "nt", "O_TEMPORARY": _O_TEMPORARY}


def _msvcrt() -> SimpleNamespace:
    def locking(descriptor: int, mode: int, num_bytes: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    return SimpleNamespace(locking=locking, LK_NBLCK=2)


def _refusing_open_files(call: Callable[..., None]) -> Callable[..., None]:
    """`call` of ``os``, which fails where a file is open or mapped that it would replace, rename or remove."""

    def refusing(path: _Name, *others: Any, **named: Any) -> None:
        target = [others[0]] if others else []
        for one in map(os.path.realpath, [path, *target]):
            used = [name for name in _used() if name == one or name.startswith(f"{one}/")]
            if used:
                raise PermissionError(errno.EACCES, f"it is open: {used}", one)
        if target and os.path.isdir(target[0]):
            raise PermissionError(errno.EACCES, "a folder is there", os.fspath(target[0]))
        if target and call.__name__ == "rename" and os.path.exists(target[0]):
            raise FileExistsError(errno.EEXIST, "a file is there", os.fspath(target[0]))
        call(path, *others, **named)

    return refusing


def _used() -> set[str]:
    """The files that this process has open or mapped."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    with open("/proc/self/maps") as maps:
        found |= {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
    return found
