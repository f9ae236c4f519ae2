"""Each loss is its definition, written out, and equals sentence-transformers' own."""

import math

import pytest
import torch

from connection_utils.ground.paths import ROOT
from connection_utils.losses import LOSSES, cosent, cosine_mse, multiple_negatives_ranking
from connection_utils.workshop.assets import DEFAULT_MODEL


@pytest.fixture(scope="module")
def theirs():
    """sentence-transformers' loss of that name, of u, v and the score."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    model = SentenceTransformer(str(ROOT / DEFAULT_MODEL), device="cpu")
    return lambda name, u, v, score: getattr(losses, name)(model).compute_loss_from_embeddings(
        [u, v], score)


def test_cosine_mse_is_its_definition():
    u, v = torch.randn(5, 8), torch.randn(5, 8)
    score = torch.rand(5)
    by_hand = sum((float(a @ b / (a.norm() * b.norm())) - float(s)) ** 2
                  for a, b, s in zip(u, v, score)) / 5
    assert cosine_mse(u, v, score).item() == pytest.approx(by_hand, rel=1e-5)


def test_cosine_mse_equals_sentence_transformers(theirs):
    u, v, score = torch.randn(5, 8), torch.randn(5, 8), torch.rand(5)
    expected = theirs("CosineSimilarityLoss", u, v, score)
    torch.testing.assert_close(cosine_mse(u, v, score), expected, atol=1e-5, rtol=0)


def test_cosent_is_its_definition():
    u, v = torch.randn(6, 8), torch.randn(6, 8)
    score = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.0, 1.0])
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(u, v)]
    total = 1.0
    for i in range(6):
        for j in range(6):
            if score[i] < score[j]:
                total += math.exp(5 * (cosines[i] - cosines[j]))
    assert cosent(u, v, score).item() == pytest.approx(math.log(total), rel=1e-5)


def test_cosent_equals_sentence_transformers(theirs):
    u, v = torch.randn(9, 8), torch.randn(9, 8)
    score = torch.tensor([0.0, 0.2, 0.2, 0.9, 0.5, 1.0, 0.5, 0.5, 0.1])
    expected = theirs("CoSENTLoss", u, v, score)
    torch.testing.assert_close(cosent(u, v, score, scale=20), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("score", [[0.7], [0.4, 0.4, 0.4]], ids=str)
def test_cosent_of_one_pair_or_of_equal_scores_is_zero_and_teaches_nothing(score):
    """An epoch's last batch may be a single pair."""
    u, v = torch.randn(len(score), 8, requires_grad=True), torch.randn(len(score), 8)
    loss = cosent(u, v, torch.tensor(score))
    loss.backward()
    assert loss.item() == 0 and torch.equal(u.grad, torch.zeros_like(u))


def test_cosent_does_not_compare_pairs_with_equal_scores():
    """u and v are chosen so that the cosines are 0.6, 0.8 and 0.0; the first two are equal."""
    u = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    v = torch.tensor([[1.0, 0.0]] * 3)
    expected = math.log(1 + math.exp(5 * 0.6) + math.exp(5 * 0.8))
    loss = cosent(u, v, torch.tensor([0.2, 0.2, 0.9]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_cosent_is_small_where_the_order_is_right_and_large_where_it_is_wrong():
    u = torch.tensor([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
    v = torch.tensor([[1.0, 0.0]] * 3)                     # cosines 0, 0.6, 1
    score = torch.tensor([0.1, 0.5, 0.6])
    assert cosent(u, v, score, scale=20) < 0.01
    assert cosent(u, v, score.flip(0), scale=20) > 20 - 0.01


def test_multiple_negatives_ranking_is_its_definition():
    """The second pair is not connected: it is neither learnt from nor chosen from."""
    u, v = torch.randn(4, 8), torch.randn(4, 8)
    score = torch.tensor([0.9, 0.3, 0.8, 1.0])
    rows, total = (0, 2, 3), 0.0
    for i in rows:
        cosines = {j: float(u[i] @ v[j] / (u[i].norm() * v[j].norm())) for j in rows}
        total -= math.log(math.exp(20 * cosines[i])
                          / sum(math.exp(20 * cosine) for cosine in cosines.values()))
    loss = multiple_negatives_ranking(u, v, score)
    assert loss.item() == pytest.approx(total / 3, rel=1e-4)


def test_multiple_negatives_ranking_equals_sentence_transformers(theirs):
    u, v, score = torch.randn(9, 8), torch.randn(9, 8), torch.linspace(0, 1, 9)
    positive = score >= 0.8
    expected = theirs("MultipleNegativesRankingLoss", u[positive], v[positive], None)
    torch.testing.assert_close(multiple_negatives_ranking(u, v, score), expected, atol=1e-5,
                               rtol=0)


def test_a_batch_without_a_connected_pair_teaches_multiple_negatives_ranking_nothing():
    u = torch.randn(3, 8, requires_grad=True)
    loss = multiple_negatives_ranking(u, torch.randn(3, 8), torch.tensor([0.0, 0.2, 0.79]))
    loss.backward()
    assert loss.item() == 0 and torch.equal(u.grad, torch.zeros_like(u))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_one_number_and_reaches_both_embeddings(name):
    u, v = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    loss = LOSSES[name](u, v, torch.linspace(0, 1, 6))
    loss.backward()
    assert loss.shape == () and loss.dtype == torch.float32
    assert u.grad.abs().sum() > 0 and v.grad.abs().sum() > 0
