#!/usr/bin/env bash
# typer 0.25.1 with click 8.5.0, which its metadata allows: --help lists an argument without its help text.
#
# Expected: the text given as typer.Argument(help=...) in the list of arguments, as with click 8.4.2.
# Seen: the argument's name and type alone. Options keep their texts.
# Exits with 0 while this is so, and with 1 once a release changes it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
cat > "$folder/app.py" << 'PYTHON'
from typing import Annotated

import typer


def main(
    file: Annotated[str, typer.Argument(help="The file that is read.")],
    size: Annotated[int, typer.Option(help="How many lines.")] = 3,
) -> None:
    """Read a file."""


typer.run(main)
PYTHON

# Prints whether the help text of the argument, and that of the option, are shown.
shown() {
	"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check "typer==0.25.1" "click==$1" > "$folder/pip.log" 2>&1
	COLUMNS=100 TERM=dumb "$folder/env/bin/python" "$folder/app.py" --help > "$folder/help-$1.txt"
	for text in "The file that is read." "How many lines."; do
		grep --quiet --fixed-strings "$text" "$folder/help-$1.txt" && printf 'yes ' || printf 'no '
	done
}

old=$(shown 8.4.2)
new=$(shown 8.5.0)
echo "typer 0.25.1: help of the argument, of the option"
echo "  click 8.4.2: $old"
echo "  click 8.5.0: $new"
cat "$folder/help-8.5.0.txt"
[ "$old" = "yes yes " ] && [ "$new" = "no yes " ]
