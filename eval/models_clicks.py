"""python eval/models_clicks.py --dataset movielens:PATH --model nano=DIR@user --model gemma=DIR --out FILE.json

Simulated click decisions of several models on the same held-out events: as many items that users took as items that
they never had, with constants and a popularity threshold on the same decisions. A model is asked as the simulated user
asks it: engines with grammars for the log-probability of "skip" against the other labels after the text that user
adapters are trained on, all others for yes against no in a chat. Every model is calibrated on the same other users, and
shown without that as well.

A model is NAME=BACKBONE, and @ADAPTER or @ADAPTER=FOLDER behind it names a LoRA adapter. Models that are in the output
file already are not asked again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.benchmark.contestants import Contestant
from llmrec.data.dataset import Dataset
from llmrec.data.spec import load
from llmrec.data.splits import Split, leave_one_out
from llmrec.metrics.classification import click_metrics
from llmrec.simulate.fidelity import Fidelity, click_fidelity


async def ask(one: Contestant, dataset: Dataset, split: Split, options: argparse.Namespace) -> tuple[Fidelity, float]:
    """All decisions of one model."""
    lm = one.load(seed=options.seed)
    started = time.monotonic()
    result = await click_fidelity(
        lm,
        dataset,
        split,
        n_users=options.users,
        seed=options.seed,
        adapter=one.adapter,
        per_user=options.per_user,
        n_calibration=options.calibration,
    )
    return result, time.monotonic() - started


def rows_of(name: str, result: Fidelity, seconds: float, seed: int) -> dict[str, Any]:
    """What is kept of one model: its accuracy, and without calibration if it had one."""
    truth = np.array([case.taken for case in result.cases])
    rows = {name: result.model.to_json() | {"seconds": seconds, "style": result.style}}
    if result.n_calibration:
        rows[name] |= {"calibration": result.calibration._asdict(), "n_calibration": result.n_calibration}
        rows[f"{name}, uncorrected"] = click_metrics(truth, np.array(result.uncorrected), seed=seed).to_json()
    return rows


def floors_of(result: Fidelity) -> dict[str, Any]:
    """Constants and the popularity threshold on the same decisions."""
    metrics = result.model.to_json()
    constants = {"always yes": metrics["always_click"], "always no": metrics["never_click"]}
    rows: dict[str, Any] = {name: {"accuracy": accuracy} for name, accuracy in constants.items()}
    return rows | {"popularity threshold": result.popularity.to_json()}


def main() -> None:
    """Ask every model, write the file, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", action="append", default=[], required=True, metavar="NAME=BACKBONE[@ADAPTER=DIR]")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--per-user", type=int, default=2, help="taken items per user, and as many not taken")
    parser.add_argument("--calibration", type=int, default=25, help="other users to calibrate the models on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    dataset = load(options.dataset, seed=options.seed)
    split = leave_one_out(dataset.interactions)
    protocol = {"dataset": dataset.name, "users": options.users, "per_user": options.per_user, "seed": options.seed}
    protocol |= {"calibration": options.calibration}
    kept = json.loads(options.out.read_text()) if options.out.exists() else {"protocol": protocol, "models": {}}
    if kept["protocol"] != protocol:
        raise SystemExit(f"{options.out} was made with {kept['protocol']}; choose another --out")
    for one in map(Contestant.parse, options.model):
        if one.name in kept["models"]:
            continue
        result, seconds = asyncio.run(ask(one, dataset, split, options))
        kept["models"] |= floors_of(result) | rows_of(one.name, result, seconds, options.seed)
        kept["n"] = len(result.cases)
        options.out.write_text(json.dumps(kept, indent=1))
    print(
        f"{dataset.name}: n = {kept['n']} decisions, {options.users} users, seed {options.seed}, 95% CI by bootstrap\n"
    )
    print("| model | accuracy | AUC | seconds |\n|---|---|---|---:|")
    for name, row in kept["models"].items():
        took = f"{row['seconds']:.0f}" if "seconds" in row else "-"
        print(f"| {name} | {_interval(row['accuracy'])} | {_interval(row.get('auc'))} | {took} |")


def _interval(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


if __name__ == "__main__":
    main()
