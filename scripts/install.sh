#!/usr/bin/env bash
# Makes the virtual environment .venv with the package in it, unless that was done before and what is asked for has not
# changed since. Arguments: extras, e.g. "test", and a file of further requirements.
set -euo pipefail
cd "$(dirname "$0")/.."
asked_for=(pyproject.toml mei_lightning/__init__.py scripts/constraints.txt ${2:+"$2"})
done_before=.venv/installed${1:+-$1}
if [ -x .venv/bin/python ] && [ -e "$done_before" ] && [ -z "$(find "${asked_for[@]}" -newer "$done_before")" ]; then
    exit
fi
if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -m venv .venv
fi
# torch first and pinned, so that nothing that depends on it brings another build.
.venv/bin/pip install --quiet --constraint scripts/constraints.txt torch
.venv/bin/pip install --quiet --constraint scripts/constraints.txt --editable ".${1:+[$1]}" ${2:+--requirement "$2"}
touch "$done_before"
