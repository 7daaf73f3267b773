#!/usr/bin/env bash
# Builds the parent commit's `milepost` into target/previous, if that was not done yet, and prints its path: the other side of
# a rolling upgrade. Prints nothing where there is no parent to build, as in a shallow clone.
set -euo pipefail
cd "$(dirname "$0")/.."

parent=$(git rev-parse --verify --quiet 'HEAD^' 2>/dev/null) || exit 0
place=target/previous
binary=$place/$parent/milepost
if [ ! -x "$binary" ]; then
    rm -rf "$place/source"
    mkdir -p "$place/source" "$place/$parent"
    # -m: changed now, or cargo takes a file that is older than its last build for an unchanged one.
    git archive "$parent" | tar -x -m -C "$place/source"
    (cd "$place/source" && CARGO_TARGET_DIR="$OLDPWD/$place/build" cargo build --locked --bin milepost) >&2
    cp "$place/build/debug/milepost" "$binary"
fi
realpath "$binary"
