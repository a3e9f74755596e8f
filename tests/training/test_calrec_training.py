"""The script of CALRec: stages, adapters, what is validated and served, resuming."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.assets import asset, load_file
from llmrec.data.dataset import Dataset
from llmrec.errors import ConfigError, ModelError
from llmrec.lm.adapters import read_stamp
from llmrec.lm.codec import TokenCodec
from llmrec.lm.hardware import choose
from llmrec.lm.local import LocalLM
from llmrec.metrics.ranking import ndcg_at, target_ranks
from llmrec.retrieval.calrec import CalrecRecommender, history_prompt
from llmrec.seeding import derive
from llmrec.training.callbacks import Progress
from llmrec.training.calrec.data import Domain, Form
from llmrec.training.calrec.domain import domain_rank, save_sum, with_shared_inside
from llmrec.training.calrec.recipe import CalrecRecipe, ValidationSettings
from llmrec.training.calrec.stages import check_prompts, load_tunable
from llmrec.training.calrec.trainer import CalrecTrainer
from llmrec.training.calrec.validation import RankingCheck
from llmrec.training.card import ranking
from llmrec.training.recipe import load_recipe_of

RECIPE = asset("finetune/calrec.yaml")


def _overrides(backbone: Path, output: Path, **changes: Any) -> list[str]:
    settings = {
        "backbone": backbone,
        "output": output,
        "examples": 16,
        "batch_size": 8,
        "history_items": 4,
        "max_tokens": 256,
        "evaluations": 1,
        "learning_rate": 0.01,
        "validation": "{users: 4, samples: 2, max_tokens: 12, examples: 8}",
    }
    return [f"{key}={value}" for key, value in {**settings, **changes}.items()]


@pytest.fixture(scope="module")
def script() -> Any:
    return load_file(asset("finetune/calrec.py"), name="calrec_under_test")


@pytest.fixture(scope="module")
def two_stages(mini_folder: Path, script: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("calrec") / "recommender"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMREC_COMPILE", "0")
        patch.setenv("LLMREC_DTYPE", "float32")
        script.main(RECIPE, _overrides(mini_folder, output, stages="both", domains="[films, films]", micro_batch=4))
    return output


def test_both_stages_leave_adapters_card_and_curves(two_stages: Path, mini_folder: Path) -> None:
    record = json.loads((two_stages / "training.json").read_text(encoding="utf-8"))
    assert record["dataset"] == "films"
    assert record["stages"]["I"]["dataset"] == "films + films"
    assert record["n_train"] == 32
    assert record["recipe"]["domains"] == ["films", "films"]
    assert {row["step"] for row in record["curve"]} == {0.0, 1.0, 2.0, 3.0, 4.0}
    names = ("prompts", "gradients", "padding", "combined loss", "frozen", "labels")
    assert {f"stage {stage}: {name}" for stage in ("I", "II") for name in names} == set(record["checks"])
    assert all(stage["ndcg10_before"] is not None for stage in record["stages"].values())
    for folder in (two_stages, two_stages / "stage-I"):
        assert (folder / "adapter_model.safetensors").exists()
        assert read_stamp(folder) is not None
    assert (two_stages / "curves.png").stat().st_size > 10_000
    card = (two_stages / "README.md").read_text(encoding="utf-8")
    assert "recommender" in card
    last = record["stages"]["II"]
    assert (record["ndcg10_before"], record["ndcg10_best"]) == (last["ndcg10_before"], last["ndcg10_best"])
    assert f"validation NDCG@10: {last['ndcg10_best']:.4f}, and {last['ndcg10_before']:.4f} before" in card
    assert not (two_stages / "checkpoints").exists()


def test_a_ranking_that_training_did_not_better_is_called_so() -> None:
    assert "no better than what it started from" in ranking({"ndcg10_before": 0.12, "ndcg10_best": 0.08})
    assert "no better" not in ranking({"ndcg10_before": 0.08, "ndcg10_best": 0.12})
    assert ranking({"ndcg10_before": None, "ndcg10_best": 0.12}).endswith("NDCG@10: 0.1200.")


def _logits(backbone: Path, adapter: Path, ids: torch.Tensor) -> torch.Tensor:
    """What plain peft makes of a saved adapter."""
    from peft import PeftModel

    with torch.inference_mode():
        base = AutoModelForCausalLM.from_pretrained(backbone)
        answer: torch.Tensor = PeftModel.from_pretrained(base, adapter)(ids).logits
    return answer


def test_the_second_stage_goes_on_from_the_first(two_stages: Path, mini_folder: Path, tmp_path: Path) -> None:
    """Its model before the first step is what the first stage left, with the adapter open."""
    recipe = load_recipe_of(CalrecRecipe, RECIPE, _overrides(mini_folder, tmp_path))
    tunable = load_tunable(recipe, choose(purpose="training", device="cpu"), start=two_stages / "stage-I")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        found = tunable.model(ids).logits
    assert torch.allclose(found, _logits(mini_folder, two_stages / "stage-I", ids), atol=1e-5)
    assert not torch.allclose(found, _logits(mini_folder, two_stages, ids), atol=1e-3)
    assert any(weight.requires_grad for weight in tunable.model.parameters())


def test_the_loss_of_the_second_stage_starts_where_that_of_the_first_ended(
    mini_folder: Path, script: Any, tmp_path: Path
) -> None:
    """One domain in both, so both watch the same rows."""
    changes = {"stages": "both", "domains": "[films]", "select": "loss"}
    record = script.main(RECIPE, _overrides(mini_folder, tmp_path / "out", **changes))
    losses = [row["validation_loss"] for row in record["curve"] if "validation_loss" in row]
    assert len(losses) == 4
    assert losses[2] == pytest.approx(losses[1], abs=1e-4)
    assert abs(losses[2] - losses[0]) > 1e-3


def test_adapters_merge(two_stages: Path, mini_folder: Path) -> None:
    from peft import PeftModel

    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        base = AutoModelForCausalLM.from_pretrained(mini_folder)
        bare = base(ids).logits
        adapted = PeftModel.from_pretrained(base, two_stages)
        beside = adapted(ids).logits
        merged = adapted.merge_and_unload()(ids).logits
    assert (beside - merged).abs().max().item() < 1e-4
    assert (beside - bare).abs().max().item() > 1e-3


def test_what_is_finished_is_not_trained_again(
    two_stages: Path, mini_folder: Path, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (two_stages / "adapter_model.safetensors").read_bytes()

    def never(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(CalrecTrainer, "train", never)
    both = {"stages": "both", "domains": "[films, films]", "micro_batch": 4}
    script.main(RECIPE, _overrides(mini_folder, two_stages, **both))
    assert (two_stages / "adapter_model.safetensors").read_bytes() == before
    with pytest.raises(AssertionError, match="trained again"):
        script.main(RECIPE, _overrides(mini_folder, two_stages, **both, seed=1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_validation_is_what_the_served_recommender_reaches(
    two_stages: Path, mini_folder: Path, films: Dataset, dtype: str
) -> None:
    """NDCG@10 measured on a model in training equals that of the saved adapter behind the engine."""
    from peft import PeftModel

    settings = ValidationSettings(users=6, samples=3, max_tokens=20)
    check = RankingCheck([Domain.of(films)], settings, history_items=4, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    base = AutoModelForCausalLM.from_pretrained(mini_folder, dtype=getattr(torch, dtype))
    model = PeftModel.from_pretrained(base, two_stages, is_trainable=True)
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = check.measure(model, tokenizer)
    assert model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())

    lm = LocalLM.from_folder(mini_folder, adapters={"recommender": two_stages}, dtype=dtype)
    recommender = CalrecRecommender(lm, config=check.config)
    recommender.index_catalogue(films.catalogue)
    domain, pairs = check.domains[0], check.users[0]
    histories = [domain.split.history(user, "validation") for user, _ in pairs]
    scores = asyncio.run(recommender.score(histories, seed=derive(0, "calrec", "ranking")))
    ranks = target_ranks(scores, [target for _, target in pairs], histories)
    assert len(pairs) == 6
    assert [target for _, target in pairs] == [
        int(domain.split.validation[np.searchsorted(domain.split.users, user)]) for user, _ in pairs
    ]
    assert found["ndcg10"] == pytest.approx(float(ndcg_at(ranks, 10).mean()), abs=1e-9)
    assert check.measure(model, tokenizer) == found


def test_a_large_backbone_is_ranked_with_its_adapter_beside_it(
    two_stages: Path, mini_folder: Path, films: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not copied and merged as a small one: the same ranks, and the model goes on in training as it was."""
    from peft import PeftModel

    check = RankingCheck(
        [Domain.of(films)], ValidationSettings(users=6, samples=3, max_tokens=20), history_items=4, seed=0
    )
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(mini_folder), two_stages, is_trainable=True)
    model.train()
    merged = check.measure(model, tokenizer)
    copies: list[Any] = []
    monkeypatch.setattr("llmrec.training.calrec.validation.MERGE_BELOW", 0)
    monkeypatch.setattr("llmrec.training.calrec.validation.copy.deepcopy", copies.append)
    assert check.measure(model, tokenizer) == pytest.approx(merged)
    assert not copies
    assert model.training
    assert any(weight.requires_grad for weight in model.parameters())


def test_all_weights_are_trained_and_the_result_is_a_model(mini_folder: Path, script: Any, tmp_path: Path) -> None:
    """Both stages; the second starts from the folder of the first."""
    changes = {"tuning": "full", "select": "loss", "stages": "both", "domains": "[films]", "learning_rate": 0.001}
    record = script.main(RECIPE, _overrides(mini_folder, tmp_path / "model", **changes))
    assert record["stages"]["II"]["base"].startswith("stage-I@")
    base, tuned = (AutoModelForCausalLM.from_pretrained(path) for path in (mini_folder, tmp_path / "model"))
    moved = [not torch.equal(a, b) for a, b in zip(base.parameters(), tuned.parameters(), strict=True)]
    assert all(moved)
    assert record["stages"]["I"]["ndcg10_before"] is None
    lm = LocalLM.from_folder(tmp_path / "model", dtype="float32")
    assert lm.capabilities.adapters == ()
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card
    assert "PeftModel" not in card


def test_a_domain_starts_at_the_shared_adapter_and_leaves_it_and_other_domains_alone(
    two_stages: Path, mini_folder: Path, script: Any, tmp_path: Path
) -> None:
    """At the start every domain equals the trunk; afterwards the saved sum is what was trained, in plain peft."""
    shared = two_stages / "stage-I"
    ids = torch.tensor([[5, 6, 7, 8]])
    changes = {"tuning": "domain", "start": str(shared), "domain_temperature": 8.0}
    overrides = _overrides(mini_folder, tmp_path / "films", **changes)
    recipe = load_recipe_of(CalrecRecipe, RECIPE, overrides)
    tunable = load_tunable(recipe, choose(purpose="training", device="cpu"), start=shared)

    def logits(folder: Path) -> torch.Tensor:
        return _logits(mini_folder, folder, ids)

    with torch.inference_mode():
        assert torch.allclose(tunable.model(ids).logits, logits(shared), atol=1e-5)
    before = {path.name: path.read_bytes() for path in shared.iterdir() if path.is_file()}
    script.main(RECIPE, overrides)
    first = (tmp_path / "films" / "adapter_model.safetensors").read_bytes()
    script.main(RECIPE, _overrides(mini_folder, tmp_path / "other", **changes, seed=5))
    assert {path.name: path.read_bytes() for path in shared.iterdir() if path.is_file()} == before
    assert (tmp_path / "films" / "adapter_model.safetensors").read_bytes() == first
    config = json.loads((tmp_path / "films" / "adapter_config.json").read_text(encoding="utf-8"))
    width = tunable.model.config.hidden_size
    assert config["r"] == json.loads((shared / "adapter_config.json").read_text(encoding="utf-8"))["r"] + width // 8
    assert not torch.allclose(logits(tmp_path / "films"), logits(shared), atol=1e-3)
    assert not torch.allclose(logits(tmp_path / "films"), logits(tmp_path / "other"), atol=1e-3)


def test_the_saved_sum_of_two_adapters_is_what_was_trained(two_stages: Path, mini_folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    shared, ids = two_stages / "stage-I", torch.tensor([[5, 6, 7, 8]])
    inside = with_shared_inside(AutoModelForCausalLM.from_pretrained(mini_folder), shared)
    torch.manual_seed(0)
    model = get_peft_model(inside, LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", init_lora_weights=False))
    with torch.inference_mode():
        trained = model(ids).logits
        save_sum(model, shared, tmp_path)
        again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(mini_folder), tmp_path)(ids).logits
    assert torch.allclose(trained, again, atol=1e-4)
    assert [domain_rank(128, 16), domain_rank(8, 16)] == [8, 1]


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(
    mini_folder: Path, script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the third of four steps of the second stage; losses within 1e-4 of those of a run in one go."""
    step_end = Progress.on_step_end
    kills: list[str] = []

    def broken(self: Progress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step_end(self, args, state, control, **kwargs)
        if state.global_step == 3 and self.title.endswith("stage II") and not kills:
            kills.append(self.title)
            raise KeyboardInterrupt

    changes = {"select": "loss", "stages": "both", "domains": "[films]", "batch_size": 4, "evaluations": 2}
    monkeypatch.setattr(Progress, "on_step_end", broken)
    with pytest.raises(KeyboardInterrupt):
        script.main(RECIPE, _overrides(mini_folder, tmp_path / "broken", **changes))
    resumed = script.main(RECIPE, _overrides(mini_folder, tmp_path / "broken", **changes))
    whole = script.main(RECIPE, _overrides(mini_folder, tmp_path / "whole", **changes))
    assert kills == ["recommender, stage II"]
    ends = [
        [row["validation_loss"] for row in one["curve"] if "validation_loss" in row][-1] for one in (resumed, whole)
    ]
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)
    assert resumed["best"] == pytest.approx(whole["best"], abs=1e-4)


def test_an_adapter_of_another_backbone_is_no_start(
    two_stages: Path, mini_folder: Path, tmp_path: Path, script: Any
) -> None:
    copied = tmp_path / "adapter"
    copied.mkdir()
    for file in two_stages.iterdir():
        if file.is_file():
            (copied / file.name).write_bytes(file.read_bytes())
    (copied / "backbone.json").write_text(json.dumps({"base_content_hash": "0" * 64}), encoding="utf-8")
    with pytest.raises(ConfigError, match="another backbone"):
        script.main(RECIPE, _overrides(mini_folder, tmp_path / "out", start=copied))


def test_an_adapter_is_not_trained_further_under_a_shape_that_it_has_not(
    two_stages: Path, mini_folder: Path, tmp_path: Path, script: Any
) -> None:
    changes = {"start": two_stages / "stage-I", "lora.rank": 4}
    with pytest.raises(ConfigError, match=r"rank 16 and alpha 32, and the recipe says 4 .* set lora.rank=16"):
        script.main(RECIPE, _overrides(mini_folder, tmp_path / "out", **changes))


def test_prompts_that_serving_does_not_ask_with_are_refused(
    films: Dataset, mini_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    form = Form(TokenCodec(model, tokenizer, n_vocabulary=len(tokenizer), name="mini"), 4, 256)
    monkeypatch.setattr("llmrec.training.calrec.data.history_prompt", lambda items: f"{history_prompt(items)} ")
    with pytest.raises(ModelError, match="another prompt"):
        check_prompts([Domain.of(films)], form, seed=0)


def test_overrides_reach_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe_of(CalrecRecipe, RECIPE, _overrides(tmp_path, tmp_path / "out", micro_batch=4))
    assert (recipe.micro_batch, recipe.validation.users, recipe.examples) == (4, 4, 16)
