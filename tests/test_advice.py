"""What goes wrong in a training is noticed, and told with what to do."""

import subprocess
import sys

import pytest
import torch

from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig
from connection_utils.dataset import ConnectionDataset
from connection_utils.long_runs.advice import Unread, memory_told
from connection_utils.training import train


def test_training_tells_a_collapse(tiny_folder, make_pairs):
    """A random tiny BERT scores all texts alike; the pairs of the evaluation show it."""
    model, told = ConnectionBert.from_local(tiny_folder, device="cpu"), []
    pairs = make_pairs(24)
    train(model, ConnectionDataset(pairs, model.tokenizer), pairs,
          TrainingConfig(epochs=1, evaluations_per_epoch=3), tell=told.append)
    said, = [said for said in told if "COLLAPSED" in said]
    assert said.startswith("step 1: random unpaired texts: mean cosine ")
    assert "lower the learning rate" in said


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                 "allocate memory: you tried to allocate 9 bytes. Error code 12")],
    ids=lambda error: type(error).__name__)
def test_want_of_memory_is_told_with_what_halves_it(error):
    with pytest.raises(MemoryError, match="^step 1: .*16 pairs at once. .*batch_size") as raised:
        with memory_told(16, []):
            raise error
    assert raised.value.__cause__ is error


def test_another_error_stays_what_it_is():
    error = RuntimeError("shapes do not fit")
    with pytest.raises(RuntimeError) as raised:
        with memory_told(16, []):
            raise error
    assert raised.value is error


FEW_MEGABYTES = """
import resource, sys
import pandas as pd
from connection_utils import ConnectionBert, ConnectionDataset, TrainingConfig, train
model = ConnectionBert.from_local(sys.argv[1], device="cpu")
pairs = pd.DataFrame({"sentence1": ["the cat sat " * 40, "dog"] * 2048,
                      "score": [0.1, 0.9] * 2048,
                      "sentence2": ["a dog ran " * 40] * 4096})
train_set = ConnectionDataset(pairs, model.tokenizer)
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
train(model, train_set, pairs.head(50), TrainingConfig(batch_size=4096))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_a_batch_that_really_needs_more_memory_than_there_is(tiny_folder):
    done = subprocess.run([sys.executable, "-c", FEW_MEGABYTES, tiny_folder], text=True,
                          capture_output=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("MemoryError: step 1: there is not enough memory for 4096 pairs")
    assert "batch_size" in last and "max_length" in last


# What a model cannot read

@pytest.mark.parametrize(("texts", "max_length", "unknown", "full", "words"), [
    (["the cat", "dog"], 128, 0, 0, []),
    (["the 猫", "dog", ""], 128, 1 / 3, 0, ["33.3 %", "[UNK]", "vocabulary was made"]),
    (["the cat sat", "dog"], 5, 0, 1 / 2, ["50.0 %", "max_length (5)", "raise max_length"]),
    ([""], 128, 0, 0, []),
    ([], 128, 0, 0, []),
])
def test_unknown_tokens_and_long_texts_are_counted(tiny_folder, texts, max_length, unknown,
                                                   full, words):
    model = ConnectionBert.from_local(tiny_folder, max_length=max_length, device="cpu")
    found = Unread.of(model.tokenize(texts), model.tokenizer.unk_token_id, max_length)
    assert (found.unknown, found.full) == (unknown, full)
    assert found.is_much == bool(words)
    assert ("vocabulary was made" in str(found)) == (unknown > 0)
    assert ("raise max_length" in str(found)) == (full > 0)
    for word in words:
        assert word in str(found)


def test_training_tells_that_the_model_cannot_read_the_texts(tiny_folder, make_pairs):
    pairs = make_pairs(8)
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    for texts, expected in ((pairs, False), (pairs.assign(sentence1="고양이가 잔다"), True)):
        told = []
        train(model, ConnectionDataset(texts, model.tokenizer), pairs, TrainingConfig(),
              tell=told.append)
        assert any("[UNK]" in line for line in told) == expected
