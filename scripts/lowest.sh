#!/usr/bin/env bash
# Tests the package with the lowest versions that pyproject.toml allows, in .venv-lowest. Only torch is not the lowest but
# that of scripts/constraints.txt. Needs Python 3.11 (PYTHON says which), for which each of them has a wheel. Arguments are
# passed on to pytest in place of the small selection of tests, e.g.
#   bash scripts/lowest.sh tests/plots
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv-lowest/bin
if [ ! -x "$bin/python" ]; then
    "${PYTHON:-python3.11}" -m venv .venv-lowest
fi
"$bin/pip" install --quiet uv
# With pip, as in scripts/install.sh, and before the others, so that uv keeps this build; alone, since uv would keep the
# newest versions of what comes with it.
"$bin/pip" install --quiet --no-deps --constraint scripts/constraints.txt torch
"$bin/uv" pip install --quiet --python "$bin/python" --resolution lowest-direct --only-binary :all: \
    --constraint scripts/constraints.txt --requirement scripts/brought.txt --requirement pyproject.toml --extra export
"$bin/uv" pip install --quiet --python "$bin/python" --no-deps --editable .
"$bin/uv" pip install --quiet --python "$bin/python" pytest pytest-xdist hypothesis
"$bin/uv" pip list --quiet --python "$bin/python"
if [ "$#" -eq 0 ]; then
    set -- @tests/small_selection.txt
fi
"$bin/python" -m pytest -q "$@"
