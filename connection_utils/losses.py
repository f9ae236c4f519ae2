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


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cosine_mse": cosine_mse,
}
