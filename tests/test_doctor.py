"""The doctor's report on a folder that can be used, its command line, and what loads.

Folders that cannot be used are in test_broken_folders.py.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import BIN, TEXTS, embeddings, load, only_problem, refusal, set_tokenizer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from connection_utils import ConnectionBert, ModelFolderError, check_model_dir
from connection_utils.commands import doctor
from connection_utils.ground.paths import ROOT
from connection_utils.model_folder import convert
from connection_utils.model_folder.convert import convert_to_safetensors

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


def test_a_config_json_with_a_byte_order_mark_loads(tiny_folder):
    path = tiny_folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert embeddings(tiny_folder).shape == (3, 32)


# The weights: do they fit?

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


# The tokenizer

@pytest.mark.parametrize("name", [None, "BertTokenizer", "BertTokenizerFast",
                                  "PreTrainedTokenizerFast", "TokenizersBackend"])
def test_the_tokenizer_classes_that_transformers_writes_for_a_bert_load(tiny_folder, name):
    expected = load(tiny_folder).tokenize(TEXTS)
    set_tokenizer(tokenizer_class=name, model_max_length=512)(tiny_folder)
    assert load(tiny_folder).tokenize(TEXTS) == expected


def test_a_file_of_just_the_largest_size_is_opened(tiny_folder):
    path = tiny_folder / "config.json"
    path.write_text(path.read_text().ljust(10**6))
    assert embeddings(tiny_folder).shape == (3, 32)


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
        [sys.executable, "-m", "connection_utils", "doctor", str(tiny_folder),
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
    alter.to_bin(tiny_folder, lambda t: torch.nn.Linear(2, 2))       # a whole module
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
    monkeypatch.setattr(convert, "save_file", lambda tensors, path, metadata: save_file(
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
