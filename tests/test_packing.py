"""No padding inside BERT: the same numbers as with padding, from fewer tokens."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from connection_utils.speed import packing
from connection_utils.speed.packing import PACKED, TOGETHER, last_hidden_state

MANY = [5, 20, 3, 11, 2, 2, 19, 7, 4, 9, 13, 3, 6, 3, 8, 17, 2, 12, 5]      # three rectangles


@pytest.fixture(scope="module")
def small_bert():
    torch.manual_seed(0)
    return BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2,
                                num_attention_heads=4, intermediate_size=48,
                                max_position_embeddings=20), add_pooling_layer=False).eval()


def batch(lengths):
    """Token ids, never 0 where the mask is 1, and garbage where it is 0."""
    torch.manual_seed(1)
    ids = torch.randint(1, 50, (len(lengths), max(lengths)))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids, mask


def plain(bert, ids, mask):
    bert.set_attn_implementation("sdpa")
    return bert(input_ids=ids, attention_mask=mask).last_hidden_state


def packed(bert, ids, mask):
    bert.set_attn_implementation(PACKED)
    return last_hidden_state(bert, ids, mask)


@pytest.mark.parametrize("lengths", [[3], [7, 2, 5, 2], [4, 4, 4], [20, 1], MANY], ids=str)
def test_equals_the_padded_batch(small_bert, lengths):
    ids, mask = batch(lengths)
    with torch.no_grad():
        expected, found = plain(small_bert, ids, mask), packed(small_bert, ids, mask)
    assert found.shape == expected.shape
    inside = mask.bool()
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-5, rtol=0)
    assert (found[~inside] == 0).all()


@pytest.mark.parametrize("lengths", [[7, 2, 5, 2], MANY], ids=str)
def test_gradients_equal_those_of_the_padded_batch(small_bert, lengths):
    ids, mask = batch(lengths)
    gradients = []
    for forward in (plain, packed):
        small_bert.zero_grad()
        (forward(small_bert, ids, mask)[mask.bool()] ** 2).mean().backward()
        gradients.append([p.grad.clone() for p in small_bert.parameters()])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_text_is_not_moved_by_those_it_shares_a_batch_with(small_bert):
    ids, mask = batch([6, 9, 3])
    with torch.no_grad():
        together = packed(small_bert, ids, mask)
        alone = packed(small_bert, ids[:1, :6], mask[:1, :6])
    torch.testing.assert_close(together[0, :6], alone[0], atol=1e-5, rtol=0)


def test_linear_layers_see_no_padding(small_bert):
    """Counted at the first feed-forward layer: 16 tokens of the 28 in the padded batch.

    With gradients, as in a training: without them the row is rounded up.
    """
    seen = []
    layer = next(m for m in small_bert.encoder.modules() if isinstance(m, nn.Linear))
    hook = layer.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    packed(small_bert, *batch([7, 2, 5, 2]))
    plain(small_bert, *batch([7, 2, 5, 2]))
    hook.remove()
    assert [shape[:-1].numel() for shape in seen] == [16, 28]


def test_attention_sees_rectangles_of_a_few_texts_of_like_length(small_bert, monkeypatch):
    seen = []
    attend = packing.F.scaled_dot_product_attention
    monkeypatch.setattr(packing.F, "scaled_dot_product_attention", lambda q, *rest, **options:
                        seen.append((q.shape[0], q.shape[2])) or attend(q, *rest, **options))
    packed(small_bert, *batch(MANY))
    by_length = sorted(MANY)
    groups = [by_length[i:i + TOGETHER] for i in range(0, len(MANY), TOGETHER)]
    assert seen == 2 * [(len(group), group[-1]) for group in groups]           # two layers


def test_padding_may_stand_on_the_left(small_bert):
    ids, mask = (x.flip(1) for x in batch(MANY))
    with torch.no_grad():
        expected, found = plain(small_bert, ids, mask), packed(small_bert, ids, mask)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=0)


def test_a_padded_batch_may_still_be_given(small_bert):
    """As notebook 01 does, and whoever exports the model: mask and all."""
    ids, mask = batch([7, 2, 5, 2])
    with torch.no_grad():
        expected = plain(small_bert, ids, mask)
        small_bert.set_attn_implementation(PACKED)
        found = small_bert(input_ids=ids, attention_mask=mask).last_hidden_state
        whole = small_bert(input_ids=ids).last_hidden_state       # no mask: all are tokens
        small_bert.set_attn_implementation("sdpa")
        torch.testing.assert_close(whole, small_bert(input_ids=ids).last_hidden_state)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=0)


def test_dropout_differs_from_call_to_call_and_is_decided_by_the_seed(small_bert):
    ids, mask = batch([7, 2, 5, 2])
    small_bert.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(packed(small_bert, ids, mask))
    small_bert.eval()
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
