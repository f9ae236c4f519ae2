"""The default model as onnxruntime runs it, in fp32 and in int8, against PyTorch."""

import logging

import numpy as np
import onnxruntime
import pytest
from cases import FULL, slow

from connection_utils.bert import ConnectionBert
from connection_utils.evaluation import spearman
from connection_utils.ground.paths import ROOT
from connection_utils.pair_files.reading import read_splits
from connection_utils.use.onnx_bert import OnnxBert
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

TEXTS = ["A man is playing a flute.", "Someone plays an instrument.", "Hi", "",
         "The stock market fell today, and nobody who was asked could quite say why.",
         "word " * 300]


@pytest.fixture(scope="module")
def model():
    return ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")


@pytest.fixture(scope="module")
def plain(model):
    return OnnxBert(model)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "model_int8.onnx"


@pytest.fixture(scope="module")
def int8(model, file):
    return OnnxBert(model, int8=True, path=file)


@pytest.mark.parametrize("pooling", ["mean", slow("cls"), slow("max")])
def test_fp32_equals_pytorch(model, plain, monkeypatch, pooling):
    """Any number of texts of any length, though the export saw two of eight tokens."""
    monkeypatch.setattr(model, "pooling", pooling)
    monkeypatch.setattr(plain, "pooling", pooling)
    for texts in (TEXTS, TEXTS[:1], TEXTS * 4):
        np.testing.assert_allclose(plain.encode(texts), model.encode(texts), atol=1e-5)
    assert plain.encode([]).shape == (0, 384)
    np.testing.assert_allclose(np.linalg.norm(plain.encode(TEXTS, normalize=True), axis=1), 1,
                               atol=1e-5)


def test_similarity_equals_pytorch(model, plain):
    np.testing.assert_allclose(plain.similarity(TEXTS[:3], TEXTS[3:]),
                               model.similarity(TEXTS[:3], TEXTS[3:]), atol=1e-5)


def test_int8_is_smaller_differs_and_scores_as_well(model, plain, int8):
    """Dev pairs: within a third of a point (× 100) of PyTorch's Spearman."""
    assert int8.size < 0.7 * plain.size
    dev = read_splits(ROOT / DEFAULT_DATA)["dev"]
    dev = dev if FULL else dev.sample(400, random_state=1)
    expected = model.similarity(dev["sentence1"], dev["sentence2"])
    found = int8.similarity(dev["sentence1"], dev["sentence2"])
    assert 0.001 < np.abs(found - expected).max() < 0.15
    assert spearman(dev["score"], found) > spearman(dev["score"], expected) - 0.0033


def test_the_file_that_it_runs_is_kept_where_a_path_says(int8, file):
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.stat().st_size == int8.size
    batch = {"input_ids": np.array([[101, 7632, 102]]), "attention_mask": np.ones((1, 3), int)}
    again = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(again.run(None, batch)[0], int8.session.run(None, batch)[0])


def test_making_one_says_nothing_and_leaves_model_and_logging_alone(tiny_folder, capfd,
                                                                    recwarn):
    """Exporter and quantizer would fill a notebook with warnings."""
    model = ConnectionBert.from_local(tiny_folder, device="cpu").train()
    root = logging.getLogger()
    before = list(root.handlers), root.manager.disable
    OnnxBert(model, int8=True)
    assert (list(root.handlers), root.manager.disable) == before
    assert model.training
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "") and not list(recwarn)


def test_a_single_str_and_unequal_lists_are_refused(plain):
    with pytest.raises(TypeError, match="texts is a single str"):
        plain.encode("Hi")
    with pytest.raises(ValueError, match="1 first sentences and 2 second sentences"):
        plain.similarity(["a"], ["b", "c"])
