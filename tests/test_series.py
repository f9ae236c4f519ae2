"""The main job on a reader's own pairs, watched for any attempt to reach a network."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache

import nbformat
import pandas as pd
import pytest

from connection_utils.bert import POOLINGS, ConnectionBert
from connection_utils.commands import finetune, series
from connection_utils.config import (
    HOLDS_FROM,
    LOSS_NAMES,
    POOLING_NAMES,
    RECIPES,
    TrainingConfig,
    deciding,
    recipe_doubt,
)
from connection_utils.ground.paths import ROOT
from connection_utils.losses import LOSSES
from connection_utils.pair_files.reading import read_connections
from connection_utils.workshop import notebooks
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

# Python runs this at the start of every process that has the folder on its path, kernels
# included. Loopback stays open: kernels talk over it.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None    # else a local socket
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in (None, "", "localhost", "::1") and not host.startswith("127."):
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{event} {host}\\n")
        raise ConnectionRefusedError(f"blocked by the test: {event} {host}")

sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """An environment in which reaching for a network is refused and logged; the log."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "sitecustomize.py").write_text(WATCH)
    log = folder / "log"
    log.touch()
    environment = os.environ | {"PYTHONPATH": str(folder), "NETWORK_LOG": str(log)}
    environment.pop("HF_HUB_OFFLINE", None)      # the module itself must see to it
    return environment, log


@pytest.fixture(scope="module")
def my_pairs(tmp_path_factory):
    """400 pairs as a reader would bring them: one plain CSV."""
    path = tmp_path_factory.mktemp("mine") / "my_pairs.csv"
    read_connections(ROOT / DEFAULT_DATA / "sts-train.csv").sample(400, random_state=1)[
        ["sentence1", "sentence2", "score"]].to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def few_labels(tmp_path_factory):
    """60 pairs with nothing but 0 and 1, sorted by it: the least a reader may bring."""
    path = tmp_path_factory.mktemp("few") / "few_labels.csv"
    pairs = read_connections(ROOT / DEFAULT_DATA / "sts-train.csv")
    pd.concat([pairs[pairs["score"] < 0.2].sample(30, random_state=1).assign(score=0),
               pairs[pairs["score"] > 0.8].sample(30, random_state=1).assign(score=1)])[
        ["sentence1", "sentence2", "score"]].to_csv(path, index=False)
    return path


def start(arguments, environment):
    return subprocess.run([sys.executable, "-m", "connection_utils", *arguments], cwd=ROOT,
                          env=environment, capture_output=True, text=True)


SWEEP = ["series", "sweep", "batch_size", "8", "16", "--data"]


@pytest.fixture(scope="module")
def runs(watched, my_pairs, few_labels, tmp_path_factory):
    """How a long run ended, by its name, and the folder for models; each is run once."""
    run, out = ["series", "run", "--epochs", "1", "--data"], "--output"
    folder = tmp_path_factory.mktemp("runs")
    commands = {
        "graded": [*run, my_pairs],
        "finetune": ["finetune", "--model", DEFAULT_MODEL, "--data",
                     my_pairs, "--epochs", "1", "--learning-rate", "2e-5", "--batch-size",
                     "32", "--loss", "cosine_mse", "--seed", "5", out, folder / "finetune"],
        "recipe": ["finetune", "--recipe", "fast", "--data", few_labels,
                   "--seed", "5", out, folder / "recipe"],
        "sweep": [*SWEEP, few_labels],
        "few": [*run, few_labels]}
    environment = watched[0] | {"OMP_NUM_THREADS": "1"}
    return cache(lambda name: start(map(str, commands[name]), environment)), folder


@pytest.fixture(scope="module")
def first_run(runs):
    return runs[0]("few")


def test_the_watch_bites(watched):
    """What the next test relies on: a process that reaches out is stopped and logged."""
    environment, log = watched
    done = subprocess.run(
        [sys.executable, "-c", "import urllib.request as u; u.urlopen('http://192.0.2.1/')"],
        env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "blocked by the test" in done.stderr
    assert "192.0.2.1" in log.read_text()
    log.write_text("")


def test_the_watch_bites_inside_a_kernel_too(watched, tmp_path):
    environment, log = watched
    notebook = tmp_path / "reaches_out.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
        "import urllib.request as u; u.urlopen('http://192.0.2.2/')")]), notebook)
    code = ("import nbformat; from connection_utils.workshop.notebooks import execute; "
            f"from pathlib import Path; execute(nbformat.read({str(notebook)!r}, 4), 'reaches_out', "
            f"Path({str(tmp_path / 'copy.ipynb')!r}))")
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT,
                          capture_output=True, text=True)
    assert "code cell 1 of 1" in done.stderr and "blocked by the test" in done.stderr
    assert "192.0.2.2" in log.read_text()
    log.write_text("")


def test_the_whole_series_runs_on_own_pairs_without_any_network(first_run, watched):
    assert first_run.returncode == 0, first_run.stdout + first_run.stderr
    assert watched[1].read_text() == ""
    assert first_run.stderr == ""


@pytest.mark.slow
def test_the_series_runs_on_pairs_with_graded_scores(runs):
    done = runs[0]("graded")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "threshold " in done.stdout


def test_it_says_beforehand_how_long_it_takes_and_ends_with_a_table(first_run):
    said = first_run.stdout
    assert said.index("this will take about") < said.index("01_load_local_bert: cell")
    for name in series.CORE:
        assert f"{name}: cell" in said
    for row in ("test Spearman × 100", "threshold", "the model", "the notebooks"):
        assert f"\n{row} " in said


def test_the_model_it_leaves_is_one_more_local_folder(first_run):
    folder = ROOT / first_run.stdout.split("the model")[1].split()[0]
    assert "few_labels" in folder.name and "ep1" in folder.name
    assert -1 <= ConnectionBert.from_local(folder).similarity(["a cat"], ["a dog"])[0] <= 1
    record = json.loads((folder / "training.json").read_text())
    assert record["config"]["epochs"] == 1
    assert 0 < json.loads((folder / "threshold.json").read_text())["threshold"] < 1


@pytest.mark.parametrize("checking", [True, False])
def test_executed_copies_keep_their_widgets_and_committed_notebooks_do_not(tmp_path, checking):
    """Without its state a widget opens as an error message."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
        "import ipywidgets\nipywidgets.IntSlider(7)")])
    notebooks.execute(notebook, "slider", tmp_path / "copy.ipynb", checking=checking)
    kept = nbformat.read(tmp_path / "copy.ipynb", as_version=4).metadata.get("widgets", {})
    states = [model["state"] for each in kept.values() for model in each["state"].values()]
    assert any(state.get("value") == 7 for state in states) is not checking


def test_a_second_run_redoes_nothing(first_run, watched, few_labels):
    again = start(["series", "run", "--epochs", "1", "--data", str(few_labels)],
                  watched[0])
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": in place in runs/") == 4
    assert "this will take" not in again.stdout
    assert again.stdout.split("test Spearman")[1] == first_run.stdout.split("test Spearman")[1]


@pytest.mark.parametrize(("stale", "expected"), [
    ([], []), ([0], [0]), ([2], [2, 3]), ([3], [3]), ([0, 3], [0, 3])])
def test_what_is_stale_is_run_again_and_04_whenever_03_is(monkeypatch, tmp_path, stale,
                                                          expected):
    """04 judges the model that 03 leaves, so a new model needs a new judgement."""
    ran = []
    monkeypatch.setattr(notebooks, "in_place", lambda copy, name, given, fingerprint:
                        series.CORE.index(name) not in stale)
    monkeypatch.setattr(notebooks, "execute_copy", lambda name, *_: ran.append(name))
    monkeypatch.setattr(series, "_tell_duration", lambda settings, config: None)
    monkeypatch.setattr(series, "_print_table", lambda output, copies: None)
    monkeypatch.setattr(series, "_trained", lambda parameters: (tmp_path, None))
    (tmp_path / "threshold.json").touch()
    series.run(DEFAULT_MODEL, DEFAULT_DATA, None)
    assert ran == [series.CORE[i] for i in expected]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model", "transformers/bert/not-here"], "folder not found"),
    (["--data", "not-here.csv"], "file not found"),
    (["--epochs", "0"], "epochs is 0; expected 1 or more"),
])
def test_a_wrong_argument_ends_in_one_sentence(watched, arguments, message):
    for program in (["series", "run"], ["finetune"]):
        done = start([*program, *arguments], watched[0])
        assert done.returncode == 1
        assert message in done.stderr and "Traceback" not in done.stderr


# In one process: each command, and whether torch is there when it has ended.
REFUSED = """
import sys
from connection_utils.commands import finetune, score, series
for program, *arguments in (
        (finetune, "--help"), (finetune, "--recipe", "grandma"), (finetune, "--epochs", "0"),
        (finetune, "--model", "not-here"), (finetune, "--data", "not-here.csv"),
        (finetune, "--data", "data/samples/helpdesk_with_faults.csv"),
        (score, "--help"), (score, "a.csv", "b.csv", "--model", "not-here"),
        (series, "run", "--epochs", "0"), (series, "run", "--model", "not-here"),
        (series, "run", "--data", "not-here.csv"), (series, "sweep", "pooler", "mean")):
    try:
        program.main(arguments)
    except SystemExit:
        print(program.__name__, *arguments, "torch" in sys.modules)
"""


def test_what_is_wrong_is_told_before_torch_is_imported(watched):
    """The import takes seconds, and nobody should wait for them to read of a slip."""
    done = subprocess.run([sys.executable, "-c", REFUSED], env=watched[0], cwd=ROOT,
                          capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("connection_utils.")]
    assert len(said) == 12 and all(line.endswith(" False") for line in said), done
    assert tuple(LOSSES) == LOSS_NAMES and tuple(POOLINGS) == POOLING_NAMES


def test_an_output_that_cannot_be_written_is_refused_before_training(watched, tmp_path):
    (tmp_path / "thesis.docx").touch()
    done = start(["finetune", "--output", str(tmp_path)], watched[0])
    assert done.returncode == 1 and "epoch" not in done.stdout
    assert "holds files that would be lost: thesis.docx" in done.stderr


@pytest.mark.slow
def test_a_sweep_of_two_values_ends_in_a_table_and_is_not_run_twice(runs, watched, few_labels):
    """The README's command on 60 pairs of one's own."""
    done, again = runs[0]("sweep"), start([*SWEEP, str(few_labels)], watched[0])
    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    assert "batch_size = 8\n03_train_siamese_cosine: cell" in done.stdout
    assert "03_train_siamese_cosine: cell" not in again.stdout
    head, *rows = again.stdout.splitlines()[-3:]
    assert head.split() == "batch_size dev Spearman × 100 seconds the notebook".split()
    for row, value in zip(rows, ("8", "16"), strict=True):
        size, spearman, seconds, folder, *_ = row.split()
        copy = nbformat.read(ROOT / folder / "03_train_siamese_cosine.ipynb", as_version=4)
        assert size == value and 0 < float(spearman) <= 100 and float(seconds) >= 0
        assert any(f"batch_size = {value}" in cell.source for cell in copy.cells)
    assert watched[1].read_text() == ""


@pytest.mark.parametrize(("arguments", "message"), [
    (["pooler", "mean"], "notebook 03 has no parameter 'pooler'; expected one of model_dir"),
    (["epochs", "2", "two"], "epochs is 2 two; expected values such as 1"),
])
def test_a_sweep_that_cannot_be_is_refused_before_anything_runs(watched, arguments, message):
    done = start(["series", "sweep", *arguments], watched[0])
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert "cell" not in done.stdout


def test_a_failing_cell_is_named_and_what_ran_is_kept(tmp_path, capsys):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)"),
                                               nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(notebooks.NotebookFailed, match="code cell 2 of 2: ZeroDivisionError"):
        notebooks.execute(notebook, "broken", tmp_path / "copy.ipynb")
    assert not (tmp_path / "copy.ipynb").exists()
    kept = nbformat.read(ROOT / "runs/check/failed/broken.ipynb", as_version=4)
    assert kept.cells[0].outputs[0].text == "1\n"


def test_finetune_trains_saves_and_says_so(runs, watched):
    done, folder = runs[0]("finetune"), runs[1] / "finetune"
    assert done.returncode == 0, done.stderr
    assert watched[1].read_text() == ""
    record = json.loads((folder / "training.json").read_text())
    assert record["config"]["learning_rate"] == 2e-5 and record["config"]["seed"] == 5
    assert record["pairs"]["train"] + record["pairs"]["dev"] + record["pairs"]["test"] == 400
    assert f"after   test Spearman {100 * record['test_spearman_after']:.2f}" in done.stdout
    assert ConnectionBert.from_local(folder).max_length == 128


def test_a_recipe_sets_the_options_and_an_option_given_beside_it_wins():
    said = finetune.parser(RECIPES["fast"]).parse_args(["--recipe", "fast", "--epochs", "7"])
    assert said.loss == RECIPES["fast"].loss and said.epochs == 7
    assert finetune.parser().parse_args([]).loss == RECIPES["post"].loss == "cosine_mse"
    assert RECIPES["post"] == TrainingConfig()        # what notebook 03 trains


@pytest.mark.parametrize(("options", "recipe"), [
    ([], "post"), (["--data", "data/stsb/"], "post"), (["--data", "mine.csv"], "best"),
    (["--data", "mine.csv", "--recipe", "fast"], "fast"), (["--recipe=best"], "best")])
def test_pairs_of_ones_own_get_the_recipe_that_never_lost(monkeypatch, options, recipe):
    said = []
    monkeypatch.setattr(finetune, "_main", said.append)
    finetune.main(options)
    (chosen,) = said
    assert chosen.recipe == recipe and chosen.epochs == RECIPES[recipe].epochs


def test_a_recipe_says_for_how_many_pairs_it_was_measured():
    for recipe, fewest in HOLDS_FROM.items():
        assert recipe_doubt(recipe, fewest) is None
        said = recipe_doubt(recipe, fewest - 1)
        assert f"recipe {recipe} was measured on {fewest} training pairs and more" in said
        assert f"these are {fewest - 1}" in said and "its interval" in said


@pytest.mark.slow
def test_a_recipe_is_what_is_trained(runs, watched):
    done, folder = runs[0]("recipe"), runs[1] / "recipe"
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "training.json").read_text())
    assert record["config"] == deciding(replace(RECIPES["fast"], seed=5))
    wrong = start(["finetune", "--recipe", "grandma"], watched[0])
    assert wrong.returncode == 2 and "'post', 'fast', 'best'" in wrong.stderr


def test_a_strangers_file_gets_through_with_what_the_messages_ask_for(watched, tmp_path):
    """The sample with planted faults: each run is refused with what the next one states."""
    command = ["finetune", "--data", "data/samples/helpdesk_with_faults.csv",
               "--epochs", "1", "--frozen-layers", "5", "--seed", "5",
               "--output", str(tmp_path / "mine")]
    unnamed = start(command, watched[0])
    assert unnamed.returncode == 1 and "columns=" in unnamed.stderr
    command += ["--columns", "sentence1=question", "sentence2=known_issue", "score=connection",
                "--scale", "0", "4"]
    faulty = start(command, watched[0])
    assert faulty.returncode == 1 and "line 15, column question" in faulty.stderr
    series_run = start(["series", "run", *command[1:3]], watched[0])
    assert series_run.returncode == 1 and "finetune (--columns" in series_run.stderr
    assert "Traceback" not in unnamed.stderr + faulty.stderr + series_run.stderr
    done = start([*command, "--drop-bad-rows"], watched[0])
    assert done.returncode == 0, done.stderr
    assert "of 60 rows dropped" in done.stdout and "bad_rows" in done.stdout
    record = json.loads((tmp_path / "mine" / "training.json").read_text())
    assert record["scale"] == [0, 4] and record["on_bad_rows"] == "drop"
    assert record["columns"]["sentence1"] == "question"
    assert 45 <= sum(record["pairs"].values()) < 60


def test_help_is_worth_reading(watched):
    said = start(["finetune", "--help"], watched[0]).stdout
    for option in ("--model", "--data", "--epochs", "--learning-rate", "--batch-size",
                   "--loss", "--seed", "--output"):
        assert option in said
    assert "no model hub is ever asked" in said and "(default: 5e-05)" in said
