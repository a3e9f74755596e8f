"""python eval/sequential.py --data ../shared/data --out runs/sequential

The sequential benchmark: retrieval and ranking on the full catalogue, leave-one-out, floors in the same table, three
seeds. What is done is kept under --out, so a stopped run goes on where it was. Prints Markdown tables, and the machine
and commit that made them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from llmrec.benchmark.machine import machine_facts
from llmrec.benchmark.suite import cells, run_cells
from llmrec.benchmark.suite_config import load_suite
from llmrec.benchmark.suite_table import lines, markdown
from llmrec.errors import ConfigError, UserError

HERE = Path(__file__).resolve().parent


def commit() -> str:
    """The commit of this checkout, "-dirty" behind it when files were changed; "unknown" outside of git."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=HERE,
            capture_output=True,
            check=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def say(line: str) -> None:
    """Progress, beside the tables."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--suite", type=Path, default=HERE / "suites" / "sequential.yaml")
    parser.add_argument("--data", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/sequential"))
    parser.add_argument("--datasets", help="only these, comma-separated")
    parser.add_argument("--rows", help="only these lines (and those that they blend), comma-separated")
    parser.add_argument("--orders", help="file, shuffled or both, comma-separated")
    parser.add_argument("--seeds", help="only these, comma-separated")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args()
    try:
        suite = load_suite(options.suite)
        if options.seeds:
            suite = suite.model_copy(update={"seeds": tuple(int(seed) for seed in options.seeds.split(","))})
        names = ("datasets", "rows", "orders")
        named = {name: value.split(",") if (value := getattr(options, name)) else None for name in names}
        if not (todo := list(cells(suite, **named))):
            raise ConfigError(f"nothing to run: no data set of the suite has the order {options.orders!r}")
        results = run_cells(suite, todo, data=options.data, out=options.out, say=say)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    table = lines(results, ks=suite.ks)
    if options.json:
        rows = [vars(line) | {"metrics": {k: v._asdict() for k, v in line.metrics.items()}} for line in table]
        print(json.dumps({"commit": commit(), "machine": machine_facts(), "lines": rows}))
        return
    print(markdown(table, main=suite.main))
    print(f"{results[0].facts['protocol']}\n\ncommit {commit()}; {json.dumps(machine_facts())}")


if __name__ == "__main__":
    main()
