#!/usr/bin/env bash
# Builds the source distribution and the wheel into dist/, and tests the wheel by itself: in a new environment outside of
# the repository, with what its metadata ask for. The quickstart's MEIs are found by the installed command; then the
# quick tests run, those that the source distribution brings, without any of the extras. PYTHON says which Python.
# Arguments are passed on to pytest in place of "--quick", e.g.
#   bash scripts/wheel.sh tests/results
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build twine
rm -rf dist
"$work/build/bin/python" -m build > "$work/build.log" || { cat "$work/build.log" && exit 1; }
"$work/build/bin/python" -m twine check --strict dist/*
"${PYTHON:-python3}" -m venv "$work/wheel"
export PATH="$work/wheel/bin:$PATH"
pip install --quiet --constraint scripts/constraints.txt torch
pip install --quiet --constraint scripts/constraints.txt dist/*.whl
pip check
# Without the package, which would be imported in place of the one that is installed.
tar --extract --file dist/*.tar.gz --directory "$work" --exclude "*/mei_lightning/*"
cd "$work"/mei_lightning-*
unset PYTHONPATH
mei-lightning fit --config scripts/configs/quickstart.yaml --results.directory "$work/results" --trainer.logger false
pip install --quiet pytest pytest-xdist hypothesis
if [ "$#" -eq 0 ]; then
    set -- --quick --numprocesses logical --dist loadfile --no-loadscope-reorder
fi
pytest -q "$@"
