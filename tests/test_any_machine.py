"""What surrounds a command: terminals, pipes, Ctrl-C, left-over variables, failed saves."""

import io
import os
import subprocess
import sys

import pandas as pd
import pytest
from cases import slow

from connection_utils import ConnectionBert, History, TrainingConfig, __main__, save_run
from connection_utils.commands import bundle, finetune, score, series
from connection_utils.ground.paths import ROOT
from connection_utils.ground.whole_files import only_writer
from connection_utils.long_runs import processes
from connection_utils.use import runs
from connection_utils.workshop import notebooks


@pytest.fixture
def korean(make_pairs, tmp_path):
    """A file of pairs with Korean column names."""
    path = tmp_path / "pairs.csv"
    make_pairs(60).set_axis(["문장1", "문장2", "점수"], axis=1).to_csv(path, index=False)
    return path


# Terminals

@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp949", "utf-8"])
def test_what_a_terminal_cannot_show_is_escaped(tiny_folder, korean, tmp_path, monkeypatch,
                                                encoding):
    shown = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    score.main([str(korean), str(tmp_path / "scored.csv"), "--model", str(tiny_folder),
                "--device", "cpu"])
    said = shown.buffer.getvalue().decode(encoding)
    assert ("문장1" if encoding in ("cp949", "utf-8") else r"\ubb38\uc7a51") in said
    assert list(pd.read_csv(tmp_path / "scored.csv")) == ["문장1", "문장2", "점수", "cosine"]


def run(*arguments, stdout=subprocess.PIPE, **environment):
    """The command as a program."""
    return subprocess.run([sys.executable, "-m", "connection_utils", *map(str, arguments)],
                          stdout=stdout, stderr=subprocess.PIPE, cwd=ROOT,
                          env=os.environ | environment, text=True)


@pytest.mark.parametrize("arguments", [
    ["doctor", "MODEL"], ["--help"], ["finetune", "--help"],
    slow(["score", "PAIRS", "OUT", "--model", "MODEL", "--device", "cpu"])],
    ids=lambda words: " ".join(words[:2]))
def test_a_closed_pipe_ends_a_command_without_a_word(arguments, tiny_folder, korean, tmp_path):
    places = {"MODEL": tiny_folder, "PAIRS": korean, "OUT": tmp_path / "scored.csv"}
    read, write = os.pipe()
    os.close(read)                                 # nobody reads
    done = run(*(places.get(word, word) for word in arguments), stdout=write)
    os.close(write)
    code = 0 if "--help" in arguments else 141               # argparse itself ignores it
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
@pytest.mark.parametrize("command", ["doctor", "finetune", "score", "series", "bundle"])
def test_an_interrupt_or_a_closed_pipe_is_no_error_of_the_command(
        command, error, tiny_folder, korean, tmp_path, monkeypatch, capfd):
    def fail(*_: object, **__: object) -> None:
        raise error

    arguments = {"doctor": [tiny_folder], "series": ["fetch"], "bundle": ["--check", tmp_path],
                 "finetune": ["--model", tiny_folder, "--data", korean],
                 "score": [korean, tmp_path / "scored.csv", "--model", tiny_folder]}[command]
    monkeypatch.setattr("connection_utils.model_folder.check.check_model_dir", fail)
    monkeypatch.setattr(finetune, "_finetune", fail)
    monkeypatch.setattr("connection_utils.use.scorer.ConnectionScorer", fail)
    monkeypatch.setattr(series, "fetch_assets", fail)
    monkeypatch.setattr(bundle, "check", fail)
    monkeypatch.setattr(os, "dup2", lambda *_: None)             # pytest's own streams
    with pytest.raises(SystemExit) as left:
        __main__.main([command, *map(str, arguments)])
    assert left.value.code == {KeyboardInterrupt: 130, BrokenPipeError: 141}[error]
    said = capfd.readouterr().err
    assert said.startswith("interrupted") == (error is KeyboardInterrupt)
    assert "not written" not in said and said.count("\n") <= 1


# Variables that other programs have left

@pytest.mark.parametrize("left", [
    {"WORLD_SIZE": "4", "RANK": "1", "LOCAL_RANK": "1"}, {"WORLD_SIZE": ""},
    {"WORLD_SIZE": "x", "RANK": "x"}, {"WORLD_SIZE": "8", "MASTER_ADDR": "elsewhere"},
    {"WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}], ids=str)
def test_a_process_that_torchrun_did_not_start_trains_alone(monkeypatch, left):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with processes.joined():
        assert (processes.count(), processes.rank()) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("left", [
    {"OMP_NUM_THREADS": "0"}, {"OMP_NUM_THREADS": "many"}, {"PYTHONOPTIMIZE": "1"},
    {"PYTHONWARNINGS": "error"}, {"MPLBACKEND": "nonsense"}, {"CUDA_VISIBLE_DEVICES": ""},
    {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_CACHE": "/nowhere", "HF_HOME": "/proc/none"},
    {"HOME": "/proc/none"}, {"COLUMNS": "0"}, {"LC_ALL": "C"}, {"TQDM_DISABLE": "1"}], ids=str)
def test_a_variable_of_another_program_changes_nothing(left, tiny_folder, korean, tmp_path):
    done = run("score", korean, tmp_path / "scored.csv", "--model", tiny_folder, "--device",
               "cpu", "--columns", "sentence1=문장1", "sentence2=문장2", **left)
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "scored.csv")["cosine"].notna().all()


def test_pip_installs_into_the_environment_whatever_its_configuration_says():
    said = subprocess.run(["make", "-pn", "help"], cwd=ROOT, capture_output=True, text=True)
    assert "\nPIP_USER := 0\n" in said.stdout


# Two processes, and outputs that cannot be written

@pytest.fixture
def job(tiny_folder, make_pairs, tmp_path):
    """Options of a small training, whose model goes to ``tmp_path / "out"``."""
    make_pairs(60).to_csv(tmp_path / "train.csv", index=False)
    return ["--recipe", "post", "--model", str(tiny_folder), "--data",
            str(tmp_path / "train.csv"), "--device", "cpu", "--batch-size", "8", "--output"]


def refused(main, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(each) for each in arguments])
    assert isinstance(left.value.code, str) and "\n" not in left.value.code
    return left.value.code


@pytest.mark.parametrize("command", ["finetune", "score", "series"])
def test_a_second_process_is_refused_at_once(command, job, tiny_folder, korean, tmp_path,
                                             monkeypatch):
    out = tmp_path / "02_build_connection_dataset.ipynb"
    begun = []
    monkeypatch.setattr("connection_utils.training.train", begun.append)
    monkeypatch.setattr("connection_utils.use.file_scoring.score_file", begun.append)
    monkeypatch.setattr(notebooks, "execute_notebook", begun.append)
    with only_writer(out):
        if command == "finetune":
            said = refused(finetune.main, *job, out)
        elif command == "score":
            said = refused(score.main, korean, out, "--model", tiny_folder)
        else:
            with pytest.raises(OSError) as error:
                notebooks.execute_copy(out.stem, {"model_dir": "x", "data": "x"}, tmp_path)
            said = str(error.value)
    assert "another process is writing it" in said and str(out) in said and not begun


@pytest.mark.parametrize("output", ["file/out", "x" * 220, "out"])
def test_an_output_that_cannot_be_written_costs_no_training(job, tmp_path, monkeypatch, output):
    (tmp_path / "file").touch()
    (tmp_path / "out-checkpoints").touch()           # a file where checkpoints will go
    steps = []
    monkeypatch.setattr("connection_utils.training.training_step", steps.append)
    said = refused(finetune.main, *job, tmp_path / output, "--checkpoint-every", 2)
    assert "cannot be written" in said and not steps


def test_an_output_that_is_a_link_keeps_its_checkpoints_where_it_leads(job, tmp_path):
    (tmp_path / "volume" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "volume" / "out")
    (tmp_path / "volume" / "out-checkpoints").touch()
    said = refused(finetune.main, *job, tmp_path / "link", "--checkpoint-every", 2)
    assert str(tmp_path / "volume" / "out-checkpoints") in said


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("elsewhere", ["runs", "temporary", "nowhere"])
def test_a_failed_save_keeps_the_model_and_says_where(tiny_folder, tmp_path, monkeypatch,
                                                      elsewhere):
    save, left = ConnectionBert.save, {"runs": 1, "temporary": 2, "nowhere": 3}[elsewhere]

    def fails_at_first(*arguments):
        nonlocal left
        left -= 1
        (full if left >= 0 else save)(*arguments)

    monkeypatch.setattr(ConnectionBert, "save", fails_at_first)
    monkeypatch.setattr(runs, "runs_folder", lambda: tmp_path / "runs")
    monkeypatch.setattr(runs, "gettempdir", lambda: str(tmp_path / "temporary"))
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    with pytest.raises(OSError, match="No space left") as error:
        save_run(tmp_path / "out", model, History(TrainingConfig()), SETTINGS, **FACTS)
    kept = [path.parent for path in tmp_path.glob("*/**/training.json")]
    assert len(kept) == (elsewhere != "nowhere")
    for folder in kept:
        assert elsewhere in folder.parts and f"saved to {folder} instead" in str(error.value)
        assert ConnectionBert.from_local(folder).fingerprint() == model.fingerprint()


SETTINGS = {"base_model": "bert", "data": "pairs.csv", "pooling": "mean", "max_length": 128,
            "config": vars(TrainingConfig())}
FACTS = {"pairs": {"train": 9, "dev": 9, "test": 9}}


def test_after_a_failed_save_it_is_said_where_the_checkpoints_are(
        job, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(ConnectionBert, "save", full)
        said = refused(finetune.main, *job, tmp_path / "out", "--checkpoint-every", 2)
    assert "--resume" in said and str(tmp_path / "out-checkpoints") in said
    finetune.main([*job, str(tmp_path / "other"), "--resume"])
    line = next(line for line in capsys.readouterr().out.splitlines() if "to resume" in line)
    assert f"nothing to resume in {tmp_path / 'other-checkpoints'}" in line


@pytest.mark.parametrize("name", ["x" * 250, "가" * 80, "pairs"])
def test_a_run_of_a_long_named_file_has_a_folder_that_can_be_written(name, tmp_path,
                                                                     monkeypatch):
    monkeypatch.setattr(runs, "runs_folder", lambda: tmp_path)
    folder = runs.run_folder(SETTINGS | {"data": f"data/{name}.csv", "base_model": name})
    ConnectionBert.check_output(folder)
    assert folder.name.startswith(f"{name[:10]}")
