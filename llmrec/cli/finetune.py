"""``llmrec finetune``: run a recipe of finetune/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmrec.cli.common import JsonOption, emit, output, run_command

app = typer.Typer(add_completion=False)


@app.command()
def finetune(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE", help="YAML file, or a shipped name: recommender, calrec, user, ..."),
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as lora.rank=8.")
    ] = None,
    json_output: JsonOption = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Default: the recipe's own.", min=0)] = None,
) -> None:
    """Fine-tune a role's LoRA adapter by a recipe. A killed run goes on when it is started again."""
    with run_command(resume="run the same command again to go on from the last checkpoint"):
        from llmrec.assets import asset, load_file
        from llmrec.training.recipe import find_recipe, load_recipe

        path = find_recipe(recipe)
        overrides = [*(set_ or []), *([] if seed is None else [f"seed={seed}"])]
        settings = load_recipe(path, overrides)  # all faults at once, before anything heavy is imported
        beside = path.with_name(settings.script)  # a copied recipe may bring its own copy of the script
        script = load_file(beside if beside.exists() else asset(f"finetune/{settings.script}"), name="llmrec_finetune")
        record = script.main(path, overrides)
        answer = {
            "role": settings.role,
            "output": settings.output,
            "recipe": str(path),
            "seed": settings.seed,
            **_facts(record),
        }
        emit(answer, json_output=json_output, render=_show)


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    """What every script tells; one that trains several adapters tells it of each as well."""
    from llmrec.training.card import RANKED

    facts = {key: record[key] for key in ("dataset", "n_train", "n_validation", "n_longer", "best", "seconds", "curve")}
    facts |= {key: record[key] for key in RANKED if key in record}
    if "adapters" in record:
        facts["adapters"] = {name: _facts(one) for name, one in record["adapters"].items()}
    return facts


def _show(answer: dict[str, Any]) -> None:
    screen = output()
    for name, one in answer.get("adapters", {answer["role"]: answer}).items():
        folder = f"{answer['output']}/{name}" if "adapters" in answer else answer["output"]
        screen.print(f"adapter {name}: {folder}", soft_wrap=True)
        screen.print(
            f"{one['n_train']} examples ({one['n_longer']} left out as too long), "
            f"lowest validation loss {'not measured' if one['best'] is None else round(one['best'], 4)}, "
            f"{one['seconds']:.0f} s"
        )
        if one.get("ndcg10_best") is not None:
            from llmrec.training.card import ranking

            screen.print(ranking(one), soft_wrap=True)
