#!/usr/bin/env bash
# Makes the virtual environment .venv with the package in it, unless it is there already. Arguments: extras, e.g. "test".
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -m venv .venv
fi
# torch first and pinned, so that nothing that depends on it brings another build.
.venv/bin/pip install --quiet --constraint scripts/constraints.txt torch
.venv/bin/pip install --quiet --constraint scripts/constraints.txt --editable ".${1:+[$1]}"
