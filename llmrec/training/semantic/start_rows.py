"""Where the rows of id tokens start: a code begins as what the texts of its items have in common.

Rows that start as noise have to learn what each code stands for; a row that starts near the words of its items says
something of it at once. What that gives is measured in `docs/recommenders.md`. It is the adapter's copy of the rows
that is set: the backbone's own rows stay what `llmrec.semid.tokens` made them, unlikely in the text of other roles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import ModelError
from llmrec.semid.tokens import CUES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmrec.semid.codes import SemanticIds

Weights = npt.NDArray[np.float32]


def start_from_texts(
    model: Any, tokenizer: PreTrainedTokenizerBase, ids: SemanticIds, texts: Sequence[str], tokens: Sequence[int]
) -> None:
    """Move the trained rows of all codes but the collision codes, which only number items; those and the cues stay.

    To the row of a code is added the mean of its items' texts less the mean of all items' texts, where a text is the
    TF-IDF weighted sum of its tokens' old rows (less the mean old row), scaled to the spread of the old rows.

    With a head of its own (untied), the head's rows start from the head's old rows.

    Args:
        model: with peft's `trainable_token_indices` for `tokens`.
        tokenizer: of the extended backbone.
        ids: of the catalogue.
        texts: of each item, shape (n_items,).
        tokens: `token_numbers(tokenizer, ids)`.

    Raises:
        ModelError: the model trains no token rows.
    """
    import torch
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    found = [module for module in model.modules() if isinstance(module, TrainableTokensLayer)]
    layers = [layer for layer in found if layer.tied_adapter is None]  # a tied head shares the rows of the embedding
    if not layers:
        raise ModelError("the rows of new tokens are not trained; set trainable_token_indices in the adapter's config")
    n_old = min(tokens)
    words = _word_weights(tokenizer, texts, n_old)
    offsets = len(CUES) + np.concatenate([[0], np.cumsum(ids.sizes)[:-1]])
    with torch.no_grad():
        for layer in layers:
            (adapter,) = layer.trainable_tokens_delta
            rows = layer.trainable_tokens_delta[adapter]
            place = {token: index for index, token in enumerate(layer.token_indices[adapter])}
            old = layer.get_base_layer().weight[:n_old].float().cpu().numpy()
            wanted = float(old.std(axis=0).mean())
            sums = np.asarray(words.sum(axis=1)).reshape(-1, 1)
            vectors: Weights = words @ old - sums * old.mean(axis=0)  # (n_items, width), without a copy of `old`
            vectors -= vectors.mean(axis=0)
            for level in range(ids.depth - 1):
                codes, means = _code_means(vectors, ids.codes[:, level])
                spread = float(means.std())
                if spread < 1e-4 * wanted:  # one code for all, or no words: nothing tells the codes apart
                    continue
                means *= wanted / spread
                index = torch.tensor([place[tokens[offsets[level] + code]] for code in codes.tolist()])
                rows[index] += torch.from_numpy(means).to(rows)


def _word_weights(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], n_old: int) -> Any:
    """TF-IDF of the tokens of each text, a sparse matrix of shape (n_items, n_old) with rows of length 1 or 0."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def tokens_of(text: str) -> list[int]:
        return [token for token in tokenizer(text, add_special_tokens=False)["input_ids"] if token < n_old]

    known = {token: token for token in range(n_old)}
    vectorizer = TfidfVectorizer(
        analyzer=tokens_of, vocabulary=known, lowercase=False, sublinear_tf=True, dtype=np.float32
    )
    return vectorizer.fit_transform(texts)


def _code_means(vectors: Weights, codes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Weights]:
    """The codes in use, and the mean of each one's items, shape (n_used, width)."""
    from scipy.sparse import csr_array

    used, group, counts = np.unique(codes, return_inverse=True, return_counts=True)
    share = (1 / counts[group]).astype(np.float32)
    per_code = csr_array((share, (group, np.arange(len(codes)))), shape=(len(used), len(codes)))
    means: Weights = per_code @ vectors
    return used, means
