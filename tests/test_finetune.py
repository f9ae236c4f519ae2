"""The command finetune: its options, what it leaves of a model's settings, and its errors."""

import json
import re
from dataclasses import fields

import pytest
import torch
from safetensors import SafetensorError

from connection_utils import ConnectionBert, TrainingConfig, training
from connection_utils.bert import pick_device
from connection_utils.commands import finetune, score
from connection_utils.ground.paths import ROOT


@pytest.fixture
def job(tiny_folder, make_pairs, tmp_path):
    """Options of a small training, whose model goes to ``tmp_path / "out"``."""
    make_pairs(60).to_csv(tmp_path / "pairs.csv", index=False)
    return ["--recipe", "post", "--model", f"{tiny_folder}", "--data",
            f"{tmp_path / 'pairs.csv'}", "--device", "cpu", "--output", f"{tmp_path / 'out'}"]


@pytest.fixture
def korean_folder(make_tiny_folder, alter):
    """A cased BERT with each of the 11,172 Hangul syllables, and with random weights."""
    signs = [*map(chr, range(0xAC00, 0xD7A4)), *map(chr, range(0x21, 0x7F))]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
             *signs, *(f"##{sign}" for sign in signs)]
    folder = make_tiny_folder(vocab_size=len(words))
    alter.vocab(folder, words)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    return folder


def error_of(main, *arguments):
    """What a command ends with: one message, no traceback."""
    with pytest.raises(SystemExit) as left:
        main([f"{each}" for each in arguments])
    assert isinstance(left.value.code, str)
    return left.value.code


def collapse(model):
    """Let every text have the same vector from now on."""
    norm = model.bert.encoder.layer[-1].output.LayerNorm
    torch.nn.init.zeros_(norm.weight), torch.nn.init.ones_(norm.bias)


@pytest.mark.parametrize(("options", "pooling", "max_length"), [
    ([], "cls", 24), (["--pooling", "max", "--max-length", "16"], "max", 16)])
def test_the_models_own_settings_are_kept_unless_others_are_given(
        job, tiny_folder, tmp_path, capsys, options, pooling, max_length):
    start = ConnectionBert.from_local(tiny_folder, "cls", 24, device="cpu")
    start.save(tmp_path / "start")
    finetune.main([*job, "--model", f"{tmp_path / 'start'}", *options])
    trained = ConnectionBert.from_local(tmp_path / "out", device="cpu")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (trained.pooling, trained.max_length) == (pooling, max_length)
    assert (record["pooling"], record["max_length"]) == (pooling, max_length)
    said = capsys.readouterr().out
    assert f"{pooling} pooling, max_length {max_length}" in said
    assert "% of the tokens are unknown ([UNK])" in said


def test_a_file_in_another_encoding_is_read_as_the_message_says(job, make_pairs, tmp_path):
    pairs = make_pairs(60)
    pairs["sentence1"] += " café"
    pairs.to_csv(tmp_path / "pairs.csv", index=False, encoding="cp1252")
    said = error_of(finetune.main, *job)
    assert "encoding=" not in said and "line 2, column sentence1" in said
    named = re.findall(r"--[\w-]+", said)
    assert "--encoding" in named
    assert {*named} <= {*finetune.parser()._option_string_actions}
    finetune.main([*job, "--encoding", "cp1252"])
    assert json.loads((tmp_path / "out" / "training.json").read_text())["encoding"] == "cp1252"


@pytest.mark.parametrize("device", ["cpuu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_one_line(job, tmp_path, device):
    for said in (error_of(finetune.main, *job, "--device", device),
                 error_of(score.main, tmp_path / "pairs.csv", tmp_path / "scored.csv",
                          *job[2:4], "--device", device)):
        assert f"device is {device!r}" in said and "expected cpu" in said and "\n" not in said
    assert pick_device("cpu") == torch.device("cpu")


def test_a_model_that_cannot_be_scored_is_one_line_before_and_after_training(
        job, tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "train", lambda model, *_, **__: collapse(model))
    assert "cosines are" in error_of(finetune.main, *job)
    assert "before  test Spearman" in capsys.readouterr().out
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    collapse(model)
    model.save(tmp_path / "collapsed")
    assert "has collapsed" in error_of(finetune.main, *job, "--model", tmp_path / "collapsed")
    assert "before  test Spearman" not in capsys.readouterr().out


NUMBERS = [setting.name for setting in fields(TrainingConfig) if setting.type is float]


@pytest.mark.parametrize(("name", "value"), [
    ("max_grad_norm", 0.0), ("max_grad_norm", -1.0), ("weight_decay", -0.01), ("seed", -1),
    *((name, value) for name in NUMBERS for value in map(float, ("nan", "inf", "-inf")))])
def test_a_number_that_would_ruin_the_training_is_refused(job, name, value):
    said = error_of(finetune.main, *job, f"--{name.replace('_', '-')}={value}")
    assert said.startswith(f"{name} is {value}; expected ") and len(NUMBERS) == 7


def test_every_setting_is_an_option_with_help_and_its_defaults(capsys):
    for setting in fields(TrainingConfig):
        assert setting.metadata["help"]
    with pytest.raises(SystemExit):
        finetune.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in ("--epochs N how often each pair is seen (default: post 1, fast 1, best 2)",
                  "(default: 16)", "--no-freeze-embeddings", "--encoding"):
        assert words in said


def test_no_page_shows_an_option_that_finetune_does_not_have():
    known = {*finetune.parser()._option_string_actions}
    pages = [ROOT / "README.md", ROOT / "README.ko.md", *(ROOT / "docs").glob("*.md")]
    shown = [option for page in pages for command in re.findall(
        r"connection_utils finetune ((?:.*\\\n)*.*)", page.read_text(encoding="utf-8"))
        for option in re.findall(r"--[a-z-]+", command)]
    assert "--data" in shown and {*shown} <= known


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"),
                                   SafetensorError("I/O error: No space left on device")])
def test_a_full_disk_is_one_message_whichever_library_notices_it(job, monkeypatch, error):
    def save(*_: object) -> None:
        raise error

    monkeypatch.setattr(ConnectionBert, "save", save)
    said = error_of(finetune.main, *job)
    assert "could not be saved" in said and "No space left on device" in said


def test_a_run_that_was_read_otherwise_is_another_run(job, capsys):
    finetune.main([*job, "--scale", "0", "1"])
    for more, same in (["--scale", "0", "1"], True), ([], False):
        finetune.main([*job, "--resume", *more])
        assert ("nothing to do" in capsys.readouterr().out.splitlines()[-1]) is same


@pytest.fixture
def korean_job(korean_folder, tmp_path):
    """The command of docs/korean.md, for that model."""
    page = (ROOT / "docs" / "korean.md").read_text(encoding="utf-8")
    command = re.search(r"finetune --model FOLDER (--data .*) \\\n(.*)\n", page)
    return ["--model", f"{korean_folder}", *f"{command[1]} {command[2]}".split(),
            "--device", "cpu", "--output", f"{tmp_path / 'out'}"]


@pytest.mark.parametrize("name", ["helpdesk_ko.csv", "helpdesk_ko_cp949.csv"])
def test_the_korean_sample_trains_a_korean_bert_as_its_page_says(
        korean_job, tmp_path, capsys, name):
    finetune.main([each.replace("helpdesk_ko_cp949.csv", name) for each in korean_job])
    assert "0.0 % of the tokens are unknown" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert sum(record["pairs"].values()) == 208, record


def test_a_korean_bert_that_would_be_lower_cased_is_refused(korean_job, korean_folder):
    (korean_folder / "tokenizer_config.json").unlink()
    assert "do_lower_case" in error_of(finetune.main, *korean_job)
