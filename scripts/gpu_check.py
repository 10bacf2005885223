"""What to run first on a new GPU: does everything run, is it right, and where does the time go?

    python scripts/gpu_check.py
    python scripts/gpu_check.py --device cpu --quick

Is meant to take less than ten minutes, and downloads nothing. Prints Markdown tables, says on the standard error
what it is doing, and writes all numbers to a JSON file after each section. What fails stops nothing else; the exit code
is 1 then. The same stimuli have to have the same scores and responses, to 1e-5, on the device as on the CPU.

The models are the digital twin and, with random weights, the two architectures of ``reference_models.py``. Methods such
as ``find_surrounds`` have no argument for the accelerator, and run where Lightning chooses to, or where the model is.
"""

import argparse
import contextlib
import io
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmark import be_quiet, log
from gpu_check_cases import cases
from gpu_check_measures import kernels_of_run, neurons_per_second, scores_against_cpu, waits_of_run
from gpu_check_parts import time_of_parts
from gpu_check_setup import FULL, QUICK, Check, Row, attempt, machine
from markdown_table import print_head, print_line

IS_THERE: Mapping[str, Callable[[], bool]] = {
    "cpu": lambda: True,
    "cuda": lambda: torch.cuda.is_available(),
    "mps": lambda: torch.backends.mps.is_available(),
}


@dataclass(frozen=True)
class Section:
    """A table of the check.

    Args:
        title: printed above it.
        measure: yields its lines.
        columns: for each column its title, and how a number is written.
        only_on_cuda: whether other devices cannot be asked.
    """

    title: str
    measure: Callable[[Check], Iterator[Row]]
    columns: Mapping[str, tuple[str, str]]
    only_on_cuda: bool = False


def sections(check: Check) -> dict[str, Section]:
    """The sections by their names in the JSON file."""
    return {
        "cases": Section(
            "Does everything run?",
            run_cases,
            {"kind": ("kind", "{}"), "case": ("case", "{}"), "result": ("result", "{}"), "seconds": ("s", "{:.1f}")},
        ),
        "scores": Section("Scores, as shares of the CPU's", scores_against_cpu, SCORE_COLUMNS),
        "parts": Section(
            "Milliseconds of the parts of a step",
            time_of_parts,
            {
                "part": ("part", "{}"),
                "model": ("model", "{}"),
                **{f"{count} rows": (f"{count:,} rows", "{:.2f}") for count in check.sizes.rows},
            },
        ),
        "waits": Section(
            "Where the host waits for the device",
            waits_of_run,
            {"line": ("line", "{}"), "waits": ("waits", "{:,}")},
            only_on_cuda=True,
        ),
        "kernels": Section("Kernels and copies of a run", kernels_of_run, KERNEL_COLUMNS, only_on_cuda=True),
        "populations": Section("Populations", neurons_per_second, POPULATION_COLUMNS),
    }


SCORE_COLUMNS = {
    "model": ("model", "{}"),
    "neurons": ("neurons", "{}"),
    "least": ("same stimuli, least", "{:.7f}"),
    "greatest": ("same stimuli, greatest", "{:.7f}"),
    "response difference": ("largest difference of responses", "{:.1e}"),
    "found, least": ("MEIs found, least", "{:.5f}"),
    "found, median": ("MEIs found, median", "{:.5f}"),
    "found, greatest": ("MEIs found, greatest", "{:.5f}"),
}
KERNEL_COLUMNS = {
    "kernel": ("kernel", "{}"),
    "count": ("count", "{:,}"),
    "milliseconds": ("ms", "{:.1f}"),
    "share": ("share of the time", "{:.1%}"),
}
POPULATION_COLUMNS = {
    "model": ("model", "{}"),
    "neurons": ("neurons", "{}"),
    "steps": ("steps of the best start", "{:.1f}"),
    "run": ("s", "{:.1f}"),
    "per second": ("neurons per second", "{:.2f}"),
    "memory": ("peak memory (GiB)", "{:.2f}"),
}


def run_cases(check: Check) -> Iterator[Row]:
    """Run each case, whatever comes of the others."""
    for kind, of_kind in cases(check.device).items():
        for name, run in of_kind.items():
            yield attempt({"kind": kind, "case": name, "result": "error"}, partial(run_case, run))


def run_case(run: Callable[[], object]) -> Row:
    """The line of a case that went well."""
    run()
    return {"result": "ok"}


def run_section(section: Section, check: Check) -> dict[str, Any]:
    """Print a section's table, and return its lines, what failed, and how long it took."""
    if section.only_on_cuda and check.device.type != "cuda":
        return {"skipped": f"only on CUDA, not on {check.device.type}", "rows": [], "failed": [], "seconds": 0.0}
    began = time.perf_counter()
    rows: list[Row] = []
    failed: list[str] = []
    print(f"\n{section.title}\n")
    print_head(section.columns)
    try:
        for row in without_prints(section.measure(check)):
            print_line(section.columns, row)
            rows.append(row)
            if "error" in row:
                name = ", ".join(str(row[key]) for key in ("kind", "case", "part", "model") if key in row)
                failed.append(f"{name}: {row['error']}")
    except Exception as error:
        failed.append(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    return {"rows": rows, "failed": failed, "seconds": time.perf_counter() - began}


def without_prints(rows: Iterator[Row]) -> Iterator[Row]:
    """The lines of a table, without what runs print about where their results are."""
    while True:
        with contextlib.redirect_stdout(io.StringIO()):
            row = next(rows, None)
        if row is None:
            return
        yield row


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the device; the exit code says whether all went well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=IS_THERE, default="cuda", help="what to check (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script itself on a CPU")
    parser.add_argument("--output", type=Path, default=Path("logs/gpu_check.json"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    if not IS_THERE[options.device]():
        parser.error(
            f"--device {options.device}: PyTorch {torch.__version__} finds no such device here. Use one of "
            f"{', '.join(name for name, is_there in IS_THERE.items() if is_there())}, or another build of PyTorch."
        )
    be_quiet()
    index = None if options.device == "cpu" else 0
    check = Check(torch.device(options.device, index), QUICK if options.quick else FULL)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine(check.device), "quick": options.quick, "sections": {}}
    print("\n".join(f"- {name}: {value}" for name, value in found["machine"].items()))
    for name, section in sections(check).items():
        log(f"{name} ...")
        result = found["sections"][name] = run_section(section, check)
        log(f"{name}: {result.get('skipped') or str(len(result['failed'])) + ' failed'}, {result['seconds']:.0f} s")
        found["passed"] = not any(section["failed"] for section in found["sections"].values())
        options.output.write_text(json.dumps(found, indent=1))
    report_failures(found, options.output)
    return 0 if found["passed"] else 1


def report_failures(found: Mapping[str, Any], output: Path) -> None:
    """Say at the end what failed, and where the rest is."""
    for name, section in found["sections"].items():
        for text in section["failed"]:
            print(f"\nFailed, {name}: {text.splitlines()[0]}")
    print(f"\n{'All is well' if found['passed'] else 'Something failed'}: all numbers are in {output}.")


if __name__ == "__main__":
    sys.exit(main())
