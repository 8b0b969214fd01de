#!/usr/bin/env bash
# Python's lzma: of an xz file with padding between two streams, the second stream is left out without an error.
#
# Expected: the content of both streams, as xz -dc gives it. Section 2.2 of the format allows padding of zeros, in
# multiples of four bytes, behind each stream. Known since 2021: https://github.com/python/cpython/issues/88300
# Seen: lzma.open reads the first stream and takes the zeros for the end of the file.
# Exits with 0 while this is so, and with 1 once a release changes it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
printf 'first\n' | xz > "$folder/first.xz"
printf 'second\n' | xz > "$folder/second.xz"
cat "$folder/first.xz" <(head -c 4 /dev/zero) "$folder/second.xz" > "$folder/padded.xz"
xz --test "$folder/padded.xz"

expected=$(xz -dc "$folder/padded.xz" | tr '\n' ' ')
seen=$(python3 -c 'import lzma, sys; print(lzma.open(sys.argv[1], "rt").read())' "$folder/padded.xz" | tr '\n' ' ')
echo "xz $(xz --version | head -1 | grep -o '[0-9.]*$'): $expected"
echo "$(python3 --version): $seen"
[ "$expected" = "first second " ] && [ "${seen% }" = "first " ]
