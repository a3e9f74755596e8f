"""Loss terms of the RQ-VAE: quantisation, collaborative alignment, and categories.

Quantisation is TIGER's. The alignment contrasts quantised latents with collaborative vectors (DAS, arXiv 2508.10584: on
the quantised side, straight through). The category terms are a consistent reading of CAT-ID2 (arXiv 2511.01461), whose
exact formulas are not established; its ablation says that the first or the second alone hurts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

NO_LABEL = -1
_TINY = 1e-9


def quantisation_loss(residuals: list[Tensor], chosen: list[Tensor], commitment: float) -> Tensor:
    """``sum_l ||sg[r_l] - e_l||^2 + commitment * ||r_l - sg[e_l]||^2``, mean over the batch.

    Args:
        residuals: what each level quantises, shape (batch, latent) each.
        chosen: the codes' vectors, shape (batch, latent) each.
        commitment: weight of the second term.
    """
    terms = [
        (residual.detach() - code).pow(2).sum(dim=1) + commitment * (residual - code.detach()).pow(2).sum(dim=1)
        for residual, code in zip(residuals, chosen, strict=True)
    ]
    return torch.stack(terms).sum(dim=0).mean()


def soft_codes(residual: Tensor, codebook: Tensor, temperature: float) -> Tensor:
    """``softmax_k(-||r - e_k||^2 / temperature)``, shape (batch, codes); carries both gradients."""
    return torch.softmax(-torch.cdist(residual, codebook).pow(2) / temperature, dim=1)


def alignment_loss(quantised: Tensor, collaborative: Tensor, temperature: float) -> Tensor:
    """InfoNCE in both directions, in-batch negatives.

    Items are drawn evenly, so popular ones are not over-represented among the negatives and need no correction.

    Args:
        quantised: shape (batch, width).
        collaborative: projected to the same width; rows of zeros (items nobody had in training) are left out.
        temperature: of the cosines.
    """
    known = collaborative.abs().sum(dim=1) > 0
    if int(known.sum()) < 2:
        return quantised.new_zeros(())
    left = functional.normalize(quantised[known], dim=1)
    right = functional.normalize(collaborative[known], dim=1)
    logits = left @ right.T / temperature  # (known, known)
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own))


def category_loss(soft: Tensor, labels: Tensor) -> Tensor:
    """Supervised contrast of soft codes (HCC): items of one label should agree on their code more than others do.

    ``-log(sum_{j same} p_i p_j / sum_j p_i p_j)``, mean over the items that have a partner in the batch.

    Args:
        soft: shape (batch, codes).
        labels: shape (batch,), -1 for none.
    """
    agreement = soft @ soft.T  # (batch, batch), the probability of drawing the same code
    others = ~torch.eye(len(soft), dtype=torch.bool, device=soft.device)
    same = (labels[:, None] == labels[None, :]) & (labels[:, None] != NO_LABEL) & others
    anchors = same.any(dim=1)
    if not bool(anchors.any()):
        return soft.new_zeros(())
    positive = (agreement * same).sum(dim=1)[anchors]
    everyone = (agreement * others).sum(dim=1)[anchors]
    return -torch.log((positive + _TINY) / (everyone + _TINY)).mean()


def uniform_loss(soft: Tensor) -> Tensor:
    """How far the batch is from using all codes evenly (CSC): ``log K + sum_k pbar_k log pbar_k``, at least 0.

    From soft codes: counts of hard codes have no gradient.
    """
    mean = soft.mean(dim=0)
    return math.log(soft.shape[1]) + (mean * torch.log(mean + _TINY)).sum()


def dispersion_loss(decoded: Tensor, temperature: float) -> Tensor:
    """Mean of ``exp(cos(x_i, x_j) / temperature)`` over pairs of decoded items (Disp)."""
    if len(decoded) < 2:
        return decoded.new_zeros(())
    unit = functional.normalize(decoded, dim=1)
    pairs = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    cosines = (unit @ unit.T)[pairs[0], pairs[1]]
    return torch.exp(cosines / temperature).mean()
