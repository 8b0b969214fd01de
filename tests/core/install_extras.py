"""Installs the wheel with each extra into a new environment, as a user would, and runs its smoke test.

    python tests/core/install_extras.py CHECKPOINT [EXTRA …]

Needs a network and several minutes: torch alone has hundreds of megabytes. `test_wheel` is the quick variant.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from tests.core.install_helpers import ROOT, SMOKE, build_wheel, handed, smoke


def main(checkpoint: Path, extras: list[str]) -> None:
    """Prints one line per extra; exits with 1 if one fails."""
    failed = []
    with tempfile.TemporaryDirectory(prefix="booru-embed-") as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        for extra in extras:
            started = time.monotonic()
            home = folder / "environments" / (extra or "base")
            venv.create(home, with_pip=True)
            python = home / "bin/python"
            asked = f"{wheel}[{extra}]" if extra else str(wheel)
            pins = ["--constraint", str(ROOT / "constraints.txt")]
            subprocess.run([python, "-I", "-m", "pip", "install", "--quiet", *pins, asked], check=True)
            subprocess.run([python, "-I", "-m", "pip", "check"], check=True, stdout=subprocess.DEVNULL)
            code = [python, "-I", "-c", smoke(extra), handed(extra, checkpoint, folder).resolve(), home / "vectors.npy"]
            done = subprocess.run(code, capture_output=True, text=True)
            size = sum(file.lstat().st_size for file in home.rglob("*")) / 1e6
            what = "runs" if done.returncode == 0 else f"FAILS: {done.stderr.strip().splitlines()[-1]}"
            seconds = time.monotonic() - started
            print(f"booru-embed[{extra}]: {what}; {size:,.0f} MB, {seconds:.0f} s in all", flush=True)  # noqa: T201
            failed += [extra] * (done.returncode != 0)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(SMOKE))
