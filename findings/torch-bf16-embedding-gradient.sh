#!/usr/bin/env bash
# torch 2.13.0 on a CPU: in bf16 the gradient of a row of a table that is looked up 4,000 times is 256.
#
# Expected: 4,000 (3,984 to 4,016 after rounding), as from `index_select` and from a product with one-hot rows.
# Seen: `embedding(ids, table)` and `table[ids]` add the rows one by one in bf16, where 256 + 1 is 256.
# Usage: torch-bf16-embedding-gradient.sh [PYTHON], an interpreter with torch; without one, it makes an environment.
# Exits with 0 while this is so, and with 1 once a release changes it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${1:-}
if [ -z "$python" ]; then
	python3 -m venv "$folder/env"
	python=$folder/env/bin/python
	"$python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 > "$folder/pip.log" 2>&1
fi
cat > "$folder/gradients.py" << 'PYTHON'
import sys

import torch
from torch.nn import functional as F

ids = torch.zeros(4_000, dtype=torch.int64)
ways = {
    "embedding": lambda table: F.embedding(ids, table),
    "table[ids]": lambda table: table[ids],
    "index_select": lambda table: table.index_select(0, ids),
    "product": lambda table: F.one_hot(ids, 2).to(table.dtype) @ table,
}
found = {}
for name, look_up in ways.items():
    table = torch.ones(2, 8, dtype=torch.bfloat16, requires_grad=True)
    look_up(table).sum().backward()
    found[name] = table.grad[0, 0].item()
    print(f"torch {torch.__version__}, {name}: {found[name]:g}")
stands_still = found["embedding"] == found["table[ids]"] == 256
sys.exit(not (stands_still and abs(found["index_select"] - 4_000) < 17 and abs(found["product"] - 4_000) < 17))
PYTHON
"$python" "$folder/gradients.py"
