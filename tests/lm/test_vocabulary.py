"""A cut vocabulary: what is kept stays exactly as it was, and no text is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmrec.data.spec import load
from llmrec.errors import ConfigError, ModelNotFoundError
from llmrec.lm.local import LocalLM
from llmrec.lm.vocabulary import cut_vocabulary, kept_ids, old_ids
from llmrec.testing.models import save_tiny_model

TEXTS = ("Title: Alien (1979). Category: Horror, Sci-Fi", "Next: Title: Heat (1995). Category: Crime")
OTHERS = ("the merest zymurgy of a quixotic jazz", "naïve façade 漢字 🎬\x07", "TITLE:ALIEN\n\n\t  ")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("cut")
    whole = save_tiny_model(root / "whole", texts=[*TEXTS, *OTHERS] * 20, seed=3)
    cut_vocabulary(whole, root / "cut", TEXTS)
    return whole, root / "cut"


def engines(folders: tuple[Path, Path]) -> tuple[LocalLM, LocalLM, list[int]]:
    return LocalLM.from_folder(folders[0]), LocalLM.from_folder(folders[1]), old_ids(folders[1])


def test_the_cut_is_smaller_and_keeps_bytes_and_special_tokens(folders: tuple[Path, Path]) -> None:
    whole, cut, old = engines(folders)
    assert len(cut._codec.tokenizer) == len(old) < len(whole._codec.tokenizer)
    assert set(whole._codec.tokenizer.all_special_ids) <= set(old)
    assert cut._codec.tokenizer.convert_ids_to_tokens(range(len(old))) == (
        whole._codec.tokenizer.convert_ids_to_tokens(old)
    )


def test_the_texts_have_the_same_tokens_as_before(folders: tuple[Path, Path]) -> None:
    whole, cut, old = engines(folders)
    for text in TEXTS:
        assert [old[token] for token in cut._codec.prompt(text)] == list(whole._codec.prompt(text))


@pytest.mark.parametrize("text", [*TEXTS, *OTHERS])
def test_no_text_is_lost(folders: tuple[Path, Path], text: str) -> None:
    _, cut, _ = engines(folders)
    assert cut._codec.decode(cut._codec.encode(text)) == text


def test_logits_of_kept_tokens_are_unchanged_and_probabilities_renormalised(folders: tuple[Path, Path]) -> None:
    whole, cut, old = engines(folders)
    tokens = list(cut._codec.prompt(TEXTS[0]))
    with torch.inference_mode():
        before = whole._model(torch.tensor([[old[token] for token in tokens]])).logits[0][:, old]
        after = cut._model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    expected = torch.log_softmax(before, dim=-1)  # over the kept tokens alone
    torch.testing.assert_close(torch.log_softmax(after, dim=-1), expected, rtol=0, atol=1e-5)


async def test_scores_are_those_of_the_whole_model_up_to_the_mass_that_was_cut(folders: tuple[Path, Path]) -> None:
    whole, cut, _ = engines(folders)
    before = await whole.score(TEXTS[0], [" Heat", " Crime"])
    after = await cut.score(TEXTS[0], [" Heat", " Crime"])
    assert all(b < a for b, a in zip(before, after, strict=True))  # fewer tokens share the probability


def test_golden_pieces_of_a_token_follow_the_ranks() -> None:
    # hand-made: "abcd" is built as a+b, c+d, ab+cd; the pair b+c has a later rank and is never used
    vocabulary = {
        text: index for index, text in enumerate(["é́x", "a", "b", "c", "d", "ab", "cd", "bc", "abcd", "<0x0A>"])
    }
    merges = [["a", "b"], ["c", "d"], ["b", "c"], ["ab", "cd"]]
    spec = {"model": {"type": "BPE", "vocab": vocabulary, "merges": merges}, "added_tokens": []}
    kept = kept_ids(spec, [vocabulary["abcd"]])
    assert {text for text, index in vocabulary.items() if index in kept} == {
        "a", "b", "c", "d", "ab", "cd", "abcd", "<0x0A>",
    }  # fmt: skip


def test_what_datasets_and_prompts_say_is_read_unchanged(tmp_path: Path) -> None:
    from itertools import islice

    from llmrec.training.texts import texts_of

    texts = list(islice(texts_of(load("films")), 0, None, 97))
    whole = save_tiny_model(tmp_path / "whole", texts=texts, seed=1)
    cut_vocabulary(whole, tmp_path / "cut", texts)
    a, b, old = engines((whole, tmp_path / "cut"))
    for text in texts[::7]:
        assert [old[token] for token in b._codec.encode(text)] == list(a._codec.encode(text))


def test_an_adapter_of_the_cut_model_fits_the_whole_one(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    whole, cut, old = engines(folders)
    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(cut._model, settings)
    adapted.save_pretrained(tmp_path / "adapter")
    tokens = list(cut._codec.prompt(TEXTS[0]))
    on_whole = PeftModel.from_pretrained(whole._model, tmp_path / "adapter")
    with torch.inference_mode():
        after = adapted(torch.tensor([tokens])).logits[0]
        before = on_whole(torch.tensor([[old[token] for token in tokens]])).logits[0][:, old]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_end_tokens_that_no_text_uses_and_licences_are_kept(tmp_path: Path) -> None:
    whole = save_tiny_model(tmp_path / "whole", texts=[*TEXTS, *OTHERS] * 20, seed=3)
    config = json.loads((whole / "config.json").read_text())
    spec = json.loads((whole / "tokenizer.json").read_text())
    rare = max(spec["model"]["vocab"].values())  # an ordinary token, the last that was merged
    (whole / "config.json").write_text(json.dumps({**config, "eos_token_id": rare}))
    (whole / "LICENSE").write_text("terms")
    (whole / "import.json").write_text(json.dumps({"licence_files": ["TERMS.rtf"]}))
    (whole / "TERMS.rtf").write_text("more terms")
    cut_vocabulary(whole, tmp_path / "cut", TEXTS)
    assert old_ids(tmp_path / "cut")[json.loads((tmp_path / "cut" / "config.json").read_text())["eos_token_id"]] == rare
    assert {"LICENSE", "TERMS.rtf", "import.json"} <= {file.name for file in (tmp_path / "cut").iterdir()}


def test_tokens_that_the_model_has_no_row_for_are_left_out(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    whole = save_tiny_model(tmp_path / "whole", texts=TEXTS, seed=3)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    n_rows = len(tokenizer)
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(whole)
    cut_vocabulary(whole, tmp_path / "cut", ["an <image> of a ship", *TEXTS])
    assert max(old_ids(tmp_path / "cut")) < n_rows


def test_a_model_without_one_of_its_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = save_tiny_model(tmp_path / "whole", texts=TEXTS)
    weights = load_file(whole / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, whole / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotFoundError, match="1 weights are missing"):
        cut_vocabulary(whole, tmp_path / "cut", TEXTS)


def test_bad_input_is_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists"):
        cut_vocabulary(folders[0], folders[1], TEXTS)
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json"):
        cut_vocabulary(tmp_path, tmp_path / "out", TEXTS)
    spec = json.loads((folders[0] / "tokenizer.json").read_text())
    spec["model"]["type"] = "Unigram"
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ConfigError, match="Unigram"):
        cut_vocabulary(tmp_path, tmp_path / "out", TEXTS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelNotFoundError, match="cut vocabulary"):
        old_ids(folders[0])
