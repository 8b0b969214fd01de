#!/usr/bin/env bash
# Dagster 1.13.27: a selection that matches nothing materializes every asset, and the exit code is 0.
#
# Expected: an error, as for the misspelled name of an asset alone (`--select vocabb`), or at least an empty run.
# Seen: selections of the grammar with attributes (`key:`, `kind:`, `and`) that match nothing resolve to no key, and a
# run of no keys is one of all. `dg launch --assets` does the same. `booru-embed build` refuses them.
# Exits with 0 while this is so, and with 1 once a release changes it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
	dagster==1.13.27 dagster-dg-cli==1.13.27 dagster-shared==1.13.27 dagster-pipes==1.13.27 "click==8.4.2" "typer==0.25.1" \
	> "$folder/pip.log" 2>&1
cat > "$folder/definitions.py" << 'PYTHON'
from pathlib import Path

import dagster as dg


def note(name: str) -> None:
    with Path("materialized").open("a") as names:
        names.write(f"{name}\n")


@dg.asset
def posts() -> None:
    note("posts")


@dg.asset(deps=[posts])
def vocab() -> None:
    note("vocab")


defs = dg.Definitions(assets=[posts, vocab], executor=dg.in_process_executor)
PYTHON
mkdir "$folder/home"
export DAGSTER_HOME="$folder/home" DAGSTER_DISABLE_TELEMETRY=1
cd "$folder"

# Prints the exit code of a command, and which assets it materialized.
tried() {
	local code=0
	: > materialized
	"$folder/env/bin/$1" "${@:2}" > "$folder/run.log" 2>&1 || code=$?
	echo "$code $(tr '\n' ' ' < materialized)"
}

is_seen=0
for selection in 'key:vocabb+' 'kind:nope' 'key:vocab and kind:nope' 'vocabb+'; do
	expected="0 posts vocab "
	[ "$selection" != 'vocabb+' ] || expected="1 "
	launch=$(tried dg launch --python-file definitions.py --assets "$selection")
	materialize=$(tried dagster asset materialize --python-file definitions.py --select "$selection")
	echo "$selection: dg launch: exit code $launch; dagster asset materialize: exit code $materialize"
	[ "$launch" = "$expected" ] && [ "$materialize" = "$expected" ] || is_seen=1
done
exit "$is_seen"
