"""Draws ``conditioning.png``: runs the Python of the guide as it stands, in the folder where ``make run`` was."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

IMAGES = Path(__file__).parent
GUIDE = IMAGES.parent / "guides" / "condition-a-model.md"


def main() -> None:
    names: dict[str, Any] = {}
    started = time.process_time()
    for code in re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(code, str(GUIDE), "exec"), names)  # noqa: S102  # our own page
    print(f"{time.process_time() - started:.0f} CPU seconds")
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for name, label in {"without": "the empty caption always", "with_captions": "captions"}.items():
        axes.plot(*zip(*names[name], strict=True), marker=".", label=label)
    axes.set(xlabel="steps", ylabel="loss on held-out posts", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(IMAGES / "conditioning.png", dpi=120)


if __name__ == "__main__":
    main()
