"""What can be wrong with a local model folder: each is found, named, and answered.

Every broken folder is judged twice: by `check_model_dir`, which reports, and by
`ConnectionBert.from_local`, which raises the same words. Those in `HOSTILE` were made by
somebody who means harm; they are judged once more in a process that is watched.
"""

import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from connection_utils import ConnectionBert, ModelFolderError, check_model_dir, doctor
from connection_utils.doctor import convert_to_safetensors
from connection_utils.workspace import ROOT

TEXTS = ["the cat sat on the mat", "a man plays guitar", "dog"]
LONG_TEXT = "the dog ran in the park " * 800

NO_SOCKETS = """
import json, os, sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith("socket.") else None)
from connection_utils import ConnectionBert, ModelFolderError
said = []
for path in ("sentence-transformers/all-MiniLM-L6-v2", "bert-base-uncased"):
    try:
        ConnectionBert.from_local(path)
    except ModelFolderError as error:
        said.append(str(error))
shape = ConnectionBert.from_local(sys.argv[1]).encode(["the cat"]).shape
print(json.dumps([seen, said, shape, os.environ["HF_HUB_OFFLINE"]]))
"""


def refusal(folder: Path | str) -> str:
    """Why `folder` cannot be loaded; the report and the exception say the same."""
    report = check_model_dir(folder)
    assert not report.ok
    assert report.problems
    assert str(report).endswith("verdict        cannot be loaded")
    with pytest.raises(ModelFolderError) as raised:
        ConnectionBert.from_local(folder, device="cpu")
    for problem in report.problems:
        assert problem in str(raised.value)
        assert f"PROBLEM        {problem}" in str(report)
    return "\n".join(report.problems)


def only_problem(folder: Path | str) -> str:
    """As `refusal`, where one thing alone is to be found."""
    message = refusal(folder)
    assert len(check_model_dir(folder).problems) == 1, message
    return message


def load(folder: Path | str, **settings) -> ConnectionBert:
    report = check_model_dir(folder)
    assert report.ok, report.problems
    return ConnectionBert.from_local(folder, device="cpu", **settings)


def embeddings(folder: Path | str) -> np.ndarray:
    return load(folder).encode(TEXTS)


def shapes_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir()}


# A good folder

def test_a_good_folder_is_ready_and_its_report_says_what_is_in_it(tiny_folder, tiny_vocab):
    before = shapes_of(tiny_folder)
    report = check_model_dir(tiny_folder)
    assert report.ok
    assert report.problems == report.notes == []
    assert report.config.num_hidden_layers == 2
    report.raise_if_broken()
    text = str(report)
    size = (tiny_folder / "model.safetensors").stat().st_size
    assert re.search(rf"^model\.safetensors +weights +{size:,} *$", text, re.MULTILINE)
    assert re.search(r"^config\.json +architecture +\d+ *$", text, re.MULTILINE)
    assert re.search(r"^vocab\.txt +vocabulary, one token a line +\d+ *$", text, re.MULTILINE)
    assert "2 layers, hidden 32, 4 heads, feed-forward 64, at most 512 tokens" in text
    assert f"{len(tiny_vocab)} tokens" in text
    assert "model.safetensors, float32" in text
    assert str(tiny_folder) in text
    assert text.endswith("verdict        ready to load")
    assert shapes_of(tiny_folder) == before              # nothing written


def test_the_number_of_parameters_is_that_of_the_loaded_model(tiny_folder):
    count = sum(p.numel() for p in load(tiny_folder).bert.parameters())
    assert check_model_dir(tiny_folder).facts["parameters"] == f"{count:,}"


def test_the_loaded_weights_are_those_of_the_file(tiny_folder):
    model = load(tiny_folder)
    stored = load_file(tiny_folder / "model.safetensors")
    assert set(model.bert.state_dict()) == set(stored)
    for name, tensor in model.bert.state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    assert not model.training


def test_a_pickle_beside_model_safetensors_is_never_opened(tiny_folder):
    expected = embeddings(tiny_folder)
    (tiny_folder / "pytorch_model.bin").write_bytes(b"not a pickle at all")
    assert np.array_equal(embeddings(tiny_folder), expected)


def test_a_model_of_few_positions_loads_without_more_ado(make_tiny_folder):
    """check_model_dir says "ready to load", so from_local's defaults must fit."""
    folder = make_tiny_folder(max_position_embeddings=64)
    model = load(folder)
    assert model.max_length == 64
    assert np.isfinite(model.encode([LONG_TEXT])).all()


def test_a_max_length_of_zero_is_refused_rather_than_replaced(tiny_folder):
    with pytest.raises(ValueError, match="max_length is 0"):
        ConnectionBert.from_local(tiny_folder, max_length=0, device="cpu")


# The path

def test_a_wrong_path_says_folder_not_found_and_the_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = only_problem("models/my-bert")
    assert f"folder not found: {tmp_path}/models/my-bert." in message
    assert "Expected a folder with config.json, vocab.txt" in message
    assert "Nothing is ever fetched from a model hub" in message


def test_a_file_in_place_of_the_folder_is_told(tiny_folder):
    message = only_problem(tiny_folder / "config.json")
    assert f"it is a file: {tiny_folder}/config.json" in message


def test_a_windows_path_with_backslashes_loads(tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder.parents[1])
    windows = f"{tiny_folder.parent.name}\\{tiny_folder.name}"
    assert np.array_equal(embeddings(windows), embeddings(tiny_folder))


def test_a_folder_in_the_home_directory_may_be_given_with_a_tilde(tiny_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_folder.parent))
    assert load(f"~/{tiny_folder.name}").encode(TEXTS).shape == (3, 32)


def test_no_connection_is_tried_for_a_missing_or_a_present_model(tiny_folder):
    """Even where the environment asks for a hub; told by the interpreter's audit events."""
    done = subprocess.run(
        [sys.executable, "-c", NO_SOCKETS, str(tiny_folder)], cwd=tiny_folder.parent,
        env={**os.environ, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sockets, said, shape, offline = json.loads(done.stdout.splitlines()[-1])
    assert sockets == []
    assert offline == "1"
    assert shape == [1, 32]
    assert len(said) == 2
    assert f"folder not found: {tiny_folder.parent}/sentence-transformers/all" in said[0]
    assert f"folder not found: {tiny_folder.parent}/bert-base-uncased" in said[1]


# The vocabulary

def test_no_vocab_txt_is_refused(tiny_folder):
    (tiny_folder / "vocab.txt").unlink()
    message = only_problem(tiny_folder)
    assert "vocab.txt is missing" in message
    assert "[UNK]" in message
    assert "Copy vocab.txt" in message


def test_a_vocabulary_of_only_special_tokens_is_refused(tiny_folder, tiny_vocab, alter):
    alter.vocab(tiny_folder, tiny_vocab[:5])
    message = refusal(tiny_folder)
    assert "the vocabulary holds only the 5 special tokens" in message
    assert "Copy the whole vocab.txt" in message


@pytest.mark.parametrize("absent", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
def test_a_vocabulary_without_a_token_that_bert_needs_is_refused(tiny_folder, tiny_vocab,
                                                                 alter, absent):
    alter.vocab(tiny_folder, [t for t in tiny_vocab if t != absent])
    message = only_problem(tiny_folder)
    assert f"vocab.txt has {len(tiny_vocab) - 1} lines and lacks {absent}" in message
    assert "copy it from where the weights come from" in message


def test_a_byte_order_mark_is_refused(tiny_folder):
    path = tiny_folder / "vocab.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    message = only_problem(tiny_folder)
    assert "vocab.txt, line 1, column 1: a byte order mark (BOM)" in message
    assert "UTF-8 without BOM" in message


def test_windows_line_ends_are_harmless(tiny_folder):
    expected = load(tiny_folder).tokenize(TEXTS)
    path = tiny_folder / "vocab.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    model = load(tiny_folder)
    assert model.tokenize(TEXTS) == expected
    assert all(model.tokenizer.unk_token_id not in ids for ids in expected)


def test_a_vocabulary_without_a_last_line_end_is_harmless(tiny_folder):
    expected = load(tiny_folder).tokenize(TEXTS)
    path = tiny_folder / "vocab.txt"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert load(tiny_folder).tokenize(TEXTS) == expected


def test_a_token_on_two_lines_is_refused(tiny_folder, tiny_vocab, alter):
    alter.vocab(tiny_folder, [*tiny_vocab[:-1], "cat"])
    message = only_problem(tiny_folder)
    first = tiny_vocab.index("cat") + 1
    assert f"vocab.txt, line {len(tiny_vocab)}: token 'cat' stands on line {first}" in message


@pytest.mark.parametrize("at", [50, None], ids=["in the middle", "at the end"])
def test_an_empty_line_in_the_vocabulary_is_named(tiny_folder, tiny_vocab, alter, at):
    tokens = list(tiny_vocab)
    tokens.insert(len(tokens) if at is None else at, "")
    alter.vocab(tiny_folder, tokens)
    message = refusal(tiny_folder)
    assert f"vocab.txt, line {tokens.index('') + 1}" in message


def test_a_vocabulary_that_is_not_utf8_names_line_and_byte(tiny_folder):
    path = tiny_folder / "vocab.txt"
    lines = path.read_bytes().split(b"\n")
    lines[6] = b"caf\xe9"
    path.write_bytes(b"\n".join(lines))
    message = only_problem(tiny_folder)
    assert "vocab.txt, line 7: byte 0xe9 is not UTF-8" in message


def test_more_tokens_than_embeddings_are_refused(tiny_folder, tiny_vocab, alter):
    alter.vocab(tiny_folder, [*tiny_vocab, "one", "more"])
    message = only_problem(tiny_folder)
    size = len(tiny_vocab)
    assert f"the tokenizer has {size + 2} tokens" in message
    assert f"only {size} rows: token {size} would be an IndexError" in message
    assert "Take vocabulary and weights from the same model" in message


def test_a_padded_embedding_table_is_only_a_note(make_tiny_folder, tiny_vocab):
    folder = make_tiny_folder(vocab_size=len(tiny_vocab) + 6)
    report = check_model_dir(folder)
    assert report.ok
    assert len(report.notes) == 1
    assert "6 rows more than the vocabulary" in report.notes[0]
    assert "harmless" in report.notes[0]
    assert f"note           {report.notes[0]}" in str(report)
    assert embeddings(folder).shape == (3, 32)


def test_half_a_vocabulary_is_not_called_padding(make_tiny_folder, tiny_vocab, alter):
    """A vocab.txt that was not copied whole splits the words wrongly, and tells nobody."""
    whole = [*tiny_vocab, *(f"word{i}" for i in range(6000 - len(tiny_vocab)))]
    folder = make_tiny_folder(vocab_size=6000)
    alter.vocab(folder, whole)
    assert check_model_dir(folder).ok
    alter.vocab(folder, whole[:3000])
    message = refusal(folder)
    assert "3,000" in message
    assert "vocab" in message


@pytest.fixture
def cased_folder(make_tiny_folder, alter) -> Path:
    """A cased BERT with vocab.txt, and nothing that says so."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Word", "word",
              *(a + b for a in "ABCDEFGHIJK" for b in "abcdefghijk")]
    folder = make_tiny_folder(vocab_size=len(tokens))
    alter.vocab(folder, tokens)
    return folder


def test_a_cased_vocabulary_that_would_be_lower_cased_is_refused(cased_folder):
    message = only_problem(cased_folder)
    assert "vocab.txt is cased (122 tokens begin with a capital)" in message
    assert 'tokenizer_config.json with {"do_lower_case": false}' in message


def test_a_cased_vocabulary_loads_with_the_file_that_the_message_asks_for(cased_folder):
    (cased_folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    upper, lower = load(cased_folder).tokenize(["Word", "word"])
    assert (upper, lower) == ([2, 5, 3], [2, 6, 3])


def test_a_cased_tokenizer_json_alone_is_never_lower_cased_silently(cased_folder):
    """The file itself says lowercase false; if that is not followed, it must be told."""
    (cased_folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    BertTokenizer.from_pretrained(cased_folder).save_pretrained(cased_folder)
    for name in ("vocab.txt", "tokenizer_config.json"):
        (cased_folder / name).unlink()
    stored = json.loads((cased_folder / "tokenizer.json").read_text())
    assert stored["normalizer"]["lowercase"] is False
    report = check_model_dir(cased_folder)
    if report.ok:
        assert load(cased_folder).tokenize(["Word"]) == [[2, 5, 3]]
    else:
        assert "do_lower_case" in refusal(cased_folder)


def test_only_tokenizer_json_gives_the_same_token_ids(tiny_folder):
    expected = load(tiny_folder).tokenize(TEXTS)
    BertTokenizer.from_pretrained(tiny_folder).save_pretrained(tiny_folder)
    (tiny_folder / "vocab.txt").unlink()
    (tiny_folder / "tokenizer_config.json").unlink()
    assert sorted(p.name for p in tiny_folder.iterdir()) == \
        ["config.json", "model.safetensors", "tokenizer.json"]
    assert load(tiny_folder).tokenize(TEXTS) == expected


def test_a_vocab_txt_that_disagrees_with_tokenizer_json_is_refused(tiny_folder, tiny_vocab,
                                                                   alter):
    """Same words, other ids: one of the two files belongs to another model."""
    BertTokenizer.from_pretrained(tiny_folder).save_pretrained(tiny_folder)
    alter.vocab(tiny_folder, tiny_vocab[:5] + tiny_vocab[:4:-1])
    message = refusal(tiny_folder)
    assert "vocab.txt" in message
    assert "different models" in message


def test_a_tokenizer_json_that_pads_and_cuts_to_128_does_neither_here(tiny_folder):
    BertTokenizer.from_pretrained(tiny_folder).save_pretrained(tiny_folder)
    path = tiny_folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        "padding": {"strategy": {"Fixed": 128}, "direction": "Right", "pad_id": 0,
                    "pad_to_multiple_of": None, "pad_type_id": 0, "pad_token": "[PAD]"},
        "truncation": {"max_length": 128, "strategy": "LongestFirst", "stride": 0,
                       "direction": "Right"}}))
    model = load(tiny_folder, max_length=256)
    tokenizer = model.tokenizer.backend_tokenizer
    assert tokenizer.padding is None
    assert tokenizer.truncation is None
    assert len(tokenizer.encode("dog").ids) == 3
    assert [len(ids) for ids in model.tokenize(["dog", "the cat", LONG_TEXT])] == [3, 4, 256]


def test_a_broken_tokenizer_json_is_refused(tiny_folder):
    (tiny_folder / "tokenizer.json").write_text('{"version": "1.0", "mod')
    assert "the tokenizer cannot be built" in only_problem(tiny_folder)


def test_without_tokenizer_config_a_very_long_text_is_cut(tiny_folder):
    """model_max_length is 1e30 then; position 512 would be an IndexError."""
    assert not (tiny_folder / "tokenizer_config.json").exists()
    for max_length in (None, 512):
        model = load(tiny_folder, max_length=max_length)
        assert [len(ids) for ids in model.tokenize([LONG_TEXT])] == [max_length or 128]
        assert np.isfinite(model.encode([LONG_TEXT])).all()


def test_more_tokens_than_positions_are_refused_as_max_length(tiny_folder):
    with pytest.raises(ValueError, match="max_length is 513; expected 3 to 512"):
        ConnectionBert.from_local(tiny_folder, max_length=513, device="cpu")


# config.json

def test_no_config_json_is_named_with_what_is_there(tiny_folder):
    (tiny_folder / "config.json").unlink()
    message = only_problem(tiny_folder)
    assert "config.json is missing (the folder holds model.safetensors, vocab.txt)" in message
    assert "Copy it from where the weights come from" in message


def test_an_empty_folder_is_told_of_all_three_files(tmp_path):
    message = refusal(tmp_path)
    assert "config.json is missing (the folder holds no file at all)" in message
    assert "vocab.txt is missing" in message
    assert "the weights are missing" in message


def test_a_config_json_that_is_not_json_names_line_and_column(tiny_folder):
    (tiny_folder / "config.json").write_text('{\n  "model_type": "bert",\n  "hidden_size": \n}')
    message = only_problem(tiny_folder)
    assert "config.json, line 4, column 1: not JSON" in message
    assert "Copy the file again" in message


def test_a_config_json_with_a_byte_order_mark_loads(tiny_folder):
    path = tiny_folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert embeddings(tiny_folder).shape == (3, 32)


def test_another_architecture_is_refused_by_name(tiny_folder, alter):
    alter.config(tiny_folder, model_type="roberta")
    message = only_problem(tiny_folder)
    assert "config.json: model_type is 'roberta', expected 'bert'" in message


@pytest.mark.parametrize("values", [
    {"hidden_size": 33}, {"num_hidden_layers": "two"}, {"vocab_size": None},
], ids=str)
def test_values_that_no_bert_can_have_are_laid_to_config_json(tiny_folder, alter, values):
    alter.config(tiny_folder, **values)
    assert only_problem(tiny_folder).startswith("config.json: ")


def test_a_config_json_that_holds_a_list_is_refused(tiny_folder):
    (tiny_folder / "config.json").write_text("[1, 2]")
    assert "config.json: expected an object, found list" in only_problem(tiny_folder)


# The weights: do they fit?

def test_more_layers_in_config_than_in_the_weights_are_fatal(tiny_folder, alter):
    """transformers would leave the third layer random and only print it."""
    alter.config(tiny_folder, num_hidden_layers=3)
    message = only_problem(tiny_folder)
    assert "model.safetensors lacks 16 of the 53 tensors" in message
    assert "encoder.layer.2.attention" in message
    assert "would stay random" in message


def test_fewer_layers_in_config_than_in_the_weights_are_fatal(tiny_folder, alter):
    alter.config(tiny_folder, num_hidden_layers=1)
    message = only_problem(tiny_folder)
    assert "model.safetensors holds 16 tensors that config.json has no place for" in message
    assert "encoder.layer.1.attention" in message
    assert "dropped silently" in message


@pytest.mark.parametrize("name", ["embeddings.word_embeddings.weight",
                                  "encoder.layer.1.output.LayerNorm.bias"])
def test_one_missing_tensor_is_fatal_and_named(tiny_folder, alter, name):
    alter.tensors(tiny_folder, lambda t: {n: x for n, x in t.items() if n != name})
    message = only_problem(tiny_folder)
    assert f"lacks 1 of the 37 tensors that config.json asks for ({name})" in message
    assert "Expected weights and config.json of the same model" in message


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tiny_folder, alter):
    name = "encoder.layer.0.intermediate.dense.weight"
    alter.tensors(tiny_folder, lambda t: t | {name: torch.zeros(48, 32)})
    message = only_problem(tiny_folder)
    assert f"model.safetensors: {name} has shape (48, 32), config.json says (64, 32)" in message
    assert "Take both from the same model" in message


def test_surplus_heads_and_position_ids_are_only_a_note(tiny_folder, alter):
    """bert-base-uncased's own file holds them."""
    expected = embeddings(tiny_folder)
    alter.tensors(tiny_folder, lambda t: t | {
        "pooler.dense.weight": torch.ones(32, 32), "pooler.dense.bias": torch.ones(32),
        "cls.predictions.bias": torch.ones(9), "cls.seq_relationship.weight": torch.ones(2, 32),
        "classifier.weight": torch.ones(3, 32), "classifier.bias": torch.ones(3),
        "embeddings.position_ids": torch.arange(512)[None]})
    report = check_model_dir(tiny_folder)
    assert report.ok
    note = "model.safetensors also holds classifier and cls and pooler weights; they are not"
    assert len(report.notes) == 1
    assert report.notes[0].startswith(note)
    assert np.array_equal(embeddings(tiny_folder), expected)


def test_float16_weights_load_as_float32(tiny_folder, alter):
    stored = load_file(tiny_folder / "model.safetensors")
    alter.tensors(tiny_folder, lambda t: {n: x.half() for n, x in t.items()})
    assert "float16" in check_model_dir(tiny_folder).facts["weights"]
    model = load(tiny_folder)
    for name, tensor in model.bert.state_dict().items():
        assert tensor.dtype == torch.float32, name
        assert torch.equal(tensor, stored[name].half().float()), name


def as_in_2018(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that Google's converted checkpoints have."""
    return {"bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma")
                          .replace("LayerNorm.bias", "LayerNorm.beta"): tensor.clone()
            for name, tensor in tensors.items()}


@pytest.mark.parametrize("to_bin", [False, True], ids=["safetensors", "bin"])
def test_names_of_old_checkpoints_give_equal_embeddings(tiny_folder, alter, to_bin):
    expected = embeddings(tiny_folder)
    (alter.to_bin if to_bin else alter.tensors)(tiny_folder, as_in_2018)
    assert np.array_equal(embeddings(tiny_folder), expected)


# The weights: can the file be read, and safely?

@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_pytorch_model_bin_gives_equal_embeddings(tiny_folder, alter, legacy):
    expected = embeddings(tiny_folder)
    path = alter.to_bin(tiny_folder, legacy=legacy)
    assert path.read_bytes().startswith(b"PK") is not legacy
    assert check_model_dir(tiny_folder).facts["weights"] == "pytorch_model.bin, float32"
    assert np.array_equal(embeddings(tiny_folder), expected)


def test_no_weights_at_all_names_both_files(tiny_folder):
    (tiny_folder / "model.safetensors").unlink()
    message = only_problem(tiny_folder)
    assert "expected model.safetensors or pytorch_model.bin" in message


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "model.onnx",
                                  "pytorch_model.bin.index.json"])
def test_weights_in_another_format_are_named(tiny_folder, name):
    (tiny_folder / "model.safetensors").rename(tiny_folder / name)
    message = only_problem(tiny_folder)
    assert "expected model.safetensors or pytorch_model.bin" in message
    assert f"found {name}, which is another format" in message


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_named(tiny_folder, name):
    pointer = ("version https://git-lfs.github.com/spec/v1\n"
               "oid sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db\n"
               "size 90868376\n")
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / name).write_text(pointer)
    message = only_problem(tiny_folder)
    assert f"{name} is a Git LFS pointer of {len(pointer)} bytes, not the weights" in message
    assert "git lfs pull" in message
    assert "weights_only" not in message


def assert_called_damaged(folder: Path, path: Path) -> None:
    message = only_problem(folder)
    assert f"{path.name} ({path.stat().st_size:,} bytes) is damaged or was not copied whole" \
        in message
    assert "Copy it again and compare its size with the source" in message
    assert "weights_only" not in message


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 0.01, 0.5, 0.99, -1])
def test_truncated_safetensors_are_called_damaged(tiny_folder, keep):
    path = tiny_folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:int(keep * len(content)) if isinstance(keep, float) else keep])
    assert_called_damaged(tiny_folder, path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("keep", [0, 2, 60, 2000, 0.1, 0.5, 0.99, -100, -1])
def test_a_truncated_pickle_is_called_damaged(tiny_folder, alter, keep, legacy):
    path = alter.to_bin(tiny_folder, legacy=legacy)
    content = path.read_bytes()
    path.write_bytes(content[:int(keep * len(content)) if isinstance(keep, float) else keep])
    assert_called_damaged(tiny_folder, path)


@pytest.mark.parametrize("content", [
    b"<!DOCTYPE html><html><body>403 Forbidden by your proxy</body></html>",
    b'{"error": "Access to this model is restricted"}',
    b"\0" * 5000,
], ids=["an HTML page", "a JSON answer", "zeros"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_something_else_under_the_name_of_the_weights_is_called_damaged(tiny_folder, name,
                                                                        content):
    """What a firewall answers instead of the file is not a dangerous pickle."""
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / name).write_bytes(content)
    assert_called_damaged(tiny_folder, tiny_folder / name)


class Calls:
    """Pickles into a call of `function`."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


class SetsState:
    """Runs code of its own when it is unpickled, though nothing is called by name."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __setstate__(self, state: dict) -> None:
        Path(state["marker"]).touch()


EVIL = {
    "os.system": lambda marker: Calls(os.system, f"touch {marker}"),
    "eval": lambda marker: Calls(eval, f"open({str(marker)!r}, 'w').close()"),
    "exec": lambda marker: Calls(exec, f"open({str(marker)!r}, 'w').close()"),
    "subprocess": lambda marker: Calls(subprocess.check_call, ["touch", str(marker)]),
    "setstate": SetsState,
    "in a list": lambda marker: [torch.ones(2), [Calls(os.system, f"touch {marker}")]],
    "in a dict": lambda marker: {"a": {"b": Calls(os.system, f"touch {marker}")}},
}

# Written by hand: what today's pickle module no longer writes, or torch.save never did.
BY_HAND = {
    "inst": lambda marker: b"(S'touch %b'\nios\nsystem\n." % bytes(marker),
    "obj": lambda marker: b"(cos\nsystem\nS'touch %b'\no." % bytes(marker),
    "stack_global": lambda marker: b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c%c%b\x85R." % (
        len(bytes(marker)) + 6, b"touch " + bytes(marker)),
}


def write_pickle(path: Path, pickled: bytes, how: str) -> None:
    """Put `pickled` where torch.save has its own: in the zip, the old format, or alone."""
    if how == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/version", "3\n")
    elif how == "legacy":
        serialization = torch.serialization
        start = (serialization.MAGIC_NUMBER, serialization.PROTOCOL_VERSION, {})
        path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in start) + pickled)
    else:
        path.write_bytes(pickled)


def assert_refused_unrun(folder: Path, marker: Path) -> None:
    message = only_problem(folder)
    assert not marker.exists()
    assert "pytorch_model.bin is a pickle that asks for more than tensors" in message
    assert message.count("weights_only=False") == 1
    assert "Never load it with weights_only=False" in message
    assert "Get model.safetensors of the same model" in message


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("evil", EVIL)
def test_a_malicious_pickle_never_runs(tiny_folder, tmp_path, alter, how, evil):
    marker = tmp_path / "code_ran"
    path = alter.to_bin(tiny_folder, lambda t: t | {"evil": EVIL[evil](marker)},
                        legacy=how == "legacy")
    if how == "bare pickle":
        path.write_bytes(pickle.dumps({"evil": EVIL[evil](marker)}, protocol=2))
    assert_refused_unrun(tiny_folder, marker)


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("evil", BY_HAND)
def test_a_malicious_pickle_written_by_hand_never_runs(tiny_folder, tmp_path, how, evil):
    marker = tmp_path / "code_ran"
    (tiny_folder / "model.safetensors").unlink()
    write_pickle(tiny_folder / "pytorch_model.bin", BY_HAND[evil](marker), how)
    assert_refused_unrun(tiny_folder, marker)


@pytest.mark.parametrize("evil", [*EVIL, *BY_HAND])
def test_the_malicious_pickles_would_run_elsewhere(tmp_path, evil):
    marker = tmp_path / "code_ran"
    pickle.loads(BY_HAND[evil](marker) if evil in BY_HAND else
                 pickle.dumps(EVIL[evil](marker), protocol=2))
    assert marker.exists()


def test_what_a_pickle_asks_for_is_named(tiny_folder, alter):
    alter.to_bin(tiny_folder, lambda t: t | {"evil": Calls(os.getcwd)})
    assert "more than tensors ('posix.getcwd')" in only_problem(tiny_folder)


def test_a_whole_pickled_module_is_refused_as_more_than_tensors(tiny_folder, alter):
    alter.to_bin(tiny_folder, lambda t: torch.nn.Linear(2, 2))
    assert "asks for more than tensors" in only_problem(tiny_folder)


@pytest.mark.parametrize("wrap", [
    lambda t: {"model": t, "epoch": 3},
    lambda t: {"state_dict": t},
    lambda t: list(t.values()),
    lambda t: dict(enumerate(t.values())),
], ids=["model", "state_dict", "a list", "numbers for names"])
def test_what_is_not_a_state_dict_is_refused(tiny_folder, alter, wrap):
    alter.to_bin(tiny_folder, wrap)
    message = only_problem(tiny_folder)
    assert "pytorch_model.bin is not a state dict (names to tensors)" in message
    assert "torch.save(model.state_dict()" in message


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_torch_saves_of_a_model_loads(tiny_folder, legacy):
    """A state_dict() is an OrderedDict with version numbers; two tensors are one here."""
    expected = embeddings(tiny_folder)
    model = BertForMaskedLM(BertConfig.from_pretrained(tiny_folder))
    model.bert.load_state_dict(load_file(tiny_folder / "model.safetensors"))
    state = model.state_dict()
    assert state._metadata
    assert state["cls.predictions.decoder.weight"].data_ptr() == \
        state["bert.embeddings.word_embeddings.weight"].data_ptr()
    torch.save(state, tiny_folder / "pytorch_model.bin",
               _use_new_zipfile_serialization=not legacy)
    (tiny_folder / "model.safetensors").unlink()
    assert np.array_equal(embeddings(tiny_folder), expected)


def test_parameters_in_place_of_tensors_load(tiny_folder, alter):
    """torch.save(dict(model.named_parameters())) is a state dict, too."""
    expected = embeddings(tiny_folder)
    alter.to_bin(tiny_folder, lambda t: {n: torch.nn.Parameter(x) for n, x in t.items()})
    assert np.array_equal(embeddings(tiny_folder), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_half_precision_in_a_pickle_loads_as_float32(tiny_folder, alter, dtype, legacy):
    stored = load_file(tiny_folder / "model.safetensors")
    alter.to_bin(tiny_folder, lambda t: {n: x.to(dtype) for n, x in t.items()}, legacy)
    for name, tensor in load(tiny_folder).bert.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].to(dtype).float()), name


def test_quantised_weights_are_refused(tiny_folder, alter):
    alter.tensors(tiny_folder, lambda t: {n: x.to(torch.int8) for n, x in t.items()})
    message = only_problem(tiny_folder)
    assert "embeddings.word_embeddings.weight holds torch.int8, expected floating" in message


# Files from strangers

def put_json(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def set_config(**values: object) -> Callable[[Path], None]:
    return lambda folder: put_json(folder, "config.json", json.loads(
        (folder / "config.json").read_text()) | values)


def set_tokenizer(**values: object) -> Callable[[Path], None]:
    return lambda folder: put_json(folder, "tokenizer_config.json", values)


def make(name: str, kind: str) -> Callable[[Path], None]:
    """Put something that is no file in the place of `name`."""
    def put(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        if name == "pytorch_model.bin":
            (folder / "model.safetensors").unlink()
        if kind == "folder":
            (folder / name).mkdir()
        else:
            os.mknod(folder / name, 0o600 | {"named pipe": stat.S_IFIFO,
                                             "socket": stat.S_IFSOCK}[kind])
    return put


def grow(name: str, size: int) -> Callable[[Path], None]:
    """Make the file so long; it takes no room on the disk."""
    def put(folder: Path) -> None:
        with open(folder / name, "ab") as file:
            file.truncate(size)
    return put


def weights(write: Callable[[Path], object], name: str = "pytorch_model.bin"
            ) -> Callable[[Path], None]:
    """Let `write` make the weights file."""
    def put(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write(folder / name)
    return put


def compressed(path: Path) -> None:
    """An archive bomb: 200 MB of zeros in 200 kB."""
    torch.save({"a": torch.zeros(50_000_000)}, path)
    with zipfile.ZipFile(path) as stored:
        entries = [(name, stored.read(name)) for name in stored.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def lying_archive(path: Path) -> None:
    """An archive whose directory declares an entry larger than the file."""
    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    content = path.read_bytes()
    entry = content.index(b"PK\1\2", start)
    huge = (4 * 10**9).to_bytes(4, "little")
    path.write_bytes(content[:entry + 20] + huge + huge + content[entry + 28:])


def lying_header(path: Path) -> None:
    """A safetensors file whose header promises 4 TB."""
    header = json.dumps({"embeddings.word_embeddings.weight": {
        "dtype": "F32", "shape": [10**9, 1000], "data_offsets": [0, 4 * 10**12]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4000))


def lying_storage(path: Path) -> None:
    """torch.save's old format with a tensor of 40 GB, of which nothing follows."""
    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> tuple | None:
            if isinstance(thing, Storage):
                return "storage", torch.FloatStorage, "0", "cpu", 10**10, None
            return None

    pickled = io.BytesIO()
    Pickler(pickled, protocol=2).dump({"a": Calls(
        torch._utils._rebuild_tensor_v2, Storage(), 0, (10**10,), (1,), False, OrderedDict())})
    write_pickle(path, pickled.getvalue() + pickle.dumps([], protocol=2), "legacy")


def tuples_of_tuples(levels: int = 30) -> bytes:
    """A dict's key that is a tuple of one tuple twice, and so on: 2**30 to be hashed."""
    doubled = b"".join(b"q%ch%c\x86" % (i, i) for i in range(levels))
    return b"\x80\x02}(X\x01\x00\x00\x00a\x85" + doubled + b"K\x01u."


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:53aa\nsize 90868376\n"
SIX_GB = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xbc\xa0\x65\x01\x85R."
BIN = "pytorch_model.bin"

# what it is -> (words of the refusal, which name the file; how to make it)
HOSTILE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "config.json with code": (
        "config.json has the entry 'auto_map': the model needs code of its own, and none",
        set_config(auto_map={"AutoModel": "modeling_evil.Evil"})),
    "config.json with empty code": ("config.json has the entry 'auto_map'",
                                    set_config(auto_map=None)),
    "tokenizer with code": (
        "tokenizer_config.json has the entry 'auto_map'",
        set_tokenizer(auto_map={"AutoTokenizer": ["evil--tokenizer.Evil", None]})),
    "another tokenizer": (
        "tokenizer_config.json: tokenizer_class is 'BertJapaneseTokenizer', expected",
        set_tokenizer(tokenizer_class="BertJapaneseTokenizer")),
    "another tokenizer in config.json": (
        "config.json: tokenizer_class is 'XLMRobertaTokenizer', expected 'BertTokenizer'",
        set_config(tokenizer_class="XLMRobertaTokenizer")),
    "a tokenizer of another kind": (
        "tokenizer.json holds a vocabulary of the kind 'Unigram', expected 'WordPiece'",
        lambda folder: put_json(folder, "tokenizer.json", {"model": {
            "type": "Unigram", "vocab": [["a", -1.0]]}})),
    "vocabulary without end": ("tokenizer_config.json has the entry 'vocab'",
                               set_tokenizer(vocab="/dev/zero")),
    "vocabulary without end, second way": (
        "special_tokens_map.json has the entry 'vocab'", lambda folder: put_json(
            folder, "special_tokens_map.json", {"vocab": "/dev/zero"})),
    "a billion layers": (
        "config.json: num_hidden_layers is 1000000000, expected a whole number from 1 to 200",
        set_config(num_hidden_layers=10**9)),
    "a trillion tokens": ("config.json: vocab_size is 1000000000000, expected a whole",
                          set_config(vocab_size=10**12)),
    "a negative size": ("config.json: hidden_size is -32, expected a whole number from 1",
                        set_config(hidden_size=-32)),
    "half a token": ("config.json: max_position_embeddings is 512.5, expected a whole",
                     set_config(max_position_embeddings=512.5)),
    "true heads": ("config.json: num_attention_heads is True, expected a whole number",
                   set_config(num_attention_heads=True)),
    "deep config.json": ("config.json: maximum recursion depth exceeded", lambda folder: (
        folder / "config.json").write_text("[" * 100_000)),
    "archive bomb": ("pytorch_model.bin (", weights(compressed)),
    "archive that lies": ("is an archive that torch.save did not write: its entries are",
                          weights(lying_archive)),
    "safetensors that lie": ("model.safetensors (", weights(lying_header,
                                                            "model.safetensors")),
    "old format that lies": ("pytorch_model.bin (", weights(lying_storage)),
    "a tensor of one number": (
        "holds tensors that would take 4,000,000,000,000 bytes: it was made to fill the",
        weights(lambda path: torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, path))),
    "32 bytes for 6 GB": (
        "pytorch_model.bin is a pickle that asks for more than tensors ('builtins.bytearray')",
        weights(lambda path: path.write_bytes(SIX_GB))),
    "tuples of tuples": (
        "pytorch_model.bin is a pickle that asks for more than tensors ('work without end')",
        weights(lambda path: path.write_bytes(tuples_of_tuples()))),
    "a pickle of commands": (
        "pytorch_model.bin is a pickle that asks for more than tensors ('posix.system')",
        weights(lambda path: torch.save({"a": Calls(os.system, "touch ran")}, path))),
    "a pointer": ("model.safetensors is a Git LFS pointer", weights(
        lambda path: path.write_text(LFS), "model.safetensors")),
    **{f"{name} as a {kind}": (f"{name} is a {kind}; expected a file", make(name, kind))
       for name in ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json",
                    "model.safetensors", BIN)
       for kind in ("folder", "named pipe", "socket")},
    **{f"{name} too large": (
        f"{name} has {most + 1:,} bytes, so it was not opened; expected at most {most:,}",
        grow(name, most + 1))
       for name, most in (("config.json", 10**6), ("tokenizer_config.json", 10**6),
                          ("vocab.txt", 10**8), ("tokenizer.json", 10**8))},
}

WATCHED = """
import json, resource, sys, time
seen, watched = [], ["socket."]
sys.addaudithook(lambda event, _: seen.append(event)
                 if event.startswith(tuple(watched)) else None)
from connection_utils import ConnectionBert, ModelFolderError
ConnectionBert.from_local(sys.argv[1], device="cpu")
watched += ["subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "pickle."]
said = {}
for folder in sys.argv[2:]:
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        ConnectionBert.from_local(folder, device="cpu")
    except ModelFolderError as error:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        said[folder] = str(error), time.monotonic() - start, grown / 1024
print(json.dumps([seen, said]))
"""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """TimeoutError if the block takes longer, so that a test that hangs fails instead."""
    def stop(*_: object) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_folder_is_refused_with_the_files_name(tiny_folder, what):
    words, spoil = HOSTILE[what]
    spoil(tiny_folder)
    with within(20):
        assert words in only_problem(tiny_folder)


def test_hostile_folders_run_nothing_ask_no_network_and_take_little(tiny_folder, tmp_path):
    """Told by the interpreter's audit events, in a process that looks at all of them."""
    folders = {}
    for what, (words, spoil) in HOSTILE.items():
        copy = shutil.copytree(tiny_folder, tmp_path / what)
        spoil(copy)
        folders[str(copy)] = words
    assert len(folders) >= 12
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tiny_folder), *folders], cwd=tmp_path, timeout=200,
        env={**os.environ, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen, said = json.loads(done.stdout.splitlines()[-1])
    assert seen == []
    assert not (tmp_path / "ran").exists()
    assert said.keys() == folders.keys()
    for folder, (message, seconds, megabytes) in said.items():
        assert folders[folder] in message
        assert seconds < 10, folder
        assert megabytes < 100, folder


def test_an_archive_bomb_is_refused_from_its_directory(tiny_folder, monkeypatch):
    HOSTILE["archive bomb"][1](tiny_folder)
    size = (tiny_folder / BIN).stat().st_size
    assert size < 10**6
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was read"))
    message = only_problem(tiny_folder)
    assert f"pytorch_model.bin ({size:,} bytes) is an archive that torch.save did not write: " \
        "its entries are compressed or overlap, 200," in message
    assert "It was not unpacked" in message


@pytest.mark.parametrize("values", [
    {"num_labels": 10**12, "id2label": None, "label2id": None},
    {"attn_implementation": "evil/kernel"}, {"_attn_implementation": "evil/kernel"},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    {"return_dict": False}, {"dtype": "float16"}, {"torch_dtype": "float16"},
    {"custom": "x" * 1000},
], ids=lambda values: next(iter(values)))
def test_entries_of_config_json_that_shape_no_bert_change_nothing(tiny_folder, alter, values):
    """They could fill the memory, load kernels, quantise, or halve the precision."""
    expected = embeddings(tiny_folder)
    alter.config(tiny_folder, **values)
    with within(20):
        model = load(tiny_folder)
    assert np.array_equal(model.encode(TEXTS), expected)
    assert {tensor.dtype for tensor in model.bert.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("name", [None, "BertTokenizer", "BertTokenizerFast",
                                  "PreTrainedTokenizerFast", "TokenizersBackend"])
def test_the_tokenizer_classes_that_transformers_writes_for_a_bert_load(tiny_folder, name):
    expected = load(tiny_folder).tokenize(TEXTS)
    set_tokenizer(tokenizer_class=name, model_max_length=512)(tiny_folder)
    assert load(tiny_folder).tokenize(TEXTS) == expected


def test_a_file_that_may_not_be_read_is_named(tiny_folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "vocab.txt")
    assert only_problem(tiny_folder) == "vocab.txt cannot be read. Mend its permissions."


def test_a_file_of_just_the_largest_size_is_opened(tiny_folder):
    path = tiny_folder / "config.json"
    path.write_text(path.read_text().ljust(10**6))
    assert embeddings(tiny_folder).shape == (3, 32)


def test_names_in_a_file_cannot_steer_the_terminal(tiny_folder, alter):
    alter.tensors(tiny_folder, lambda t: t | {"encoder.\x1b[2J": torch.ones(1),
                                              "\x1b]0;head": torch.ones(1)})
    report = check_model_dir(tiny_folder)
    assert "encoder.?[2J" in str(report)
    assert "\x1b" not in str(report)
    with pytest.raises(ModelFolderError) as raised:
        report.raise_if_broken()
    assert "\x1b" not in str(raised.value)


# The command line, and .bin to .safetensors

def with_heads(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Old names, heads of other dtypes, one of which shares its memory, and a NaN."""
    tensors = as_in_2018(tensors)
    return tensors | {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.bias": torch.tensor([0.1, torch.nan, -0.0]),
        "bert.pooler.dense.weight": torch.ones(32, 32, dtype=torch.bfloat16).t(),
        "counter": torch.tensor(7), "bert.embeddings.position_ids": torch.arange(512)[None]}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_to_safetensors_keeps_every_bit(tiny_folder, alter, legacy):
    stored = load_file(tiny_folder / "model.safetensors")
    path = alter.to_bin(tiny_folder, with_heads, legacy)
    before, held = shapes_of(tiny_folder), embeddings(tiny_folder)
    written = convert_to_safetensors(tiny_folder)
    assert written == tiny_folder / "model.safetensors"
    after = shapes_of(tiny_folder)
    assert after.pop("model.safetensors")
    assert after == before                             # the .bin stays; no scratch file
    made = load_file(written)
    assert made.keys() - stored.keys() == {
        "cls.predictions.decoder.weight", "cls.predictions.bias", "pooler.dense.weight",
        "counter"}
    for name, tensor in stored.items():
        assert torch.equal(made[name], tensor), name
    assert torch.equal(made["cls.predictions.decoder.weight"],
                       stored["embeddings.word_embeddings.weight"])
    assert made["cls.predictions.bias"].numpy().tobytes() == \
        np.array([0.1, np.nan, -0.0], dtype="float32").tobytes()
    assert made["pooler.dense.weight"].dtype == torch.bfloat16
    assert made["counter"] == 7
    with safe_open(written, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    path.unlink()
    assert np.array_equal(embeddings(tiny_folder), held)


def test_the_command_line_converts_and_says_what_it_proved(tiny_folder, alter):
    alter.to_bin(tiny_folder)
    before = embeddings(tiny_folder)
    done = subprocess.run(
        [sys.executable, "-m", "connection_utils.doctor", str(tiny_folder),
         "--to-safetensors"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *report, proof, advice = done.stdout.splitlines()
    assert report[-1] == "verdict        ready to load"
    size = (tiny_folder / "model.safetensors").stat().st_size
    assert proof == (
        f"written        {tiny_folder}/model.safetensors: 37 tensors, {size:,} bytes; read "
        "back, each is equal to that of pytorch_model.bin bit for bit.")
    assert advice == "You may delete pytorch_model.bin now."
    (tiny_folder / BIN).unlink()
    assert np.array_equal(embeddings(tiny_folder), before)


def exit_of(*arguments: object) -> object:
    """What the doctor's command line exits with."""
    with pytest.raises(SystemExit) as left:
        doctor.main([str(argument) for argument in arguments])
    return left.value.code


def test_the_command_line_prints_the_report_and_exits_by_it(tiny_folder, capsys):
    assert exit_of(tiny_folder) == 0
    assert capsys.readouterr() == (f"{check_model_dir(tiny_folder)}\n", "")
    (tiny_folder / "vocab.txt").unlink()
    for option in ((), ("--to-safetensors",)):
        assert exit_of(tiny_folder, *option) == 1
        assert capsys.readouterr() == (f"{check_model_dir(tiny_folder)}\n", "")
    assert exit_of(tiny_folder / "nowhere") == 1
    assert "PROBLEM        folder not found: " in capsys.readouterr().out


def test_a_model_safetensors_that_is_there_is_never_replaced(tiny_folder):
    torch.save({}, tiny_folder / BIN)
    before = shapes_of(tiny_folder)
    message = exit_of(tiny_folder, "--to-safetensors")
    assert message.startswith(f"{tiny_folder}/model.safetensors is there already")
    assert "nothing was written" in message
    assert shapes_of(tiny_folder) == before


def test_a_broken_folder_is_not_converted(tiny_folder, alter):
    alter.to_bin(tiny_folder, lambda t: t | {"evil": Calls(os.getcwd)})
    with pytest.raises(ModelFolderError, match="asks for more than tensors"):
        convert_to_safetensors(tiny_folder)
    assert not (tiny_folder / "model.safetensors").exists()


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 1 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told_in_a_sentence_and_leaves_nothing(tiny_folder, alter):
    alter.to_bin(tiny_folder)
    before = shapes_of(tiny_folder)
    with full_disk():
        message = exit_of(tiny_folder, "--to-safetensors")
    assert message.startswith(f"{tiny_folder}/model.safetensors cannot be written: ")
    assert "bytes of disk space and a folder that you may write to" in message
    assert shapes_of(tiny_folder) == before


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(tiny_folder, alter,
                                                               monkeypatch):
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    alter.to_bin(tiny_folder)
    before = shapes_of(tiny_folder)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)        # root may write everywhere
    message = exit_of(tiny_folder, "--to-safetensors")
    assert "model.safetensors cannot be written: [Errno 13] Permission denied" in message
    assert "nothing was left behind" in message
    assert shapes_of(tiny_folder) == before


@pytest.mark.parametrize("harm", [
    lambda tensors: tensors | {"encoder.layer.0.output.dense.bias": torch.ones(32)},
    lambda tensors: dict(list(tensors.items())[1:]),
    lambda tensors: tensors | {"more": torch.ones(1)},
    lambda tensors: {name: tensor.double() for name, tensor in tensors.items()},
], ids=["other bits", "one lost", "one more", "another dtype"])
def test_a_file_that_reads_back_otherwise_never_takes_the_name(tiny_folder, alter, monkeypatch,
                                                               harm):
    alter.to_bin(tiny_folder)
    before = shapes_of(tiny_folder)
    monkeypatch.setattr(doctor, "save_file", lambda tensors, path, metadata: save_file(
        harm(tensors), path, metadata))
    with pytest.raises(ModelFolderError, match="what was read back is not what was written"):
        convert_to_safetensors(tiny_folder)
    assert shapes_of(tiny_folder) == before


# Links

def linked_copy(folder: Path, target: Path) -> Path:
    """As a hub cache's snapshot: each file a link to another place."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).symlink_to(path)
    return target


def test_a_folder_of_links_loads_and_tells_where_the_files_lie(tiny_folder, tmp_path):
    links = linked_copy(tiny_folder, tmp_path / "snapshot")
    assert np.array_equal(embeddings(links), embeddings(tiny_folder))
    text = str(check_model_dir(links))
    assert "lies at" in text
    for path in tiny_folder.iterdir():
        assert re.search(rf"^{re.escape(path.name)} .* {re.escape(str(path))} *$", text,
                         re.MULTILINE)
    assert "lies at" not in str(check_model_dir(tiny_folder))


def test_where_links_lie_is_told_though_the_first_file_is_none(tiny_folder, tmp_path):
    links = linked_copy(tiny_folder, tmp_path / "snapshot")
    (links / "README.md").write_text("a model card of my own")
    assert str(tiny_folder / "model.safetensors") in str(check_model_dir(links))


def test_a_link_that_leads_nowhere_is_named(tiny_folder, tmp_path):
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / "model.safetensors").symlink_to(tmp_path / "gone")
    message = only_problem(tiny_folder)
    assert "model.safetensors" in message
    assert "link" in message
    assert str(tmp_path / "gone") in message


# The settings of sentence-transformers

def test_a_saved_model_loads_with_its_own_pooling_and_length(tiny_folder, tmp_path):
    model = load(tiny_folder, pooling="cls", max_length=20)
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert (again.pooling, again.max_length) == ("cls", 20)
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_saving_prints_nothing(tiny_folder, tmp_path, capfd):
    """A notebook's cell that saves a model must leave nothing on stderr, so no bar."""
    load(tiny_folder).save(tmp_path / "saved")
    assert capfd.readouterr() == ("", "")


def test_a_model_that_sentence_transformers_saved_loads(tiny_folder, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = load(tiny_folder, pooling="cls", max_length=20)
    model.save(tmp_path / "ours")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    again = load(tmp_path / "theirs")
    assert (again.pooling, again.max_length) == ("cls", 20)
    assert np.allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_settings_that_are_not_understood_are_refused(tiny_folder):
    (tiny_folder / "sentence_bert_config.json").write_text('{"max_seq_length": "long"}')
    with pytest.raises(ModelFolderError, match="sentence_bert_config.json") as raised:
        ConnectionBert.from_local(tiny_folder, device="cpu")
    assert "pass pooling= and max_length= instead" in str(raised.value)


@pytest.mark.parametrize(("name", "content"), [
    ("modules.json", "{"), ("modules.json", "[1]"), ("modules.json", '[{"type": 1}]'),
    ("modules.json", "[" * 100_000), ("sentence_bert_config.json", "[1]"),
    ("sentence_bert_config.json", '{"max_seq_length": -Infinity}'),
    ("1_Pooling/config.json", '{"pooling_mode_mean_tokens": false}'),
])
def test_settings_that_make_no_sense_are_refused_by_name(tiny_folder, name, content):
    (tiny_folder / name).parent.mkdir(exist_ok=True)
    (tiny_folder / name).write_text(content)
    with pytest.raises(ModelFolderError, match=re.escape(name)):
        load(tiny_folder)


def test_a_module_that_would_be_left_out_is_refused(tiny_folder):
    """A Dense layer behind the pooling changes every embedding."""
    (tiny_folder / "modules.json").write_text(json.dumps(
        [{"type": "sentence_transformers.models.Transformer"},
         {"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ModelFolderError, match="asks for sentence_transformers.models.Dense"):
        load(tiny_folder)


# The real one

def test_the_default_model_is_ready():
    report = check_model_dir(ROOT / "transformers/bert/all-MiniLM-L6-v2")
    assert report.ok
    assert report.facts["vocabulary"] == "30,522 tokens"
    assert report.facts["architecture"].startswith("6 layers, hidden 384, 12 heads")
