"""python eval/lettingo.py --backbone runs/quickstart/backbone --out runs/lettingo-study

What a profile is worth to a predictor of like, neutral or dislike, and what aligning its writer adds (LettinGo,
Curri-DPO).
Every arm answers the same held-out questions with the same predictor; only the profile differs. Accuracy, macro-F1 and
weighted F1 with 95 % intervals, and differences, by a paired bootstrap over users. A killed study goes on where it was.

With --ranking N the study also asks whether a profile in front of its prompt changes the recommender's ranking.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmrec.assets import asset, load_file
from llmrec.data.choice_settings import ChoiceSettings
from llmrec.data.dataset import Dataset
from llmrec.data.films import load_films
from llmrec.data.spec import load
from llmrec.errors import ConfigError
from llmrec.lm.adapters import content_hash
from llmrec.metrics.bootstrap import Interval
from llmrec.seeding import rng
from llmrec.training.backbone import training_hardware
from llmrec.training.folders import RECORD
from llmrec.training.lettingo.call_log import CallLog
from llmrec.training.lettingo.engines import Player, open_engines
from llmrec.training.lettingo.evaluate import Case, Predictor, Verdict, verdict
from llmrec.training.lettingo.explore import Writer, WriterSettings, written
from llmrec.training.lettingo.label_metrics import label_difference, label_metrics
from llmrec.training.lettingo.prompts import ProfilePrompts
from llmrec.training.lettingo.ranking import ranking_gain
from llmrec.training.lettingo.recipe import LettingoRecipe, named
from llmrec.training.lettingo.stages import make_predictor
from llmrec.training.lettingo.start import start_adapters
from llmrec.training.lettingo.styles import planted_profile, rule_profile
from llmrec.training.lettingo.windows import LABELS, Groups, Histories, Window, user_groups
from llmrec.training.quiet import quiet_libraries
from llmrec.training.recipe import load_recipe
from llmrec.training.run_folder import without_paths

TRAINED: Mapping[str, Mapping[str, Any]] = {
    "sft": {"dpo": {"method": "sft"}},
    "dpo": {},
    "curriculum": {"curriculum": True},
    "curriculum-shuffled": {"curriculum": True, "curriculum_settings": {"order": "shuffled"}},
    "shuffled": {"dpo": {"shuffled": True}},
}
"""Arms that a training of their own belongs to, and what it changes in the recipe."""
FOLDERS = {"output", "work", "push_to"}
"""Settings that make no other adapter."""
TITLES = {
    "none": "no profile (10H)",
    "majority": "majority class",
    "untuned": "untuned writer",
    "sft": "SFT on right profiles",
    "dpo": "DPO",
    "curriculum": "DPO with curriculum",
    "curriculum-shuffled": "DPO with curriculum, shuffled order",
    "shuffled": "DPO, chosen and rejected shuffled",
    "other user": "DPO, another user's profile",
    "random items": "DPO, profile of random older items",
    "rules": "profile by rules, same older items",
    "planted": "planted tastes (ceiling)",
}
Profiles = dict[str, list[str]]


def train(recipe: LettingoRecipe, dataset: Dataset, out: Path, arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Adapters of the trained arms, which share start, profiles and verdicts; those that are there are taken.

    Raises:
        ConfigError: an arm was trained by another recipe or on other data; before anything is trained.
    """
    script = load_file(asset("finetune/lettingo.py"), name="llmrec_finetune_lettingo")
    recipes = {arm: changed(recipe, TRAINED[arm], output=out / arm, work=out / "work") for arm in arms}
    done = {arm: out / arm / RECORD for arm in arms}
    for arm, path in done.items():
        if path.exists():
            check_same(json.loads(path.read_text(encoding="utf-8")), recipes[arm], dataset, path.parent)
    for arm, path in done.items():
        if not path.exists():
            script.run(recipes[arm], dataset)
    return {arm: json.loads(path.read_text(encoding="utf-8")) for arm, path in done.items()}


def check_same(record: Mapping[str, Any], recipe: LettingoRecipe, dataset: Dataset, folder: Path) -> None:
    """Refuse an arm that is there already and is not what this study asks for.

    Raises:
        ConfigError: settings differ (folders apart), or the data, or the weights of the backbone.
    """
    wanted = settings_of(without_paths(named(recipe)).model_dump(mode="json"))
    try:
        found = LettingoRecipe.model_validate(record["recipe"]).model_dump(mode="json")
    except ValidationError:  # settings that are no longer known
        found = record["recipe"]
    there = settings_of(found)
    names = [name for name in sorted({*there, *wanted} - FOLDERS) if there.get(name) != wanted.get(name)]
    differing = [f"{name}={there.get(name)!r}, got {wanted.get(name)!r}" for name in names]
    if Path(recipe.backbone).is_dir() and content_hash(Path(recipe.backbone))[:12] not in record["base"]:
        differing.append("other weights of the backbone")
    if record.get("dataset_hash", dataset.content_hash) != dataset.content_hash:
        differing.append("other data of the same name")
    if differing:
        raise ConfigError(
            f"the arm in {str(folder)!r} was trained with {'; '.join(differing)}; name another --out, or delete that "
            "folder"
        )


def settings_of(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under names with dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= settings_of(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def changed(recipe: LettingoRecipe, change: Mapping[str, Any], *, output: Path, work: Path) -> LettingoRecipe:
    """The recipe of one arm."""
    values = recipe.model_dump() | {"output": str(output), "work": str(work)}
    for key, value in change.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    return LettingoRecipe.model_validate(values)


async def write_profiles(
    recipe: LettingoRecipe, dataset: Dataset, windows: Sequence[Window], adapters: Mapping[str, str | None], out: Path
) -> Profiles:
    """Profiles of the test users by every writer at temperature 0, and the controls made from them."""
    prompts = ProfilePrompts(dataset, recipe.item_fields)
    log = CallLog(out / "test-profiles.jsonl")
    settings = WriterSettings(name="test", style=recipe.policy_style, temperature=0)
    engines = open_engines({arm: Player(recipe.backbone, adapter) for arm, adapter in adapters.items()})

    async def by(arm: str, shown: Sequence[Window]) -> list[str]:
        writer = Writer(settings, *engines[arm])
        texts = await written(shown, writer, prompts, log, n=1, max_tokens=recipe.explore.max_tokens, seed=recipe.seed)
        return [own[0] for own in texts]

    profiles: Profiles = {"none": [""] * len(windows)}
    for arm in adapters:
        profiles[arm] = await by(arm, windows)
    if "dpo" in adapters:
        draws = rng(recipe.seed, "lettingo", "controls")
        order = draws.permutation(len(windows))
        other = {int(own): int(next_) for own, next_ in zip(order, [*order[1:], order[0]], strict=True)}
        profiles["other user"] = [profiles["dpo"][other[place]] for place in range(len(windows))]
        pool = [rated for window in windows for rated in window.older]
        mixed = [
            window._replace(older=tuple(pool[int(i)] for i in draws.integers(len(pool), size=len(window.older))))
            for window in windows
        ]
        profiles["random items"] = await by("dpo", mixed)
    profiles["rules"] = [rule_profile("full", window.older, dataset.catalogue) for window in windows]
    if dataset.planted is not None:
        profiles["planted"] = [
            planted_profile(window.user, window.older, dataset.catalogue, dataset.planted) for window in windows
        ]
    return profiles


async def judge(predictor: Predictor, windows: Sequence[Window], profiles: Profiles, out: Path) -> dict[str, Any]:
    """Verdicts of every arm, one list per user."""
    log = CallLog(out / "test-verdicts.jsonl")
    verdicts = {}
    for arm, texts in profiles.items():
        cases = [Case(w.recent, text, t) for w, text in zip(windows, texts, strict=True) for t in w.targets]
        answers = iter(await predictor.judge(cases, log))
        verdicts[arm] = [[next(answers) for _ in window.targets] for window in windows]
    return verdicts


def majority(groups: Groups) -> list[list[Verdict]]:
    """The commonest label of the users of the alignment, for every question of the test."""
    counts = Counter(target.label for window in groups.align for target in window.targets)
    label = counts.most_common(1)[0][0]
    scores = [0.0 if one == label else -10.0 for one in LABELS]
    return [[verdict(scores, target.label) for target in window.targets] for window in groups.test]


def table(verdicts: Mapping[str, list[list[Verdict]]], seed: int) -> list[dict[str, Any]]:
    """One row per arm: its metrics, and its accuracy beside no profile and beside SFT."""
    rows = []
    for arm in TITLES:
        if arm not in verdicts:
            continue
        row: dict[str, Any] = {"arm": arm} | label_metrics(verdicts[arm], seed=seed)._asdict()
        for base in ("none", "sft"):
            if base in verdicts and arm != base:
                row[f"over {base}"] = label_difference(verdicts[arm], verdicts[base], seed=seed).accuracy
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown; figures in percent."""
    lines = [
        "| profile | accuracy | macro-F1 | weighted F1 | accuracy over no profile | over SFT |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    names = ("accuracy", "macro_f1", "weighted_f1", "over none", "over sft")
    for row in rows:
        cells = [_percent(row.get(name), signed=name.startswith("over")) for name in names]
        lines.append(f"| {TITLES[row['arm']]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return ""
    form = "{:+.1f}" if signed else "{:.1f}"
    value, low, high = (form.format(100 * number) for number in interval)
    return f"{value} [{low}, {high}]"


def study(recipe: LettingoRecipe, dataset: Dataset, given: argparse.Namespace) -> str:
    """Train, write, judge, compare; returns the Markdown of the results."""
    out: Path = given.out
    histories = Histories(dataset, recipe.labels)
    groups = user_groups(histories, dataset.interactions.n_users, recipe.windows, recipe.users, recipe.seed)
    groups = groups._replace(test=groups.test[: given.test_users])
    arms = [arm for arm in TRAINED if arm in given.arms]
    records = train(recipe, dataset, out, arms)
    hardware = training_hardware()
    start = start_adapters(recipe, dataset, histories, groups.start, out / "work", hardware)
    own = str(start["writer"]) if "writer" in start else None
    adapters = {"untuned": own} | {arm: str(out / arm) for arm in arms}
    profiles = asyncio.run(write_profiles(recipe, dataset, groups.test, adapters, out))
    (out / "examples.json").write_text(
        json.dumps({arm: texts[:5] for arm, texts in profiles.items()}, indent=1), encoding="utf-8"
    )
    sections = [heading(recipe, groups, records)]
    for title, predictor in predictors(recipe, dataset, histories, groups, out, start, second=given.second_predictor):
        verdicts = asyncio.run(judge(predictor, groups.test, profiles, out)) | {"majority": majority(groups)}
        rows = table(verdicts, recipe.seed)
        (out / f"{title.replace(' ', '-')}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        sections += [f"## {title.capitalize()}", markdown(rows)]
    if given.ranking:
        shown: Profiles = {arm: profiles[arm] for arm in ("none", "dpo", "other user") if arm in profiles}
        gain = asyncio.run(
            ranking_gain(recipe, dataset, groups.test, shown, CallLog(out / "ranking.jsonl"), n_users=given.ranking)
        )
        sections += ["## Ranking with a profile in front of the prompt", gain]
    return "\n\n".join(sections) + "\n"


def predictors(
    recipe: LettingoRecipe,
    dataset: Dataset,
    histories: Histories,
    groups: Groups,
    out: Path,
    start: Mapping[Any, Path],
    *,
    second: bool,
) -> list[tuple[str, Predictor]]:
    """The predictor that labelled the pairs, and one that did not: a gain that vanishes with it is the first one's."""
    found = [("the predictor of the alignment", start.get("predictor"))]
    if second and recipe.predictor.adapter != "start":
        raise ConfigError(
            "--second-predictor trains one from another seed, which needs predictor.adapter=start; got "
            f"{recipe.predictor.adapter!r}"
        )
    if second:
        again = recipe.model_copy(update={"seed": recipe.seed + 1, "writers": (WriterSettings(name="none"),)})
        hardware = training_hardware()
        trained = start_adapters(again, dataset, histories, groups.start, out / "work", hardware)
        found.append(("a second predictor", trained.get("predictor")))
    prompts = ProfilePrompts(dataset, recipe.item_fields)
    made = []
    for title, folder in found:
        adapter = str(folder) if recipe.predictor.adapter == "start" else recipe.predictor.adapter
        engine = open_engines({"judge": Player(recipe.predictor.backbone or recipe.backbone, adapter)})["judge"]
        made.append((title, make_predictor(recipe, engine, prompts)))
    return made


def heading(recipe: LettingoRecipe, groups: Groups, records: Mapping[str, Mapping[str, Any]]) -> str:
    """What was measured, on whom, from how many pairs."""
    counts = Counter(target.label for window in groups.test for target in window.targets)
    total = sum(counts.values())
    labels = ", ".join(f"{label} {counts[label] / total:.1%}" for label in LABELS)
    lines = [
        f"{len(groups.test)} test users, {total} questions ({labels}); {len(groups.align)} users explored with "
        f"{recipe.explore.candidates} profiles each; {len(groups.start)} users for the start; seed {recipe.seed}."
    ]
    for arm, record in records.items():
        found = record["exploration"]
        lines.append(
            f"- {TITLES[arm]}: {record['n_train']} rows of {found['pairs']} pairs ({found['pairs_per_user']:.2f} a "
            f"user, {found['unanimous']} of {found['questions']} questions unanimous), {record['seconds']:.0f} s"
        )
        by_writer = [f"{name} {own['right']} of {own['answers']}" for name, own in found["writers"].items()]
        lines.append(f"  right answers by writer: {', '.join(by_writer)}")
        if lengths := record.get("profile_tokens"):
            lines.append(f"  tokens of profiles: chosen {lengths['chosen']:.1f}, rejected {lengths['rejected']:.1f}")
        lines += [f"  warning: {text}" for text in record.get("warnings", [])]
    return "\n".join(lines)


def main() -> None:
    """Run the study and print its Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=asset("finetune/lettingo.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--arms", nargs="+", default=["sft", "dpo", "curriculum"], choices=list(TRAINED))
    parser.add_argument("--viewers", type=int, help="films alone: so many generated viewers instead of 2,000")
    parser.add_argument("--median", type=int, default=16, help="films alone: median length of their histories, plus 8")
    parser.add_argument("--test-users", type=int, help="the first so many of the recipe's test users")
    parser.add_argument("--second-predictor", action="store_true", help="judge with another predictor as well")
    parser.add_argument("--ranking", type=int, default=0, help="users whose ranking is measured")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe, [*given.overrides, f"backbone={given.backbone}"])
    if not isinstance(recipe, LettingoRecipe):
        raise ConfigError(f"the study takes a recipe of lettingo.py, got one of {recipe.script!r}")
    given.out.mkdir(parents=True, exist_ok=True)
    if recipe.dataset == "films" and given.viewers:
        settings = ChoiceSettings(n_users=given.viewers, length_median=given.median)
        dataset = load_films(seed=recipe.seed, settings=settings)
    else:
        dataset = load(recipe.dataset, seed=recipe.seed)
    with quiet_libraries():
        text = study(recipe, dataset, given)
    (given.out / "results.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
