#!/usr/bin/env bash
# The MEIs of eight neurons, one of each cell type, of the built-in digital twin. Options are passed on, e.g.
#   bash scripts/quickstart.sh --model.norm 20
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh
.venv/bin/mei-lightning fit --config scripts/configs/quickstart.yaml "$@"
echo "TensorBoard logs: logs/meis (.venv/bin/tensorboard --logdir logs shows them)"
