#!/usr/bin/env bash
# Installs what the tests need, then lint, types and tests: the quick ones, which cover every kind of thing once, or with
# --all everything. Further options are passed on to pytest, e.g.
#   bash scripts/test.sh --all -k constraints
set -euo pipefail
cd "$(dirname "$0")/.."
which=--quick
if [ "${1:-}" = --all ]; then
    which=
    shift
fi
# openretina without its own dependencies, which would bring a CUDA torch and much that the tests do not use.
bash scripts/install.sh test tests/openretina-requirements.txt
.venv/bin/pip install --quiet --no-deps "openretina>=1.1,<2"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m pytest --numprocesses logical --dist loadfile --no-loadscope-reorder $which "$@"
