"""The small decoder over semantic-id tokens: an ordinary Hugging Face model and tokenizer, and how they are trained.

The model has Llama's shape, so transformers loads and decodes it without this package. That shape knows no dropout but
that of attention weights; the rest is hooked in while it is trained and is no part of what is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmrec.errors import ConfigError
from llmrec.ranking.fit import seeded_torch
from llmrec.ranking.generative_data import PAD, SPECIALS, START, CodeBatch

if TYPE_CHECKING:
    from llmrec.semid.codes import SemanticIds

MAX_PARAMETERS = 20_000_000
"""What "small" means here."""
_ROPE_THETA = 10_000.0


def build_model(
    n_tokens: int,
    *,
    width: int,
    layers: int,
    heads: int,
    feed_forward: int,
    context: int,
    attention_dropout: float,
    seed: int,
) -> Any:
    """A freshly initialised causal language model.

    Args:
        n_tokens: size of the vocabulary, special tokens included.
        width: of states; a multiple of twice the heads.
        layers: number of blocks.
        heads: of the attention.
        feed_forward: width of the feed-forward part.
        context: longest sequence in tokens.
        attention_dropout: of attention weights, in training.
        seed: equal seeds give equal weights.

    Raises:
        ConfigError: it would have more than `MAX_PARAMETERS`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config: Any = LlamaConfig(
        vocab_size=n_tokens,
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
        attention_dropout=attention_dropout,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=None,
    )
    with seeded_torch("weights", seed=seed):
        model: Any = LlamaForCausalLM(config)
    if (size := n_parameters(model)) > MAX_PARAMETERS:
        raise ConfigError(
            f"the generator would have {size:,} parameters, the limit is {MAX_PARAMETERS:,}; lower width, layers or "
            "the sizes of the semantic ids"
        )
    return model


def n_parameters(model: nn.Module) -> int:
    """Trained numbers; the tied head is counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def build_tokenizer(ids: SemanticIds) -> Any:
    """A tokenizer whose tokens are the special tokens and the codes: a history is the texts of its ids, joined.

    It puts the start token before a text. Any other text is an error of the tokenizer, since there is no token for
    what is unknown.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    texts = [*SPECIALS, *ids.token_texts()]
    tokenizer = Tokenizer(models.WordLevel({text: number for number, text in enumerate(texts)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\|[^|]*\|>"), behavior="isolated")
    start = SPECIALS[START]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, START)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, pad_token=SPECIALS[PAD], clean_up_tokenization_spaces=False
    )


class CodeNetwork(nn.Module):
    """The model as `llmrec.ranking.fit` trains it: its "items" are tokens, so the softmax is over the vocabulary.

    Args:
        model: of `build_model`.
        dropout: of embeddings and of what each part of a block adds.
        compiled: compile the passes over batches, which all have one shape.
    """

    def __init__(self, model: Any, *, dropout: float, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        if dropout:
            parts = [part for layer in model.model.layers for part in (layer.self_attn, layer.mlp)]
            for part in (model.get_input_embeddings(), *parts):
                part.register_forward_hook(_dropped(dropout))
        body = torch.compile(model.model, dynamic=False) if compiled else model.model
        self._body = partial(body, use_cache=False)  # a module of its own would be registered twice

    def item_matrix(self) -> Tensor:
        """Vectors of the tokens, shape (n_tokens, width)."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def scoring_matrix(self, matrix: Tensor) -> Tensor:
        """What states are multiplied with: the same."""
        return matrix

    def forward(self, batch: CodeBatch, matrix: Tensor) -> Tensor:
        """States at the places behind which a code is learnt, shape (n_targets, width).

        Args:
            batch: packed rows.
            matrix: not read: the model looks its tokens up itself.
        """
        states: Tensor = self._body(
            input_ids=batch.ids, attention_mask=batch.mask(), position_ids=batch.positions
        ).last_hidden_state  # (n_blocks, block, width)
        return states.flatten(0, 1)[batch.places]


class CodeLoss:
    """What label smoothing and weights of levels add to the plain cross-entropy.

    Args:
        sizes: number of codes of each level.
        smoothing: share of a target spread evenly over the codes of its level; codes of other levels stay impossible.
        weights: of the levels, or None for equal ones; only their ratios count.
    """

    def __init__(self, sizes: Sequence[int], *, smoothing: float, weights: Sequence[float] | None) -> None:
        level = torch.repeat_interleave(torch.tensor([-1, *range(len(sizes))]), torch.tensor([len(SPECIALS), *sizes]))
        self._members = functional.one_hot(level + 1)[:, 1:].float() / torch.tensor(sizes)  # (n_tokens, depth)
        self._smoothing = smoothing
        self._weights = torch.ones(len(sizes)) if weights is None else torch.tensor(weights, dtype=torch.float32)

    def __call__(self, states: Tensor, item_matrix: Tensor, batch: Any) -> Tensor:
        """A scalar; added to the mean cross-entropy of the targets it gives the wanted loss."""
        lost = -(states @ item_matrix.T).log_softmax(dim=1)  # (n_targets, n_tokens)
        plain = lost.gather(1, batch.targets[:, None])[:, 0]
        smooth = (lost @ self._members.to(lost.device)).gather(1, batch.levels[:, None])[:, 0]
        wanted = (1 - self._smoothing) * plain + self._smoothing * smooth
        weights = self._weights.to(lost.device)[batch.levels]
        return (weights * wanted).sum() / weights.sum() - plain.mean()


def _dropped(share: float) -> Callable[[nn.Module, Any, Any], Any]:
    """A hook that drops a share of a module's output in training; of a tuple, its first element."""

    def hook(module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (functional.dropout(output[0], share), *output[1:])
        return functional.dropout(output, share)

    return hook
