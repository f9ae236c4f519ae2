"""Our dropout against what dropout is."""

import pytest
import torch
from torch import nn

from connection_utils.speed.dropout import Dropout, dropout, use_dropout
from connection_utils.speed.packing import _attended


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1000, 384), (7, 3, 11, 11, 50)], ids=str)
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(p, shape):
    torch.manual_seed(0)
    found = dropout(torch.ones(shape), p)
    n = found.numel()
    dropped = (found == 0).double().mean().item()
    assert found.shape == shape and abs(dropped - p) < 5 * (p * (1 - p) / n) ** 0.5
    kept = found[found != 0]
    assert kept.unique().numel() == 1 and kept[0].item() == pytest.approx(1 / (1 - p), rel=2e-4)


def test_every_place_is_dropped_as_often_and_alone():
    """The four elements that share 64 bits, too: each p, each two p squared."""
    torch.manual_seed(0)
    zero = torch.stack([dropout(torch.ones(8), 0.5) == 0 for _ in range(20_000)]).double()
    expected = torch.full((8, 8), 0.25).fill_diagonal_(0.5).double()
    torch.testing.assert_close(zero.T @ zero / len(zero), expected, atol=0.02, rtol=0)


def test_the_gradient_passes_where_the_element_did():
    x = torch.randn(50, 30, requires_grad=True)
    found = dropout(x, 0.3)
    found.sum().backward()
    torch.testing.assert_close(found, x * x.grad)
    assert (x.grad == 0).any() and (x.grad != 0).any()


def test_torchs_seed_decides_and_torchs_state_moves_on():
    def drawn():
        return dropout(torch.ones(101), 0.5)

    torch.manual_seed(3)
    first, second = drawn(), drawn()
    torch.manual_seed(3)
    assert torch.equal(first, drawn()) and not torch.equal(first, second)


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1e-9, 1.0), (1.0, 0.0)])
def test_nothing_or_all_is_dropped(p, expected):
    assert (dropout(torch.ones(100), p) == expected).all()


def test_the_modules_own_are_replaced_and_do_nothing_in_evaluation():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.25)), nn.Dropout1d(0.5))
    use_dropout(model.eval())
    mine = model[1][0]
    assert type(mine) is Dropout and mine.p == 0.25 and type(model[2]) is nn.Dropout1d
    x = torch.ones(100)
    assert not mine.training and torch.equal(mine(x), x)
    assert not torch.equal(mine.train()(x), x)
    assert str(model[1]) == str(nn.Sequential(nn.Dropout(0.25)))


def test_attention_written_out_is_torchs_but_for_what_is_dropped():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 5, 4, 7, 8)
    mask = (torch.arange(7) < torch.tensor([7, 3, 1, 5, 6])[:, None])[:, None, None]
    torch.testing.assert_close(_attended(q, k, v, mask, 1e-9, 0.35),
                               _attended(q, k, v, mask, 0.0, 0.35), atol=1e-5, rtol=0)
