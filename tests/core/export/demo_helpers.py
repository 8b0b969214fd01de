"""A stand-in for onnxruntime-web, whose package has 140 MB: no network, but scores that a test can compute."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import TagSets
from booru_embed_core.export.demo_runtime import SCRIPT_FILE, WASM_FILE

RUNTIME_VARIABLE = "BOORU_EMBED_ONNXRUNTIME_WEB"
WASM = b"\0asm, or what is taken for it"
SCRIPT = """class Tensor {
  constructor(type, data, dims) { Object.assign(this, { type, data, dims }); }
}
class Session {
  static async create(graph) { return Object.assign(new Session(), { numBytes: graph.length }); }
  async run(feeds, [name]) {
    if (name === "state") {
      const { input_ids: ids, attention_mask: mask, weights } = feeds;
      if (String(ids.dims) !== String(mask.dims) || mask.data.some((one) => one !== 1n)) throw new Error("mask");
      let sum = 0;
      ids.data.forEach((id, place) => { sum += Number(id) * Math.round(8 * weights.data[place]); });
      return { state: sum };
    }
    const num = globalThis.booruEmbed.vocab.tags.length;
    const score = (_, tag) => ((feeds.state * 31 + tag * 47) % 101) / 8;
    return { logits: { data: Float32Array.from({ length: num }, score) } };
  }
}
const env = { wasm: {} };
export{Session as InferenceSession,Tensor,env as env};
//# sourceMappingURL=none.map
"""


class StandInNetwork:
    """A `Network` with the scores of `SCRIPT`."""

    def __init__(self, num_special: int, num_tags: int, summary_id: int) -> None:
        self._num_special, self._num_tags, self._summary_id = num_special, num_tags, summary_id

    def tag_scores(self, sets: TagSets) -> NDArray[np.float32]:
        assert len(sets.lengths) == 1
        weights = np.rint(8 * sets.tag_weights()).astype(np.int64)
        state = 8 * self._summary_id + int(((sets.tags + self._num_special) * weights).sum())
        scores = ((state * 31 + np.arange(self._num_tags) * 47) % 101) / 8
        return scores[None].astype(np.float32)

    def embeddings(self, sets: TagSets) -> NDArray[np.float32]:
        raise NotImplementedError

    def token_states(self, sets: TagSets) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        raise NotImplementedError


def stand_in_runtime(folder: Path) -> Path:
    """The folder of a package that stands in for onnxruntime-web."""
    (folder / "dist").mkdir(parents=True)
    (folder / "dist" / SCRIPT_FILE).write_text(SCRIPT, encoding="utf-8")
    (folder / "dist" / WASM_FILE).write_bytes(WASM)
    return folder


def real_runtime() -> Path | None:
    """Where the real package lies, if the environment says so."""
    given = os.environ.get(RUNTIME_VARIABLE)
    return Path(given) if given else None
