#!/usr/bin/env bash
# Builds the documentation into docs/_build/html; a warning is an error. Options are passed on to sphinx-build.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh docs
.venv/bin/python -m sphinx --builder html --fail-on-warning --keep-going --quiet "$@" docs docs/_build/html
echo "Documentation: $PWD/docs/_build/html/index.html"
