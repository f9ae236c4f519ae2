"""The doctor's report on a folder that can be used, its command line, and what loads.

Folders that cannot be used are in test_broken_folders.py.
"""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import (
    BIN,
    TEXTS,
    Spoil,
    change,
    embeddings,
    load,
    only_problem,
    refusal,
    set_tokenizer,
    tensors,
    to_bin,
)
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from connection_utils import ConnectionBert, check_model_dir
from connection_utils.commands import doctor
from connection_utils.ground.paths import ROOT

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
    assert report.problems == [] and "note" not in report.facts
    report.raise_if_broken()
    text = str(report)
    size = (tiny_folder / "model.safetensors").stat().st_size
    for row in (rf"model\.safetensors +weights +{size:,}", r"config\.json +architecture +\d+",
                r"vocab\.txt +vocabulary, one token a line +\d+"):
        assert re.search(rf"^{row} *$", text, re.MULTILINE)
    for words in ("2 layers, hidden 32, 4 heads, feed-forward 64, at most 512 tokens",
                  f"{len(tiny_vocab)} tokens", "model.safetensors, float32", str(tiny_folder)):
        assert words in text
    assert text.endswith("verdict        ready to load")
    assert shapes_of(tiny_folder) == before              # nothing written


def test_the_loaded_weights_are_those_of_the_file(tiny_folder):
    model = load(tiny_folder)
    stored = load_file(tiny_folder / "model.safetensors")
    assert set(model.bert.state_dict()) == set(stored)
    for name, tensor in model.bert.state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    assert not model.training
    count = sum(p.numel() for p in model.bert.parameters())
    assert check_model_dir(tiny_folder).facts["parameters"] == f"{count:,}"


def test_a_model_of_few_positions_loads_without_more_ado(make_tiny_folder):
    """check_model_dir says "ready to load", so from_local's defaults must fit."""
    folder = make_tiny_folder(max_position_embeddings=64)
    model = load(folder)
    assert model.max_length == 64
    assert np.isfinite(model.encode([LONG_TEXT])).all()


@pytest.mark.parametrize("max_length", [0, 513])
def test_a_max_length_that_the_model_does_not_accept_is_refused(tiny_folder, max_length):
    with pytest.raises(ValueError, match=f"max_length is {max_length}; .*at most 512"):
        ConnectionBert.from_local(tiny_folder, max_length=max_length, device="cpu")


# The path

def test_a_wrong_path_is_named_as_an_absolute_path(tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder)
    for path in ("models/my-bert", "models\\my-bert"):
        assert f"folder not found: {tiny_folder}/models/my-bert." in only_problem(path)
    assert f"it is a file: {tiny_folder}/config.json" in only_problem("config.json")


@pytest.mark.parametrize("form", ["{0.parent.name}\\{0.name}", "~/{0.parent.name}/{0.name}"])
def test_a_path_may_have_backslashes_or_a_tilde(tiny_folder, monkeypatch, form):
    monkeypatch.chdir(tiny_folder.parents[1])
    monkeypatch.setenv("HOME", str(tiny_folder.parents[1]))
    assert np.array_equal(embeddings(form.format(tiny_folder)), embeddings(tiny_folder))


def test_no_connection_is_tried_for_a_missing_or_a_present_model(tiny_folder):
    """Even where the environment asks for a hub; seen in the interpreter's audit events."""
    done = subprocess.run(
        [sys.executable, "-c", NO_SOCKETS, str(tiny_folder)], cwd=tiny_folder.parent,
        env={**os.environ, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sockets, said, shape, offline = json.loads(done.stdout.splitlines()[-1])
    assert sockets == []
    assert offline == "1"
    assert shape == [1, 32]
    assert len(said) == 2
    for message in said:
        assert f"folder not found: {tiny_folder.parent}/" in message


# The vocabulary

@pytest.mark.parametrize("more", [1, 6])
def test_a_padded_embedding_table_is_no_fault(make_tiny_folder, tiny_vocab, more):
    folder = make_tiny_folder(vocab_size=len(tiny_vocab) + more)
    assert embeddings(folder).shape == (3, 32)


def test_a_token_may_contain_a_line_separator(make_tiny_folder, tiny_vocab, alter):
    """A token ends at a line feed only, though str.splitlines also splits at U+2028."""
    folder = make_tiny_folder(vocab_size=len(tiny_vocab) + 3)
    alter.vocab(folder, [*tiny_vocab, "\u2028", "\u0085", "a\u2028b"])
    assert load(folder).tokenizer.get_vocab()["a\u2028b"] == len(tiny_vocab) + 2


def test_half_a_vocabulary_is_not_called_padding(make_tiny_folder, tiny_vocab, alter):
    """A vocab.txt that was not copied whole splits words wrongly and silently."""
    whole = [*tiny_vocab, *(f"word{i}" for i in range(6000 - len(tiny_vocab)))]
    folder = make_tiny_folder(vocab_size=6000)
    alter.vocab(folder, whole)
    assert check_model_dir(folder).ok
    alter.vocab(folder, whole[:3000])
    assert "3,000 tokens" in refusal(folder)
    set_tokenizer(whole_vocabulary=2999)(folder)
    assert '{"whole_vocabulary": 3000}' in refusal(folder)
    set_tokenizer(whole_vocabulary=3000)(folder)     # as IndoBERT: 50,000 rows, 30,521 words
    assert load(folder).tokenize(["word2"]) == [[2, whole.index("word2"), 3]]
    load(folder).save(folder.parent / "saved")
    assert load(folder.parent / "saved").tokenize(["word2"]) == [[2, whole.index("word2"), 3]]


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
    assert "99 % of the whole words" in message
    assert "do_lower_case to false in tokenizer_config.json" in message


def test_a_cased_vocabulary_loads_with_the_file_that_the_message_asks_for(cased_folder):
    (cased_folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    upper, lower = load(cased_folder).tokenize(["Word", "word"])
    assert (upper, lower) == ([2, 5, 3], [2, 6, 3])


def test_a_cased_tokenizer_json_alone_is_never_lower_cased_silently(cased_folder):
    """AutoTokenizer would, though tokenizer.json itself contains "lowercase": false."""
    (cased_folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    BertTokenizer.from_pretrained(cased_folder).save_pretrained(cased_folder)
    for name in ("vocab.txt", "tokenizer_config.json"):
        (cased_folder / name).unlink()
    stored = json.loads((cased_folder / "tokenizer.json").read_text())
    assert stored["normalizer"]["lowercase"] is False
    assert "tokenizer.json has other rules" in only_problem(cased_folder)
    set_tokenizer(do_lower_case=False)(cased_folder)
    assert load(cased_folder).tokenize(["Word"]) == [[2, 5, 3]]


def whole_words(*words: str) -> list[str]:
    """A vocabulary of these words, and of all their signs, as whole words and as pieces."""
    signs = sorted(set("".join(words)))
    return list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]",
                               *words, *signs, *(f"##{sign}" for sign in signs)]))


@pytest.mark.parametrize(("words", "setting"), [
    (("고양이", "강아지", "잔다", "BERT"), "do_lower_case"),        # few capitals, as in Korean
    (("Katze", "Hund", "Äpfel", "läuft"), "do_lower_case"),
    (("mèo", "chó", "ngủ", "đang"), "strip_accents"),               # uncased, with accents
    (("नमस्ते", "दुनिया", "बिल्ली"), "strip_accents"),
    (("日本", "中文字", "猫猫"), "tokenize_chinese_chars"),
    (("don't", "e-mail", "a.b"), None)])
def test_a_vocabulary_that_the_tokenizer_does_not_read_back_is_refused(
        make_tiny_folder, alter, words, setting):
    """Its own whole words must come back as themselves, in any language."""
    tokens = whole_words(*words)
    folder = make_tiny_folder(vocab_size=len(tokens))
    alter.vocab(folder, tokens)
    message = only_problem(folder)
    assert "whole words" in message
    if setting is None:
        assert "own tokenizer files" in message
    else:
        assert f"Set {setting} to false in tokenizer_config.json" in message
        set_tokenizer(**{setting: False})(folder)          # with the advice it loads
        assert [ids[1:-1] for ids in load(folder).tokenize(words)] == [
            [tokens.index(word)] for word in words]


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


# The weights

def test_surplus_heads_and_position_ids_are_only_a_note(tiny_folder, alter):
    """bert-base-uncased's own file contains them."""
    expected = embeddings(tiny_folder)
    alter.tensors(tiny_folder, lambda t: t | {
        "pooler.dense.weight": torch.ones(32, 32), "cls.predictions.bias": torch.ones(9),
        "classifier.weight": torch.ones(3, 32),
        "embeddings.position_ids": torch.arange(512)[None]})
    assert ("note           model.safetensors also holds classifier and cls and pooler weights"
            in str(check_model_dir(tiny_folder)))
    assert np.array_equal(embeddings(tiny_folder), expected)


def as_in_2018(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that Google's converted checkpoints have."""
    return {"bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma")
                          .replace("LayerNorm.bias", "LayerNorm.beta"): tensor.clone()
            for name, tensor in tensors.items()}


def saved_by_torch(folder: Path, legacy: bool = False) -> None:
    """A state_dict() is an OrderedDict with version numbers; two tensors are one here."""
    model = BertForMaskedLM(BertConfig.from_pretrained(folder))
    model.bert.load_state_dict(load_file(folder / "model.safetensors"))
    state = model.state_dict()
    assert state._metadata
    assert state["cls.predictions.decoder.weight"].data_ptr() == \
        state["bert.embeddings.word_embeddings.weight"].data_ptr()
    torch.save(state, folder / BIN, _use_new_zipfile_serialization=not legacy)
    (folder / "model.safetensors").unlink()


def only_tokenizer_json(folder: Path) -> None:
    """Many models are published like this."""
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").unlink()


def tokenizer_of_class(name: str) -> Spoil:
    """What `save_pretrained` writes, with another name for the class."""
    def spoil(folder: Path) -> None:
        BertTokenizer.from_pretrained(folder).save_pretrained(folder)
        set_tokenizer(**json.loads((folder / "tokenizer_config.json").read_text())
                      | {"tokenizer_class": name})(folder)
    return spoil


HARMLESS = {
    "Windows line ends": change("vocab.txt", lambda text: text.replace(b"\n", b"\r\n")),
    "no last line end": change("vocab.txt", lambda text: text.rstrip(b"\n")),
    "only tokenizer.json": only_tokenizer_json,
    "a byte order mark in config.json": change(
        "config.json", lambda text: b"\xef\xbb\xbf" + text),
    "a pickle beside model.safetensors": lambda folder: (folder / BIN).write_bytes(b"none"),
    "names of 2018": tensors(as_in_2018),
    "names of 2018 in a pickle": to_bin(as_in_2018),
    "parameters for tensors": to_bin(
        lambda t: {n: torch.nn.Parameter(x) for n, x in t.items()}),
    "the zip of torch.save": saved_by_torch,
    "the old format of torch.save": partial(saved_by_torch, legacy=True),
    "names of DataParallel": to_bin(
        lambda t: {f"module.bert.{n}": x for n, x in t.items()}),
    **{f"the tokenizer class {name}": set_tokenizer(tokenizer_class=name, model_max_length=512)
       for name in (None, "BertTokenizer", "BertTokenizerFast")},
    **{f"the tokenizer class {name}": tokenizer_of_class(name)
       for name in ("PreTrainedTokenizerFast", "TokenizersBackend")},
}


@pytest.mark.parametrize("what", HARMLESS)
def test_another_form_of_the_same_model_gives_equal_embeddings(tiny_folder, what):
    expected = embeddings(tiny_folder)
    HARMLESS[what](tiny_folder)
    assert np.array_equal(embeddings(tiny_folder), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("save", [tensors, to_bin, partial(to_bin, legacy=True)],
                         ids=["safetensors", "zip", "legacy"])
def test_weights_in_half_precision_load_as_float32(tiny_folder, dtype, save):
    stored = load_file(tiny_folder / "model.safetensors")
    save(lambda t: {name: tensor.to(dtype) for name, tensor in t.items()})(tiny_folder)
    assert str(dtype).removeprefix("torch.") in check_model_dir(tiny_folder).facts["weights"]
    for name, tensor in load(tiny_folder).bert.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].to(dtype).float()), name


# The command line


def exit_of(*arguments: object) -> object:
    """What the doctor's command line exits with."""
    with pytest.raises(SystemExit) as left:
        doctor.main([str(argument) for argument in arguments])
    return left.value.code


def test_the_command_line_prints_the_report_and_exits_by_it(tiny_folder, capsys):
    assert exit_of(tiny_folder) == 0
    assert capsys.readouterr() == (f"{check_model_dir(tiny_folder)}\n", "")
    (tiny_folder / "vocab.txt").unlink()
    assert exit_of(tiny_folder) == 1
    assert capsys.readouterr() == (f"{check_model_dir(tiny_folder)}\n", "")
    assert exit_of(tiny_folder / "nowhere") == 1
    assert "PROBLEM        folder not found: " in capsys.readouterr().out


# Links

def test_a_folder_of_links_loads(tiny_folder, tmp_path):
    """As a snapshot in a hub's cache: each file is a link to another folder."""
    links = tmp_path / "snapshot"
    links.mkdir()
    for path in tiny_folder.iterdir():
        (links / path.name).symlink_to(path)
    assert np.array_equal(embeddings(links), embeddings(tiny_folder))


# The settings of sentence-transformers

def test_a_saved_model_loads_with_its_own_pooling_and_length(tiny_folder, tmp_path, capfd):
    """Saved by us, and then by sentence-transformers where it is installed."""
    model = load(tiny_folder, pooling="cls", max_length=20)

    def check_saved(folder: Path) -> None:
        again = load(folder)
        assert (again.pooling, again.max_length) == ("cls", 20)
        assert np.allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)

    model.save(tmp_path / "ours")
    assert capfd.readouterr() == ("", "")      # no progress bar in a notebook's output
    check_saved(tmp_path / "ours")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    check_saved(tmp_path / "theirs")


# The real one

def test_the_default_model_is_ready():
    report = check_model_dir(ROOT / "transformers/bert/all-MiniLM-L6-v2")
    assert report.ok
    assert report.facts["vocabulary"] == "30,522 tokens"
    assert report.facts["architecture"].startswith("6 layers, hidden 384, 12 heads")
