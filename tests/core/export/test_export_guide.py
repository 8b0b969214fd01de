"""The guide's commands and snippets run, in their order, where the guide says they run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.schema import ExportFormat
from tests.core.cli_helpers import Run
from tests.core.model_helpers import Trained

GUIDE = Path(__file__).parents[3] / "docs/guides/export.md"


def test_the_guide_runs(run: Run, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gensim")
    pytest.importorskip("sentence_transformers")
    (tmp_path / "data/warehouse/checkpoint").mkdir(parents=True)
    (tmp_path / "data/warehouse/checkpoint/current").symlink_to(trained.checkpoint)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exported = []
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S):
        if language == "python":
            exec(code, names)
            continue
        assert language == "sh"
        for line in code.splitlines():
            program, command, form, *options = shlex.split(line)
            assert (program, command) == ("booru-embed", "export")
            assert run(command, form, *options).code == 0
            exported.append(form)
    assert {*exported, ExportFormat.DEMO} == set(ExportFormat)  # the demo has a guide and tests of its own
    embedder = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
    assert names["vectors"] == pytest.approx(embedder.embed(["1girl cat_ears solo", "hatsune_miku solo"]), abs=1e-5)
    assert names["embedding"] == pytest.approx(embedder.embed(["1girl cat_ears tail", "solo"]), abs=1e-5)
    best = [embedder.vocab.tags[i] for i in np.argsort(-names["logits"][1])]
    offered = [one.tag for one in embedder.complete("solo", k=5)]
    assert [tag for tag in best if tag != "solo"][:5] == offered
    assert names["table"].num_rows == len(names["words"]) == embedder.vocab.num_tags
