#!/usr/bin/env bash
# Makes one small change after another in a module, and says which of them no test notices. Needs mutmut beside the package:
#   .venv/bin/pip install "mutmut>=3.8"
# Arguments: the module, and tests that cover it and together take seconds, e.g.
#   bash scripts/mutants.sh mei_lightning/optimization/slotted_rows.py tests/optimization/test_slotted_rows.py
# Calls take a way round through mutmut: leave out tests of the line that a warning names (-k "not line_that_asks").
# PYTHON says which Python, and MUTANTS which mutants, by a pattern such as "*adopt_moved*".
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
module=$1
shift
# In a copy, so that nothing here is changed.
work=${TMPDIR:-/tmp}/mei_lightning_mutants
rm -rf "$work"
mkdir -p "$work/mutants"
cp -r mei_lightning tests pyproject.toml "$work"
cd "$work"
# mutmut leaves functions with decorators alone: the tests need neither of these.
"$python" - "$module" <<'END'
import pathlib, re, sys

module = pathlib.Path(sys.argv[1])
text = re.sub(r"( *)@torch\.no_grad\(\)\n", "", module.read_text())
property_ = re.compile(r"    @property\n(    def (\w+)\(.*?)(?=\n\n    [@\w]|\n\n\n|\Z)", re.DOTALL)
module.write_text(property_.sub(r"\1\n\n    \2 = property(\2)", text))
END
cat >> pyproject.toml <<END

[tool.mutmut]
source_paths = ["mei_lightning"]
only_mutate = ["$module"]
pytest_add_cli_args = ["-p", "no:xdist", "-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = [$(printf '"%s", ' "$@")]
timeout_constant = 20.0
track_dependencies = false
END
export PYTHONPATH="$work/mutants${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
"$python" -m mutmut run --max-children 1 ${MUTANTS:+"$MUTANTS"}
"$python" -m mutmut results
echo "mutmut show NAME shows what was changed, in $work."
