"""Loss functions, which training minimises: plain functions of u, v and the score."""

from collections.abc import Callable

import torch
import torch.nn.functional as F


def cosine_mse(u: torch.Tensor, v: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of (cos(u, v) - score)²; u, v: (batch, hidden), score: (batch,).

    The regression objective of Sentence-BERT (arXiv 1908.10084, section 3), and of the study
    post that this series grew from.
    """
    return F.mse_loss(F.cosine_similarity(u, v), score)


def cosent(u: torch.Tensor, v: torch.Tensor, score: torch.Tensor,
           scale: float = 5.0) -> torch.Tensor:
    """A ranking loss: pairs with a higher score should get a higher cosine.

    log(1 + sum of exp(scale * (cos_i - cos_j)) over all i, j with score_i < score_j): only
    the order of the scores counts, as in Spearman's correlation. u, v: (batch, hidden),
    `score`: (batch,). Pairs are compared within a batch, so a batch should contain a mix of
    scores, as shuffled batches do. Source: Su Jianlin, "CoSENT" (kexue.fm, archive 8847, 2022).

    The larger `scale`, the more the loss concentrates on the comparisons that are most wrong.
    The source and sentence-transformers use 20: then most of the gradient comes from few
    comparisons, whose scores hardly differ, and training on few pairs gains less. With 5 it
    comes from many (notebook 07, section 4).
    """
    cosines = scale * F.cosine_similarity(u, v)
    differences = cosines[:, None] - cosines[None, :]               # (batch, batch)
    wrong_order = differences[score[:, None] < score[None, :]]
    return torch.logsumexp(torch.cat([wrong_order.new_zeros(1), wrong_order]), dim=0)


def multiple_negatives_ranking(u: torch.Tensor, v: torch.Tensor, score: torch.Tensor
                               ) -> torch.Tensor:
    """Each u should be closer to its own v than to the v of the batch's other pairs.

    The other pairs' texts are the negatives: mean cross entropy of softmax_j(20 * cos(u_i,
    v_j)) against j = i; u, v: (batch, hidden). It learns only from connected pairs, those with
    a `score`, (batch,), of 0.8 or more; a batch without any has a zero gradient. Source:
    Henderson et al. 2017, arXiv 1705.00652, section 4.4, with cosines as in
    sentence-transformers.
    """
    positive = score >= 0.8
    if not positive.any():
        return 0.0 * u.sum()
    cosines = F.normalize(u[positive]) @ F.normalize(v[positive]).T    # (positive, positive)
    return F.cross_entropy(20 * cosines, torch.arange(len(cosines), device=u.device))


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cosine_mse": cosine_mse,
    "cosent": cosent,
    "multiple_negatives_ranking": multiple_negatives_ranking,
}
