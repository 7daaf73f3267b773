#!/usr/bin/env bash
# Installs what the tests need and what is missing: Redis, Postgres, Chromium, kubectl, Node.js and libfaketime, from
# Debian's packages. Without root it says which command to run. A second run does nothing.
set -euo pipefail

missing=()
need() { # need PACKAGE COMMAND...: the package is missing unless one of the commands is there
    local package=$1
    shift
    for command in "$@"; do
        if command -v "$command" >/dev/null 2>&1; then return; fi
    done
    missing+=("$package")
}

shopt -s nullglob
postgres=(/usr/lib/postgresql/*/bin/initdb)
need redis-server redis-server valkey-server
[ ${#postgres[@]} -gt 0 ] || need postgresql initdb
need chromium chromium chromium-browser google-chrome
need kubernetes-client kubectl
need nodejs node
need faketime faketime

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
    echo "The tests need: ${missing[*]}" >&2
    echo "Install them with: sudo sh -c '$install'" >&2
    exit 1
fi
echo "Installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
