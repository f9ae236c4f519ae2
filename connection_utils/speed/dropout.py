"""Dropout (Srivastava et al. 2014) for less on a CPU: the same chances, fewer random bits."""

import torch
import torch.nn.functional as F
from torch import nn


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """Zero each element of `x` with probability `p`; scale the others, so that means stay.

    On a CPU torch draws 64 random bits an element, one after the other, while the other
    cores wait (Intel's apart, which have MKL's generator). Here an element takes 16 of
    them: `p` is rounded to a 65,536th. Elsewhere this is torch's own dropout.
    """
    zeros = round(p * 2**16)                         # of the 2**16 values that are drawn
    if x.device.type != "cpu" or not 0 < zeros < 2**16:
        return F.dropout(x, p)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-2**63, None)
    drawn = words.view(torch.int16)[:x.numel()].view(x.shape)
    return x * ((drawn >= zeros - 2**15).to(x.dtype) * (2**16 / (2**16 - zeros)))


class Dropout(nn.Dropout):
    """`dropout` as a module: nothing happens in evaluation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, self.p) if self.training else x


def use_dropout(model: nn.Module) -> None:
    """Put this Dropout in the place of each torch one inside `model`."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
