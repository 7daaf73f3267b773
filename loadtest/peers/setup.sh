#!/usr/bin/env bash
# Installs what the peers need and what is missing: Debian packages, the pinned npm packages and a Python environment, both in this
# folder. Without root it says which command to run. A second run does nothing.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
need() { # need PACKAGE FILE...: the package is missing unless one of the files is there
    local package=$1 file
    shift
    for file in "$@"; do
        if [ -e "$file" ]; then return; fi
    done
    missing+=("$package")
}
need libnginx-mod-nchan /usr/lib/nginx/modules/ngx_nchan_module.so
need nginx-light "$(command -v nginx || echo /usr/sbin/nginx)"
need npm "$(command -v npm || echo /usr/bin/npm)"
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
    install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        echo "The peers need: ${missing[*]}" >&2
        echo "Install them with: sudo sh -c '$install'" >&2
        exit 1
    fi
    echo "Installing: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
    npm ci --no-audit --no-fund
    touch node_modules/.package-lock.json
fi
if [ ! .venv/installed -nt requirements.txt ]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --requirement requirements.txt
    touch .venv/installed
fi
