"""What a training keeps where it averages weights, by hand and in a real training."""

import dataclasses

import pytest
import torch
from cases import contradicting

from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig
from connection_utils.dataset import ConnectionDataset
from connection_utils.ground.paths import ROOT
from connection_utils.long_runs.averaging import AveragedWeights
from connection_utils.pair_files.reading import read_splits
from connection_utils.training import train
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

CONFIG = TrainingConfig(epochs=2, batch_size=4, evaluations_per_epoch=1)     # 6 steps of 12


def numbers(*values):
    """A model of one weight for each of `values`."""
    model = torch.nn.ParameterList([torch.tensor([float(value)]) for value in values])
    return model


def walked(steps, average_from, start_share):
    """What is kept of two weights that are (s, -s) after step s and were (10, 10) before."""
    model = numbers(10, 10)
    averaged = AveragedWeights(model, steps, average_from, start_share)
    for step in range(1, steps + 1):
        with torch.no_grad():
            model[0].fill_(step)
            model[1].fill_(-step)
        averaged.update(step)
    with averaged.in_place():
        kept = [p.item() for p in model]
    assert [p.item() for p in model] == [steps, -steps]        # its own are back
    return kept


@pytest.mark.parametrize(("average_from", "start_share", "expected"), [
    (1.0, 0.0, [8, -8]),                        # the last
    (0.5, 0.0, [6.5, -6.5]),                    # the mean of 5, 6, 7, 8
    (0.0, 0.0, [4.5, -4.5]),                    # the mean of all
    (1.0, 0.25, [8.5, -3.5]),                   # 3/4 of the last, 1/4 of 10
    (0.5, 0.5, [8.25, 1.75]),
])
def test_what_is_kept_by_hand(average_from, start_share, expected):
    assert walked(8, average_from, start_share) == pytest.approx(expected)


def test_a_long_run_is_averaged_about_a_hundred_times():
    """Steps 102, 104 … 200 of 200: the mean is 151."""
    assert walked(200, 0.5, 0.0) == pytest.approx([151, -151])


@pytest.mark.parametrize(("steps", "average_from", "expected"), [
    (1099, 0.995, 1096.5),                      # 1094, 1095 … 1099
    (1099, 0.9999, 1099),                       # the last step only
    (1000, 0.95, 977.5),                        # 955, 960 … 1000
])
def test_a_short_tail_is_averaged_at_shorter_intervals(steps, average_from, expected):
    assert walked(steps, average_from, 0.0) == pytest.approx([expected, -expected])


def test_frozen_weights_are_left_alone():
    model = numbers(1, 2)
    model[1].requires_grad_(False)
    averaged = AveragedWeights(model, 4, 0.0, 0.5)
    with torch.no_grad():
        model[0].fill_(3)
        model[1].fill_(7)                       # whoever does this knows why
    averaged.update(1)
    with averaged.in_place():
        assert [p.item() for p in model] == [2, 7]


def test_the_models_own_weights_come_back_after_an_error():
    model = numbers(1)
    averaged = AveragedWeights(model, 4, 1.0, 0.5)
    with torch.no_grad():
        model[0].fill_(3)
    with pytest.raises(KeyError), averaged.in_place():
        assert model[0].item() == 2
        raise KeyError
    assert model[0].item() == 3


@pytest.fixture(scope="module")
def few():
    splits = read_splits(ROOT / DEFAULT_DATA)
    found = {name: splits[name].sample(12, random_state=1).reset_index(drop=True)
             for name in ("train", "dev")}
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    return found | {"dev": contradicting(model, found["dev"])}


def trained(few, **changes):
    """The weights before, after each step and at the end, and the history."""
    model, steps = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu"), []

    def weights(_=None):
        return {name: p.detach().clone() for name, p in model.named_parameters()}

    start = weights()
    history = train(model, ConnectionDataset(few["train"], model.tokenizer), few["dev"],
                    dataclasses.replace(CONFIG, **changes),
                    on_step=lambda _: steps.append(weights()))
    return start, steps, weights(), history


def test_training_keeps_the_mean_and_trains_on_from_its_own_weights(few):
    """Of two evaluations, at steps 3 and 6, the better one's weights: looked up below."""
    _, plain, _, before = trained(few)
    start, steps, kept, history = trained(few, average_from=0.5, start_share=0.25)
    assert history.step_losses == before.step_losses           # averaging disturbs nothing
    for name in start:
        assert torch.equal(steps[-1][name], plain[-1][name])
    at = int(history.best["step"])                             # 3 or 6 of 6
    for name, first in start.items():
        mean = steps[2][name] if at == 3 else sum(s[name] for s in steps[3:]) / 3
        torch.testing.assert_close(kept[name], 0.75 * mean + 0.25 * first, atol=1e-6, rtol=0)


@pytest.mark.parametrize("wrong", [{"average_from": -0.1}, {"average_from": 1.1},
                                   {"start_share": -0.1}, {"start_share": 1.0}], ids=str)
def test_a_share_that_is_none_is_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"{name} is {value}; expected"):
        TrainingConfig(**wrong)
