"""eval/lettingo.py: what stands above its table."""

from __future__ import annotations

from llmrec.assets import asset, load_file
from llmrec.training.lettingo.recipe import LettingoRecipe
from llmrec.training.lettingo.windows import Groups, Rated, Window
from llmrec.training.recipe import load_recipe


def test_the_heading_counts_labels_pairs_and_every_writers_right_answers() -> None:
    script = load_file(asset("eval/lettingo.py"), name="llmrec_eval_lettingo")
    recipe = load_recipe(asset("finetune/lettingo.yaml"), [])
    assert isinstance(recipe, LettingoRecipe)
    test = [Window(0, (), (), (Rated(1, "like"), Rated(2, "like"))), Window(1, (), (), (Rated(1, "dislike"),))]
    found = {
        "pairs": 7,
        "pairs_per_user": 0.7,
        "unanimous": 3,
        "questions": 10,
        "writers": {"own": {"answers": 50, "right": 30}, "other": {"answers": 40, "right": 10}},
    }
    record = {"n_train": 6, "seconds": 12.3, "exploration": found}
    text = script.heading(recipe, Groups([5], [test[0]], test), {"dpo": record})
    assert "2 test users, 3 questions (dislike 33.3%, neutral 0.0%, like 66.7%)" in text
    assert "- DPO: 6 rows of 7 pairs (0.70 a user, 3 of 10 questions unanimous), 12 s" in text
    assert text.endswith("right answers by writer: own 30 of 50, other 10 of 40")
