"""A throw-away PostgreSQL cluster from Debian's packages, with a password, on a port of the loopback."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

INSTALLATIONS = "/usr/lib/postgresql"
REQUIRE_VARIABLE = "BOORU_EMBED_REQUIRE_POSTGRES"
PASSWORD = "p@ss:w rd%?"  # what has to be quoted in an address


@dataclass(frozen=True)
class Postgres:
    """A running cluster without tables."""

    programs: Path
    port: int
    numbers: Iterator[int]

    def new_database(self) -> dict[str, str]:
        """The environment that leads to an empty database of its own."""
        environment = self.environment("postgres")
        name = f"dagster{next(self.numbers)}"
        subprocess.run([self.programs / "createdb", name], env=environment, check=True)
        return self.environment(name)

    def environment(self, database: str) -> dict[str, str]:
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "dagster",
            "PGPASSWORD": PASSWORD,
            "PGDATABASE": database,
        }


def find_programs() -> Path | None:
    """The folder of the newest installed PostgreSQL's programs."""
    folders = [Path(INSTALLATIONS, version, "bin") for version in sorted(_versions(), key=float, reverse=True)]
    return next((folder for folder in folders if (folder / "initdb").is_file()), None)


@contextlib.contextmanager
def running_postgres(programs: Path) -> Iterator[Postgres]:
    """A cluster that is gone when the block ends."""
    # Not below pytest's own folder: PostgreSQL does not run as root, and nobody else can enter that.
    home = Path(tempfile.mkdtemp(prefix="booru-embed-postgres-"))
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    try:
        (home / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(home, user)
            shutil.chown(home / "password", user)
        port, data = _free_port(), home / "data"

        def call(program: str, *arguments: str | Path) -> None:
            subprocess.run([programs / program, "-D", data, *arguments], user=user, cwd=home, check=True)

        call("initdb", "-U", "dagster", "-A", "scram-sha-256", f"--pwfile={home / 'password'}", "--no-sync")
        # -F: no fsync, since nothing here outlives the tests.
        options = f"-F -h 127.0.0.1 -p {port} -k {home}"
        call("pg_ctl", "start", "-w", "-l", home / "log", "-o", options)
        try:
            yield Postgres(programs, port, count())
        finally:
            call("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _versions() -> list[str]:
    return os.listdir(INSTALLATIONS) if os.path.isdir(INSTALLATIONS) else []


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
