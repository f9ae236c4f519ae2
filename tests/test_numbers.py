"""A number that cannot be used is refused where it would be used, by name."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from connection_utils import (
    ConnectionBert,
    ConnectionDataset,
    ConnectionScorer,
    LengthBucketedBatches,
    TrainingConfig,
    check_collapse,
    gain_interval,
    judge_threshold,
    split_connections,
)
from connection_utils.ground.numbers import check_number

NAN, INF = float("nan"), float("inf")
PAIRS = pd.DataFrame({"sentence1": ["the cat", "a dog"], "sentence2": ["a mat", "the man"],
                      "score": [0.1, 0.9]})
SCORES = np.array([0.1, 0.5, 0.9])


@pytest.mark.parametrize(("value", "kind", "limits"), [
    (3, int, (3, 512)), (512, int, (3, 512)), (np.int64(7), int, (1,)), (0, int, ()),
    (0.5, float, (0, 1)), (1, float, (0, 1)), (np.float32(0.5), float, (0, 1)),
    (1e-9, float, (-INF, 1, 0)), (-2, float, ())])
def test_a_number_within_its_limits_passes(value, kind, limits):
    check_number("x", value, kind, *limits)


@pytest.mark.parametrize(("value", "kind", "limits", "expected"), [
    (2, int, (3, 512), "a whole number, at least 3, at most 512"),
    (513, int, (3, 512), "a whole number, at least 3, at most 512"),
    (1.5, int, (1,), "a whole number, at least 1"), (3.0, int, (1,), "whole"),
    (True, int, (1,), "whole"), ("16", int, (1,), "whole"), (None, int, (1,), "whole"),
    ([16], int, (1,), "whole"), (NAN, int, (), "whole"), (np.float64(2), int, (), "whole"),
    (0, float, (-INF, 1, 0), "a number, above 0, at most 1"),
    (1, float, (-INF, INF, 0, 1), "a number, above 0, below 1"),
    (NAN, float, (), "a number"), (INF, float, (0,), "a number, at least 0"),
    (-INF, float, (), "a number"), ("5e-5", float, (0, 1), "a number"), (1j, float, (), "a num"),
    (True, float, (0, 1), "a number")])
def test_any_other_is_refused_with_its_name_and_what_was_expected(value, kind, limits, expected):
    with pytest.raises(ValueError) as raised:
        check_number("batch_size", value, kind, *limits)
    said = f"{raised.value}"
    assert said.startswith(f"batch_size is {value!r}; expected a ") and expected in said


@pytest.mark.parametrize("setting", [each for each in fields(TrainingConfig)
                                     if each.type in (int, float)], ids=lambda each: each.name)
def test_every_numeric_setting_is_checked(setting):
    for value in ("2e-5", None, True, NAN, INF, -1, *[1.5] * (setting.type is int)):
        with pytest.raises(ValueError, match=f"^{setting.name} is "):
            TrainingConfig(**{setting.name: value})


@pytest.fixture
def tiny_model(tiny_folder) -> ConnectionBert:
    return ConnectionBert.from_local(tiny_folder, device="cpu")


# what is called -> the name in the message
CALLS = {
    "encode": (lambda model, bad: model.encode(["cat"], batch_size=bad), "batch_size"),
    "similarity": (lambda model, bad: model.similarity(["cat"], ["dog"], bad), "batch_size"),
    "scorer": (lambda model, bad: ConnectionScorer("folder", batch_size=bad), "batch_size"),
    "max_length": (lambda model, bad: ConnectionBert(model.bert, model.tokenizer,
                                                     max_length=bad), "max_length"),
    "dataset": (lambda model, bad: ConnectionDataset(PAIRS, model.tokenizer, bad), "max_length"),
    "sample": (lambda model, bad: ConnectionDataset(PAIRS, model.tokenizer).sample(bad, 1),
               "share"),
    "batches": (lambda model, bad: LengthBucketedBatches([3, 4], bad), "batch_size"),
    "bucket": (lambda model, bad: LengthBucketedBatches([3, 4], 2, bucket=bad), "bucket"),
    "seed": (lambda model, bad: LengthBucketedBatches([3, 4], 2, seed=bad), "seed"),
    "resamples": (lambda model, bad: gain_interval(SCORES, SCORES, SCORES, bad), "resamples"),
    "its seed": (lambda model, bad: gain_interval(SCORES, SCORES, SCORES, seed=bad), "seed"),
    "collapse's seed": (lambda model, bad: check_collapse(model, PAIRS, seed=bad), "seed"),
    "split": (lambda model, bad: split_connections(PAIRS, bad), "seed"),
    "threshold": (lambda model, bad: judge_threshold(SCORES > 0.3, SCORES,
                                                     NAN if bad == -1 else bad), "threshold"),
    "collapse": (lambda model, bad: check_collapse(model, PAIRS, bad), "sample"),
}


@pytest.mark.parametrize("bad", [-1, NAN, "16", None])
@pytest.mark.parametrize("call", CALLS)
def test_an_argument_is_checked_where_it_is_used(tiny_model, call, bad):
    """Negative batch sizes once returned memory that nothing had filled."""
    do, name = CALLS[call]
    with pytest.raises(ValueError, match=f"^{name} is "):
        do(tiny_model, bad)
