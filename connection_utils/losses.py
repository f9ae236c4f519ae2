"""What training makes small: plain functions of u, v and the score, by name."""

from collections.abc import Callable

import torch
import torch.nn.functional as F


def cosine_mse(u: torch.Tensor, v: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of (cos(u, v) - score)²; u, v: (batch, hidden), score: (batch,).

    The regression objective of Sentence-BERT (arXiv 1908.10084, section 3), and the
    original post's.
    """
    return F.mse_loss(F.cosine_similarity(u, v), score)


def cosent(u: torch.Tensor, v: torch.Tensor, score: torch.Tensor,
           scale: float = 20.0) -> torch.Tensor:
    """Pairs with a higher score shall have a higher cosine; u, v: (batch, hidden).

    log(1 + sum of exp(scale * (cos_i - cos_j)) over all i, j with score_i < score_j): only
    the order of the scores counts, as in Spearman's correlation, so it needs batches of
    more than one pair. `score` is (batch,). Source: Su Jianlin, "CoSENT" (kexue.fm,
    archive 8847, 2022).
    """
    cosines = scale * F.cosine_similarity(u, v)
    differences = cosines[:, None] - cosines[None, :]               # (batch, batch)
    wrong_order = differences[score[:, None] < score[None, :]]
    return torch.logsumexp(torch.cat([wrong_order.new_zeros(1), wrong_order]), dim=0)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cosine_mse": cosine_mse, "cosent": cosent,
}
