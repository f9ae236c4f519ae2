"""The main job on a reader's own pairs, watched for any attempt to reach a network."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial

import nbformat
import pandas as pd
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from connection_utils.bert import POOLINGS, ConnectionBert
from connection_utils.commands import finetune, series
from connection_utils.commands.finetune import FEWEST_PAIRS
from connection_utils.config import (
    LOSS_NAMES,
    POOLING_NAMES,
    PRECISION_NAMES,
    RECIPES,
    TrainingConfig,
    deciding,
)
from connection_utils.ground.paths import ROOT
from connection_utils.losses import LOSSES
from connection_utils.pair_files.reading import read_connections, read_splits
from connection_utils.speed.precision import PRECISIONS
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
    places = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "NETWORK_LOG": str(log)}
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
    """60 pairs with nothing but 0 and 1, sorted by it: the least a reader may bring.

    The options say how to read them: nothing about the file is as the notebooks expect it.
    """
    path = tmp_path_factory.mktemp("few") / "few_labels.csv"
    pairs = read_connections(ROOT / DEFAULT_DATA / "sts-train.csv")
    pairs = pd.concat([pairs[pairs["score"] < 0.2].sample(30, random_state=1).assign(score=0),
                       pairs[pairs["score"] > 0.8].sample(30, random_state=1).assign(score=1)])
    pairs["sentence1"] += " — déjà vu"
    pairs[["sentence1", "sentence2", "score"]].to_csv(
        path, index=False, header=["left", "right", "same"], encoding="cp1252")
    with open(path, "a", encoding="cp1252") as file:
        file.write("no other text,,1\n")
    return [str(path), "--columns", "sentence1=left", "sentence2=right", "score=same",
            "--encoding", "cp1252", "--drop-bad-rows"]


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
        "recipe": ["finetune", "--recipe", "fast", "--data", my_pairs,
                   "--seed", "5", out, folder / "recipe"],
        "sweep": [*SWEEP, *few_labels],
        "few": [*run, *few_labels]}
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
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
        "import urllib.request as u; u.urlopen('http://192.0.2.2/')")]),
        tmp_path / "reaches_out.ipynb")
    code = ("from pathlib import Path; from connection_utils.workshop import notebooks; "
            f"notebooks.NOTEBOOKS = here = Path({str(tmp_path)!r}); notebooks.execute_copy("
            "'reaches_out', {'model_dir': 'x', 'data': 'x'}, here / 'copies')")
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT,
                          capture_output=True, text=True)
    assert "code cell 1: " in done.stderr and "blocked by the test" in done.stderr
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


def test_it_says_what_it_does_and_ends_with_a_table(first_run):
    said = first_run.stdout
    assert "61 rows dropped" in said and "read as stated into runs/" in said
    for name in series.CORE:
        assert re.search(rf"{name}: cell \d+ of \d+,", said)
    assert said.index("Notebook 03 trains") < said.index("02_build_connection_dataset: cell")
    for row in ("test Spearman × 100", "threshold", "the model", "the notebooks", "next"):
        assert f"\n{row} " in said


def test_the_model_it_leaves_is_one_more_local_folder(first_run):
    folder = ROOT / first_run.stdout.split("\nthe model")[1].split()[0]
    assert "few_labels" in folder.name and "ep1" in folder.name
    assert -1 <= ConnectionBert.from_local(folder).similarity(["a cat"], ["a dog"])[0] <= 1
    record = json.loads((folder / "training.json").read_text())
    assert record["config"]["epochs"] == 1
    assert 0 < json.loads((folder / "threshold.json").read_text())["threshold"] < 1


@pytest.fixture
def run_cells(tmp_path, monkeypatch):
    """Write a notebook of some cells, execute it; returns the path of the executed copy."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)

    def run(name, *cells):
        nbformat.write(nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)]),
                       tmp_path / f"{name}.ipynb")
        given = {"model_dir": "no-model", "data": "no-data"}
        notebooks.execute_copy(name, given, tmp_path / "copies")
        assert notebooks.in_place(tmp_path / "copies" / f"{name}.ipynb", name, given)
        return tmp_path / "copies" / f"{name}.ipynb"

    return run


def test_what_the_kernel_logs_about_its_own_end_is_not_shown(run_cells, capfd):
    """At its end a kernel is interrupted first; if it just then waits, it logs an error."""
    run_cells("quiet", 'get_ipython().kernel.log.error("KeyboardInterrupt caught in kernel.")')
    assert capfd.readouterr().err == ""


def test_executed_copies_keep_their_widgets(run_cells):
    """Without its state a widget opens as an error message."""
    copy = nbformat.read(run_cells("slider", "import ipywidgets\nipywidgets.IntSlider(7)"), 4)
    states = [model["state"] for each in copy.metadata.get("widgets", {}).values()
              for model in each["state"].values()]
    assert any(state.get("value") == 7 for state in states)


def test_a_second_run_redoes_nothing(first_run, watched, few_labels):
    again = start(["series", "run", "--epochs", "1", "--data", *few_labels], watched[0])
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": in place in runs/") == 4
    assert again.stdout.split("test Spearman")[1] == first_run.stdout.split("test Spearman")[1]


@pytest.mark.parametrize(("stale", "expected"), [
    ([], []), ([0], [0]), ([2], [2, 3]), ([3], [3]), ([0, 3], [0, 3])])
def test_what_is_stale_is_run_again_and_04_whenever_03_is(monkeypatch, tmp_path, stale,
                                                          expected):
    """04 judges the model that 03 leaves, so a new model needs a new judgement."""
    ran = []
    monkeypatch.setattr(notebooks, "in_place", lambda copy, name, given:
                        series.CORE.index(name) not in stale)
    monkeypatch.setattr(notebooks, "execute_copy", lambda name, *_: ran.append(name))
    monkeypatch.setattr(series, "_print_table", lambda output, copies: None)
    monkeypatch.setattr(series, "_trained", lambda parameters: tmp_path)
    (tmp_path / "threshold.json").touch()
    series.main(["run"])
    assert ran == [series.CORE[i] for i in expected]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model", "transformers/bert/not-here"], "folder not found"),
    (["--data", "not-here.csv"], "file not found"),
    (["--epochs", "0"], "epochs is 0; expected a whole number, at least 1"),
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
        (finetune, "--model", "not-here"),
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
    assert len(said) == 10 and all(line.endswith(" False") for line in said), done
    assert tuple(LOSSES) == LOSS_NAMES and tuple(POOLINGS) == POOLING_NAMES
    assert PRECISIONS == PRECISION_NAMES


def test_an_output_that_cannot_be_written_is_refused_before_training(watched, tmp_path):
    (tmp_path / "thesis.docx").touch()
    done = start(["finetune", "--output", str(tmp_path)], watched[0])
    assert done.returncode == 1 and "epoch" not in done.stdout
    assert "holds files that would be lost: thesis.docx" in done.stderr


@pytest.mark.slow
def test_a_sweep_of_two_values_ends_in_a_table_and_is_not_run_twice(runs, watched, few_labels):
    """The README's command on 60 pairs of one's own."""
    done, again = runs[0]("sweep"), start([*SWEEP, *few_labels], watched[0])
    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    assert "batch_size = 8\n" in done.stdout
    assert "03_train_siamese_cosine: cell " in done.stdout
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
    (["epochs", "2", "two"], "epochs is two; expected a value such as 1"),
    (["epochs", "2", "0"], "epochs is 0; expected a whole number, at least 1"),
    (["model_dir", DEFAULT_MODEL, "not-here"], "folder not found"),
])
def test_a_sweep_that_cannot_be_is_refused_before_anything_runs(watched, arguments, message):
    done = start(["series", "sweep", *arguments], watched[0])
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert "cell" not in done.stdout


@pytest.fixture
def executed(monkeypatch, tmp_path):
    """The sources of the notebooks that the command line wants executed; none is."""
    sources = []

    def execute(path, running, parameters, **_):
        notebook = parameterize_notebook(load_notebook_node(str(path)), parameters)
        sources.append("\n".join(cell.source for cell in notebook.cells))
        running.touch()
        return notebook

    monkeypatch.setattr(notebooks, "execute_notebook", execute)
    monkeypatch.setattr(series, "runs_folder", lambda: tmp_path / "runs")
    monkeypatch.setattr(series, "_print_table", lambda output, copies: None)
    monkeypatch.setattr("connection_utils.use.runs.run_folder", lambda settings: tmp_path)
    monkeypatch.setattr("connection_utils.use.runs.read_run", lambda folder: {
        "evaluations": [{"step": 0, "dev_spearman": 0.5, "seconds": 1}]})
    (tmp_path / "training.json").touch()
    return sources


def test_a_swept_folder_that_has_changed_is_not_in_place(executed, tiny_folder, alter):
    command = ["sweep", "model_dir", str(tiny_folder)]
    series.main(command)
    series.main(command)
    assert len(executed) == 1
    alter.config(tiny_folder, hidden_dropout_prob=0.2)
    series.main(command)
    assert len(executed) == 2


def test_the_models_own_settings_reach_the_notebooks(executed, tiny_folder, make_pairs,
                                                     tmp_path, capsys):
    ConnectionBert.from_local(tiny_folder, "cls", 24, device="cpu").save(tmp_path / "own")
    texts = [f"고양이가 {i} 잔다" for i in range(60)]
    make_pairs(60).assign(sentence1=texts).to_csv(tmp_path / "pairs.csv", index=False)
    options = ["--data", str(tmp_path / "pairs.csv"), "--model", str(tmp_path / "own")]
    series.main(["run", *options])
    for source in executed[2:]:
        assert 'pooling = "cls"' in source and "max_length = 24" in source
    said = capsys.readouterr().out
    assert "cls pooling, max_length 24" in said
    assert "% of the tokens are unknown" in said and "vocabulary was made" in said
    del executed[:]
    series.main(["sweep", "pooling", "max", *options])
    assert 'pooling = "max"' in executed[0] and "max_length = 24" in executed[0]


@pytest.mark.parametrize("whole", [True, False], ids=["one file", "a folder of splits"])
def test_what_was_stated_about_the_pairs_reaches_the_notebooks(executed, tmp_path, whole):
    """A file in cp1252 with other columns, another scale and a bad row."""
    pairs = pd.DataFrame({
        "q 1": [f'a "quoted" é;\nline {i}, and ,' for i in range(60)],
        "q2": [" 42 " if i == 3 else f"\tß{i}" for i in range(60)],
        "vote": [-i for i in range(60)]})
    pairs.loc[7, "q2"] = ""
    data = tmp_path / "mine.csv" if whole else tmp_path / "mine"
    parts = {data: pairs} if whole else {
        data / f"{name}.csv": pairs[i::3] for i, name in enumerate(("train", "dev", "test"))}
    for path, part in parts.items():
        path.parent.mkdir(exist_ok=True)
        part.to_csv(path, index=False, encoding="cp1252")
    with pytest.raises(SystemExit, match=r"--columns(.*\n)+With make, pass these options in READ"):
        series.main(["run", "--data", str(data)])
    series.main(["run", "--data", str(data), "--columns", "sentence1=q 1", "sentence2=q2",
                 "score=vote", "--scale", "-59", "0", "--encoding", "cp1252",
                 "--drop-bad-rows"])
    assert len(executed) == 4
    (handed,) = {line for source in executed for line in source.splitlines()
                 if line.startswith("data = ") and "runs" in line}
    expected = read_splits(data, columns={"sentence1": "q 1", "sentence2": "q2",
                                          "score": "vote"}, scale=(-59, 0),
                           on_bad_rows="drop", encoding="cp1252")
    found = read_splits(handed.split('"')[1])
    for name, split in expected.items():
        pd.testing.assert_frame_equal(found[name], split)


@pytest.mark.parametrize(("votes", "said"), [
    ([0, 1, 2, 3, 4] * 2, "10 pairs are too few"), ([2] * 60, "have the score 0.5")])
def test_pairs_that_cannot_be_split_are_refused_before_any_notebook(
        executed, make_pairs, tmp_path, votes, said):
    make_pairs(len(votes)).assign(score=votes).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(SystemExit, match=said) as refused:
        series.main(["run", "--data", str(tmp_path / "mine.csv"), "--scale", "0", "4"])
    assert not executed and "READ" not in str(refused.value)


def test_a_pair_of_test_and_train_is_reported_as_the_notebooks_treat_it(
        executed, make_pairs, tmp_path, capsys):
    pairs = make_pairs(60)
    for name, rows in {"train": range(30), "dev": range(30, 45), "test": [*range(45, 60), 4]
                       }.items():
        pairs.iloc[rows].to_csv(tmp_path / f"{name}.csv", index=False)
    series.main(["run", "--data", str(tmp_path), "--scale", "0", "1"])
    said = capsys.readouterr().out
    assert "1 row of train dropped, as the same pairs are in a later split" in said
    (copy,) = tmp_path.glob("runs/pairs/*/train.parquet")
    assert len(pd.read_parquet(copy)) == 29


@pytest.mark.parametrize("stated", [[], ["--encoding", "utf-8"]], ids=["as found", "stated"])
@pytest.mark.parametrize("program", [series, finetune])
def test_what_is_printed_of_a_guess_names_options(executed, make_pairs, tmp_path, monkeypatch,
                                                  capsys, program, stated):
    def stop(*_):
        raise ValueError("the pairs are read")

    monkeypatch.setattr(ConnectionBert, "from_local", stop)
    make_pairs(60).assign(score=[1, 2, 3, 4, 5] * 12).to_csv(tmp_path / "a.csv", index=False)
    verb = ["run"] if program is series else []
    with suppress(SystemExit):
        program.main([*verb, "--data", str(tmp_path / "a.csv"), *stated])
    said = capsys.readouterr().out
    assert "state --scale low high)" in said and "scale=" not in said


@pytest.mark.parametrize(("data", "scale", "said", "make"), [
    ("mine.csv", ["5", "1"], "as --scale 1 5", True),
    ("no.csv", ["1", "5"], "file not found", False)])
def test_read_is_named_where_an_option_helps(executed, make_pairs, tmp_path, data, scale, said,
                                             make):
    make_pairs(60).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(SystemExit, match=said) as refused:
        series.main(["run", "--data", str(tmp_path / data), "--scale", *scale])
    assert ("With make, pass these options in READ" in str(refused.value)) is make


def test_the_card_is_part_of_what_a_copy_is_made_from(tmp_path, monkeypatch):
    package = shutil.copytree(notebooks.PACKAGE, tmp_path / "package")
    monkeypatch.setattr(notebooks, "PACKAGE", package)
    made = partial(notebooks.made_from, "none", {"model_dir": "no-model", "data": "no-data"})
    before = made()
    (package / "README.md").write_text("Not part of any output.")
    assert made() == before
    (package / "use/model_card.md").write_text("# Another card")
    assert made() != before


def test_progress_names_notebook_and_cell(run_cells, capsys):
    run_cells("short", "print(1)", "print(2)")
    assert "short: cell 2 of 2," in capsys.readouterr().out
    assert not (ROOT / "runs/check/failed/copies-short.ipynb").exists()


def test_a_failing_cell_is_named_and_what_ran_is_kept(run_cells, tmp_path):
    with pytest.raises(notebooks.NotebookFailed, match="broken, code cell 2: ZeroDivisionError"):
        run_cells("broken", "print(1)", "1 / 0")
    assert not (tmp_path / "copies" / "broken.ipynb").exists()
    kept = nbformat.read(ROOT / "runs/check/failed/copies-broken.ipynb", as_version=4)
    assert "1\n" in [cell.outputs[0].text for cell in kept.cells
                     if cell.cell_type == "code" and "text" in cell.outputs[0]]


def test_finetune_trains_saves_and_says_so(runs, watched):
    done, folder = runs[0]("finetune"), runs[1] / "finetune"
    assert done.returncode == 0, done.stderr
    assert watched[1].read_text() == ""
    record = json.loads((folder / "training.json").read_text())
    assert record["config"]["learning_rate"] == 2e-5 and record["config"]["seed"] == 5
    assert record["pairs"]["train"] + record["pairs"]["dev"] + record["pairs"]["test"] == 400
    assert f"after   test Spearman {100 * record['test_spearman_after']:.2f}" in done.stdout
    assert ConnectionBert.from_local(folder).max_length == 128
    assert record["pairs"]["train"] >= FEWEST_PAIRS and "doubt" not in done.stdout


def chosen(*options):
    return finetune.chosen(finetune.parser().parse_args(options))


def test_a_recipe_sets_the_options_and_an_option_given_beside_it_wins():
    said = ("--epochs", "7", "--no-freeze-embeddings")
    assert chosen("--recipe", "best", *said) == (
        "best", replace(RECIPES["best"], epochs=7, freeze_embeddings=False))
    assert RECIPES["post"] == TrainingConfig()        # what notebook 03 trains


@pytest.mark.parametrize(("options", "recipe"), [
    ([], "post"), (["--data", "data/stsb/"], "post"), (["--data", "mine.csv"], "best"),
    (["--data", "mine.csv", "--recipe", "fast"], "fast"), (["--recipe=best"], "best")])
def test_pairs_of_ones_own_get_the_recipe_that_never_lost(options, recipe):
    assert chosen(*options) == (recipe, RECIPES[recipe])


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
    assert unnamed.returncode == 1 and "--columns sentence1=" in unnamed.stderr
    command += ["--columns", "sentence1=question", "sentence2=known_issue", "score=connection",
                "--scale", "0", "4"]
    faulty = start(command, watched[0])
    assert faulty.returncode == 1 and "line 15, column question" in faulty.stderr
    assert "Traceback" not in unnamed.stderr + faulty.stderr
    done = start([*command, "--drop-bad-rows"], watched[0])
    assert done.returncode == 0, done.stderr
    assert "of 60 rows dropped" in done.stdout and "bad_rows" in done.stdout
    assert f"recipe best was measured on {FEWEST_PAIRS} training pairs and more" in done.stdout
    record = json.loads((tmp_path / "mine" / "training.json").read_text())
    assert record["scale"] == [0, 4] and record["on_bad_rows"] == "drop"
    assert record["columns"]["sentence1"] == "question"
    assert 45 <= sum(record["pairs"].values()) < 60


def test_help_is_worth_reading(watched):
    said = start(["finetune", "--help"], watched[0]).stdout
    for option in ("--model", "--data", "--epochs", "--learning-rate", "--batch-size",
                   "--loss", "--seed", "--output"):
        assert option in said
    assert "no model hub is ever asked" in said and "(default: 16)" in said
    assert "(default: post 1, fast 1, best 2)" in " ".join(said.split())
