"""The preference objective on a small nano: what it starts from, what it moves, and against which reference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from llmrec.assets import asset
from llmrec.errors import DataError, ModelError
from llmrec.lm.hardware import Hardware, choose
from llmrec.lm.local import LocalLM
from llmrec.training.checks.frozen import frozen_digest
from llmrec.training.checks.suite import Checks
from llmrec.training.curves import plot_curves
from llmrec.training.lettingo.dpo import (
    POLICY,
    PairRows,
    StageData,
    encode_pairs,
    finished_stage,
    load_policy,
    make_dpo_trainer,
    profile_lengths,
    set_reference,
    stage_key,
    tokens_with_loss,
    train_stage,
)
from llmrec.training.lettingo.dpo_trainer import PANELS, preference_curve
from llmrec.training.lettingo.pairs import Pair, shuffled_preferences
from llmrec.training.lettingo.recipe import LettingoRecipe
from llmrec.training.recipe import load_recipe

GOOD, BAD = "Liked 6 of 10, disliked 1 of 10.", "Mostly Drama, War."
PROMPTS = {
    user: f"Viewer. Watched, oldest first:\nHorror: like\nDrama, {user}: dislike\nProfile:" for user in range(30)
}
TRAIN = [Pair(user, GOOD, BAD, 0.5) for user in range(24)]
WATCHED = [Pair(user, GOOD, BAD, 0.5) for user in range(24, 30)]


def _recipe(backbone: Path, output: Path, *changes: str) -> LettingoRecipe:
    settings = [f"backbone={backbone}", f"output={output}", "batch_size=8", "epochs=2", "learning_rate=3e-3"]
    recipe = load_recipe(asset("finetune/lettingo.yaml"), [*settings, "lora.rank=4", "evaluations=2", *changes])
    assert isinstance(recipe, LettingoRecipe)
    return recipe


@pytest.fixture(autouse=True)
def _logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluated before it is trained, a trainer logs into the working directory."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))


@pytest.fixture
def hardware() -> Hardware:
    return choose(purpose="training", device="cpu", dtype="float32")


def _encoded(pairs: list[Pair], policy: Any, recipe: LettingoRecipe) -> PairRows:
    return encode_pairs(pairs, PROMPTS, policy, style="raw", max_tokens=recipe.max_tokens)


def _trainer(recipe: LettingoRecipe, hardware: Hardware, folder: Path, *, start: Path | None, pairs: Any = None) -> Any:
    policy = load_policy(recipe, hardware, start=start)
    data = StageData(_encoded(pairs or TRAIN, policy, recipe).rows, _encoded(WATCHED, policy, recipe).rows)
    return make_dpo_trainer(policy, data, recipe, folder, hardware)


@pytest.fixture(scope="module")
def first_stage(
    mini_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, float]], Any]:
    """A finished stage that started from the bare backbone: its folder, curve and trainer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMREC_COMPILE", "0")
        patch.setenv("LLMREC_DTYPE", "float32")
        folder = tmp_path_factory.mktemp("first")
        recipe = _recipe(mini_folder, folder)
        trainer = _trainer(recipe, choose(purpose="training", device="cpu"), folder, start=None)
        return folder, train_stage(trainer, folder, beta=recipe.dpo.beta), trainer


def _validation(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    return [row for row in curve if "validation_loss" in row]


def test_golden_loss_at_step_0_is_ln_2(first_stage: tuple[Path, list[dict[str, float]], Any]) -> None:
    first = _validation(first_stage[1])[0]
    assert first["step"] == 0
    assert first["validation_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["validation_margin"] == pytest.approx(0, abs=1e-4)
    assert first["validation_kl"] == pytest.approx(0, abs=1e-4)


async def test_likelihoods_are_those_of_inference_over_the_completion_alone(
    first_stage: tuple[Path, list[dict[str, float]], Any], mini_folder: Path
) -> None:
    """What the curve calls chosen and rejected before the first step is what the engine scores behind the prompt."""
    first = _validation(first_stage[1])[0]
    lm = LocalLM.from_folder(mini_folder)
    ends = [" " + GOOD + "<|im_end|>", " " + BAD + "<|im_end|>"]
    scores = np.array([await lm.score(PROMPTS[pair.user], ends) for pair in WATCHED])
    assert first["validation_chosen"] == pytest.approx(scores[:, 0].mean(), abs=1e-3)
    assert first["validation_rejected"] == pytest.approx(scores[:, 1].mean(), abs=1e-3)


def test_the_objective_moves_chosen_up_relative_to_rejected(
    first_stage: tuple[Path, list[dict[str, float]], Any],
) -> None:
    rows = _validation(first_stage[1])
    assert rows[-1]["validation_margin"] > 1
    assert rows[-1]["validation_loss"] < math.log(2) - 0.05
    assert rows[-1]["validation_accuracy"] == 1
    assert rows[-1]["validation_chosen"] > rows[0]["validation_chosen"] - 1  # nats: the margin is not chosen's ruin
    spread = [row["validation_chosen"] - row["validation_rejected"] for row in rows]
    assert spread[-1] - spread[0] == pytest.approx(rows[-1]["validation_margin"], abs=1e-2)  # the reference stood still


def test_only_the_adapter_moved(
    first_stage: tuple[Path, list[dict[str, float]], Any], mini_folder: Path, hardware: Hardware, tmp_path: Path
) -> None:
    fresh = load_policy(_recipe(mini_folder, tmp_path), hardware, start=None).model.state_dict()
    trained = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): value
        for name, value in first_stage[2].model.state_dict().items()
        if "lora_" not in name
    }
    assert trained.keys() == fresh.keys()
    assert all(torch.equal(value, fresh[name]) for name, value in trained.items())


def _logits(model: Any, trainer: Any, adapter: str) -> torch.Tensor:
    rows = trainer.data_collator(list(trainer.eval_dataset))
    model.set_adapter(adapter)
    with torch.no_grad():
        found: torch.Tensor = model(rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    model.set_adapter("default")
    return found


def test_golden_a_stage_starts_at_its_reference_which_is_the_stage_before(
    first_stage: tuple[Path, list[dict[str, float]], Any], mini_folder: Path, hardware: Hardware, tmp_path: Path
) -> None:
    folder, _, before = first_stage
    recipe = _recipe(mini_folder, tmp_path, "epochs=1")
    trainer = _trainer(recipe, hardware, tmp_path, start=folder / POLICY)
    old = _logits(before.model, before, "default")
    assert torch.allclose(_logits(trainer.model, trainer, "ref"), old, atol=1e-5)
    assert torch.allclose(_logits(trainer.model, trainer, "default"), old, atol=1e-5)
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".default." in name for name in trained)
    digest = frozen_digest(trainer.model, "ref")
    curve = train_stage(trainer, tmp_path, beta=recipe.dpo.beta, first_step=6)
    assert _validation(curve)[0]["validation_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert _validation(curve)[0]["step"] == 6
    assert frozen_digest(trainer.model, "ref") == digest
    assert torch.allclose(_logits(trainer.model, trainer, "ref"), old, atol=1e-5)  # the reference stays fixed
    assert not torch.allclose(_logits(trainer.model, trainer, "default"), old, atol=1e-2)
    done = finished_stage(tmp_path)
    assert done is not None
    assert done.curve == curve
    assert set(done.checks) == {"gradients", "frozen"}
    assert {path.name for path in (tmp_path / POLICY).iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not (tmp_path / POLICY / "ref").exists()


def test_scoring_profiles_alone_changes_neither_loss_nor_gradients(
    first_stage: tuple[Path, list[dict[str, float]], Any],
    mini_folder: Path,
    hardware: Hardware,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from contextlib import nullcontext

    from trl.trainer import utils

    from llmrec.training.lettingo import dpo_trainer

    scored: list[int] = []
    head = utils._ChunkedLogProbFunction.apply

    def counted(states: torch.Tensor, *rest: Any) -> Any:
        scored.append(len(states))
        return head(states, *rest)

    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", counted)
    trainer = _trainer(_recipe(mini_folder, tmp_path), hardware, tmp_path, start=first_stage[0] / POLICY)

    def step() -> tuple[float, torch.Tensor]:
        loss = trainer.probe(list(trainer.train_dataset)[:4])
        loss.backward()
        gradients = [weight.grad.flatten() for weight in trainer.model.parameters() if weight.grad is not None]
        trainer.model.zero_grad(set_to_none=True)
        return loss.item(), torch.cat(gradients)

    alone, n_alone = step(), sum(scored)
    scored.clear()
    monkeypatch.setattr(dpo_trainer, "_learnt_positions_alone", nullcontext)
    everything = step()
    assert alone[0] == pytest.approx(everything[0], abs=1e-6)
    assert torch.allclose(alone[1], everything[1], atol=1e-6)
    assert 0 < n_alone < sum(scored) / 2


def test_a_reference_that_moves_and_a_policy_that_cannot_are_refused(
    first_stage: tuple[Path, list[dict[str, float]], Any], mini_folder: Path, hardware: Hardware, tmp_path: Path
) -> None:
    class Nudge(TrainerCallback):  # type: ignore[misc]
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            next(weight for name, weight in kwargs["model"].named_parameters() if ".ref." in name).data.add_(0.1)

    folder, _, _ = first_stage
    recipe = _recipe(mini_folder, tmp_path, "epochs=1")
    trainer = _trainer(recipe, hardware, tmp_path, start=folder / POLICY)
    trainer.add_callback(Nudge())
    checks = Checks()
    with pytest.raises(ModelError, match="'ref' was to stay fixed and moved"):
        train_stage(trainer, tmp_path, beta=0.1, checks=checks)
    assert checks.record["gradients"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert trainer.state.log_history[0]["step"] == 0  # the probe left nothing in the logs
    assert not (tmp_path / POLICY).exists()

    stuck = _trainer(recipe, hardware, tmp_path / "stuck", start=folder / POLICY)
    for weight in stuck.model.parameters():
        weight.requires_grad_(False)
    with pytest.raises(ModelError, match="nothing is to be trained"):
        train_stage(stuck, tmp_path / "stuck", beta=0.1)


def _gradient(trainer: Any) -> torch.Tensor:
    trainer.model.train()
    trainer.model.zero_grad()
    rows = trainer.data_collator(list(trainer.train_dataset)[:8])
    trainer.compute_loss(trainer.model, rows).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_the_reference_is_in_the_gradient(
    first_stage: tuple[Path, list[dict[str, float]], Any], mini_folder: Path, hardware: Hardware, tmp_path: Path
) -> None:
    """The policy is the trained stage; against itself every pair weighs 1/2, against the backbone it weighs less."""
    folder = first_stage[0] / POLICY
    recipe = _recipe(mini_folder, tmp_path)
    against_itself = _gradient(_trainer(recipe, hardware, tmp_path, start=folder))
    other = _trainer(recipe, hardware, tmp_path, start=folder)
    set_reference(other.model, None)
    against_backbone = _gradient(other)
    assert against_itself.norm() > 0
    assert against_backbone.norm() < 0.95 * against_itself.norm()
    assert other.evaluate()["eval_loss"] < math.log(2) - 0.05
    again = _trainer(recipe, hardware, tmp_path, start=folder)
    set_reference(again.model, folder)
    assert torch.allclose(_gradient(again), against_itself, atol=1e-6)


def test_shuffled_preferences_teach_nothing(
    first_stage: tuple[Path, list[dict[str, float]], Any], mini_folder: Path, hardware: Hardware, tmp_path: Path
) -> None:
    recipe = _recipe(mini_folder, tmp_path)
    mixed = shuffled_preferences([pair for pair in TRAIN for _ in range(2)], seed=0)[:24]
    swapped = sum(pair.chosen == BAD for pair in mixed)
    assert 8 <= swapped <= 16
    trainer = _trainer(recipe, hardware, tmp_path, start=None, pairs=mixed)
    trainer.args.load_best_model_at_end = False
    margin = _validation(train_stage(trainer, tmp_path, beta=recipe.dpo.beta))[-1]["validation_margin"]
    assert margin < 0.5 * _validation(first_stage[1])[-1]["validation_margin"]


def test_supervised_learning_of_right_profiles_raises_them(
    mini_folder: Path, hardware: Hardware, tmp_path: Path
) -> None:
    recipe = _recipe(mini_folder, tmp_path, "dpo.method=sft", "epochs=1")
    rows = _validation(train_stage(_trainer(recipe, hardware, tmp_path, start=None), tmp_path, beta=0.1))
    assert rows[-1]["validation_chosen"] > rows[0]["validation_chosen"] + 1
    tokens = len(_encoded(WATCHED, load_policy(recipe, hardware, start=None), recipe).rows[0]["chosen_ids"])
    assert rows[0]["validation_loss"] == pytest.approx(-rows[0]["validation_chosen"] / tokens, rel=1e-4)


def test_the_supervised_term_is_added_with_its_weight(mini_folder: Path, hardware: Hardware, tmp_path: Path) -> None:
    plain = _validation_at_0(_recipe(mini_folder, tmp_path), hardware, tmp_path)
    both = _validation_at_0(_recipe(mini_folder, tmp_path, "dpo.sft_weight=0.5"), hardware, tmp_path)
    alone = _validation_at_0(_recipe(mini_folder, tmp_path, "dpo.method=sft"), hardware, tmp_path)
    assert both == pytest.approx(plain + 0.5 * alone, rel=1e-5)


def _validation_at_0(recipe: LettingoRecipe, hardware: Hardware, folder: Path) -> float:
    return float(_trainer(recipe, hardware, folder, start=None).evaluate()["eval_loss"])


class _Kill(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise RuntimeError("killed")


def test_a_killed_stage_ends_where_an_unbroken_one_does(
    first_stage: tuple[Path, list[dict[str, float]], Any], mini_folder: Path, hardware: Hardware, tmp_path: Path
) -> None:
    start = first_stage[0] / POLICY
    recipe = _recipe(mini_folder, tmp_path)
    whole = train_stage(_trainer(recipe, hardware, tmp_path / "a", start=start), tmp_path / "a", beta=0.1)
    killed = _trainer(recipe, hardware, tmp_path / "b", start=start)
    killed.add_callback(_Kill)
    with pytest.raises(RuntimeError, match="killed"):
        train_stage(killed, tmp_path / "b", beta=0.1)
    assert finished_stage(tmp_path / "b") is None
    resumed = _trainer(recipe, hardware, tmp_path / "b", start=start)
    digest = frozen_digest(resumed.model, "ref")
    rest = train_stage(resumed, tmp_path / "b", beta=0.1)
    assert frozen_digest(resumed.model, "ref") == digest
    assert rest[-1]["step"] == whole[-1]["step"]
    assert rest[-1] == pytest.approx(whole[-1], abs=1e-4)


def test_pairs_that_are_too_long_are_counted_or_refused(mini_folder: Path, hardware: Hardware, tmp_path: Path) -> None:
    recipe = _recipe(mini_folder, tmp_path)
    policy = load_policy(recipe, hardware, start=None)
    long = Pair(0, GOOD, "Mostly Drama. " * 100, 0.1)
    found = encode_pairs([TRAIN[0], long], PROMPTS, policy, style="raw", max_tokens=120)
    assert (len(found.rows), found.n_longer) == (1, 1)
    row = found.rows[0]
    decode = policy.tokenizer.decode
    assert decode(row["prompt_ids"]) == PROMPTS[0]
    assert decode(row["chosen_ids"]) == f" {GOOD}<|im_end|>"
    with pytest.raises(DataError, match="max_tokens=3"):
        encode_pairs(TRAIN, PROMPTS, policy, style="raw", max_tokens=3)
    unwatched = encode_pairs(WATCHED, PROMPTS, policy, style="raw", max_tokens=3, needed=False)
    assert unwatched == ([], len(WATCHED))
    chat: dict[int, Any] = {0: [{"role": "user", "content": "Write."}]}
    asked = encode_pairs([TRAIN[0]], chat, policy, style="chat", max_tokens=120).rows[0]
    assert "assistant" in decode(asked["prompt_ids"])
    assert decode(asked["chosen_ids"]) == f"{GOOD}<|im_end|>"


def test_golden_lengths_and_learnt_tokens() -> None:
    """Chosen profiles of 3 and 5 tokens, rejected ones of 1 and 2, each with its end: 10 and 5 tokens."""
    rows = [
        {"prompt_ids": [1] * 9, "chosen_ids": [2] * 4, "rejected_ids": [3] * 2},
        {"prompt_ids": [1] * 7, "chosen_ids": [2] * 6, "rejected_ids": [3] * 3},
    ]
    assert profile_lengths(rows) == {"chosen": 4, "rejected": 1.5}
    assert profile_lengths([]) == {"chosen": 0, "rejected": 0}
    assert tokens_with_loss(rows, "dpo") == 15
    assert tokens_with_loss(rows, "sft") == 10


def test_a_stage_is_known_by_its_pairs_and_by_what_it_goes_on_from(
    first_stage: tuple[Path, list[dict[str, float]], Any], mini_folder: Path
) -> None:
    def rows(*chosen: int) -> list[dict[str, list[int]]]:
        return [{"prompt_ids": [1], "chosen_ids": [one], "rejected_ids": [9]} for one in chosen]

    data = StageData(rows(2, 3), rows(4))
    key = stage_key(1, 2, data, None)
    assert key == stage_key(1, 2, StageData(rows(2, 3), rows(4)), None)
    others = [
        stage_key(2, 2, data, None),
        stage_key(1, 2, StageData(rows(3, 2), rows(4)), None),
        stage_key(1, 2, StageData(rows(2, 3), rows(5)), None),
        stage_key(1, 2, StageData(rows(2, 3, 4), []), None),
        stage_key(1, 2, data, first_stage[0] / POLICY),
        stage_key(1, 2, data, mini_folder),
    ]
    assert len({key, *others}) == 7


def test_golden_curve_rows(tmp_path: Path) -> None:
    """Rewards 0.2 and -0.4 at beta 0.1 are log-ratios 2 and -4: margin 6, divergence 1."""
    logs = [
        {
            "step": 3,
            "loss": 0.5,
            "logps/chosen": -9.0,
            "logps/rejected": -7.0,
            "rewards/chosen": 0.2,
            "rewards/rejected": -0.4,
            "rewards/accuracies": 0.75,
        },
        {"step": 4, "train_loss": 0.5},
    ]
    (row,) = preference_curve(logs, beta=0.1, first_step=10)
    assert row == pytest.approx(
        {"step": 13, "loss": 0.5, "chosen": -9, "rejected": -7, "margin": 6, "kl": 1, "accuracy": 0.75}
    )
    plot_curves([row], tmp_path / "curves.png", PANELS)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_resumed_run_draws_no_step_twice() -> None:
    """A trainer that goes on validates again before its first step."""
    names = ("loss", "logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected", "rewards/accuracies")
    validated = {f"eval_{name}": 0.5 for name in names} | {"step": 4}
    trained = dict.fromkeys(names, 0.25) | {"step": 4}
    rows = preference_curve([trained, validated, {**validated, "eval_loss": 0.6}], beta=0.1)
    assert [(row["step"], row.get("loss"), row.get("validation_loss")) for row in rows] == [
        (4, 0.25, None),
        (4, None, 0.5),
    ]
