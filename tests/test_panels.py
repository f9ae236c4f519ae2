"""The panels: knobs become a config, a run goes on in a thread, and nothing is lost."""

import hashlib
import json
import re
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from html import escape

import ipywidgets as w
import numpy as np
import pandas as pd
import pytest
import torch

from connection_utils import bert, plots
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig
from connection_utils.dataset import ConnectionDataset
from connection_utils.evaluation import judge_threshold, spearman
from connection_utils.panels import training_panel
from connection_utils.panels.knobs import Knobs
from connection_utils.panels.threshold_panel import ThresholdPanel
from connection_utils.panels.training_panel import TrainingPanel
from connection_utils.training import History, train
from connection_utils.use import runs
from connection_utils.use.runs import read_run, run_settings

WORDS = "the cat dog sat ran on a mat man woman plays guitar music two in park".split()
CONFIG = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-3, evaluations_per_epoch=1)
STEPS = 10                                     # of CONFIG on the made pairs


def made(n: int, seed: int) -> pd.DataFrame:
    """Pairs of texts of six words; the score is the share of words they do not share.

    A BERT that was never trained scores common words high, so training has something to gain.
    """
    chance = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        words, common = chance.permutation(WORDS), number % 7
        rows.append((" ".join(words[:6]), " ".join(words[6 - common:12 - common]), 1 - common / 6))
    return pd.DataFrame(rows, columns=["sentence1", "sentence2", "score"])


SPLITS = {"train": made(40, 1), "dev": made(35, 2)}


@pytest.fixture(autouse=True)
def quiet_place(tmp_path, monkeypatch):
    """Runs go to the test's own folder and on the CPU, and none outlives its test."""
    for module in (training_panel, runs):
        monkeypatch.setattr(module, "runs_folder", lambda: tmp_path / "runs")
    pick = bert.pick_device
    monkeypatch.setattr(bert, "pick_device", lambda device=None: pick(device or "cpu"))
    yield
    TrainingPanel._stopping.set()
    assert TrainingPanel.wait(None, 60)


@pytest.fixture
def settings_of(tiny_folder):
    def make(pooling="mean", **changes):
        return run_settings(tiny_folder, "made.csv", pooling, 64, replace(CONFIG, **changes))

    return make


@pytest.fixture
def new_panel(settings_of):
    def make(pooling="mean", splits=SPLITS, **changes):
        return TrainingPanel(settings_of(pooling, **changes), splits)

    return make


@pytest.fixture
def held(monkeypatch):
    """``with held(panel, 2):`` starts a run; it waits after step 2 until the block's end."""
    monkeypatch.setattr(training_panel, "NUMBERS_EVERY", 0)    # or not every step is told

    @contextmanager
    def at(panel, step=2, start=None):
        reached, go_on = threading.Event(), threading.Event()

        def look(change):
            if change.new.startswith(f"step {step} of"):
                reached.set()
                go_on.wait(60)

        panel._numbers.observe(look, "value")
        (start or panel.start)()
        try:
            assert reached.wait(60), panel._status.value
            yield
        finally:
            go_on.set()
            assert panel.wait(60)
            panel._numbers.unobserve(look, "value")

    return at


@pytest.fixture
def displayed(monkeypatch):
    """What is displayed in the test, in order."""
    seen = []

    def keep(*data, **_):
        seen.extend(data)

    for place in ("IPython.display", "connection_utils.panels.training_panel",
                  "connection_utils.panels.threshold_panel"):
        monkeypatch.setattr(f"{place}.display", keep)
    return seen


def ran(panel):
    """The panel after a run that finished."""
    panel.start()
    assert panel.wait(60)
    assert panel.error is None, panel.error
    return panel


def said(panel):
    return panel._status.value


def is_red(panel):
    return plots.RED in said(panel)


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(u, v) for (a, u), (b, v) in pairs)


def content(folder):
    """A mark of each file in `folder`."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}


def as_code(knobs):
    """What the knobs' code makes, run as a cell is."""
    names = {"TrainingConfig": TrainingConfig}
    exec(knobs.code, names)
    return names["config"], names["pooling"]


# Knobs

def test_the_knobs_start_at_the_given_settings(settings_of):
    given = {"learning_rate": 2e-5, "epochs": 3, "batch_size": 32, "train_share": 0.25,
             "loss": "cosent", "frozen_layers": 1}
    knobs = Knobs(settings_of("cls", **given))
    assert knobs.config == replace(CONFIG, **given) and knobs.pooling.value == "cls"
    assert knobs.learning_rate.value == 2e-5 and knobs.epochs.value == 3
    assert knobs.batch_size.value == 32 and knobs.train_share.value == 0.25
    assert knobs.loss.value == "cosent" and knobs.frozen.label == "embeddings, 1 layer"


@pytest.mark.parametrize("odd", [
    {"batch_size": 12}, {"batch_size": 500}, {"train_share": 0.3}, {"epochs": 25},
    {"learning_rate": 0.05}, {"learning_rate": 5e-7}, {"evaluations_per_epoch": 9},
    {"warmup_ratio": 0.3, "weight_decay": 0.0, "max_grad_norm": 5.0, "seed": 3}], ids=str)
def test_a_setting_that_no_knob_offers_is_kept(settings_of, odd):
    assert Knobs(settings_of(**odd)).config == replace(CONFIG, **odd)


@pytest.mark.parametrize("embeddings", [True, False])
def test_frozen_layers_freeze_the_embeddings_with_or_without_a_word(settings_of, embeddings):
    knobs = Knobs(settings_of(frozen_layers=1, freeze_embeddings=embeddings))
    assert knobs.frozen.label == "embeddings, 1 layer"
    assert (knobs.config.freeze_embeddings, knobs.config.frozen_layers) == (False, 1)


def test_frozen_offers_all_but_the_last_layer_of_the_model(settings_of):
    knobs = Knobs(settings_of())
    assert dict(knobs.frozen.options) == {
        "nothing": (False, 0), "embeddings": (True, 0), "embeddings, 1 layer": (False, 1)}


def test_the_code_makes_what_the_knobs_say(settings_of):
    knobs = Knobs(settings_of(weight_decay=0.0, seed=3))
    for turn in ({}, {"learning_rate": 3.1e-4}, {"epochs": 7}, {"batch_size": 4},
                 {"train_share": 0.05}, {"loss": "cosent"}, {"pooling": "max"},
                 {"frozen": (False, 1)}):
        for name, value in turn.items():
            getattr(knobs, name).value = value
        assert as_code(knobs) == (knobs.config, knobs.pooling.value)
        assert f"<pre>{escape(knobs.code)}</pre>" in knobs.code_box.value
    assert knobs.config == TrainingConfig(
        learning_rate=3.1e-4, epochs=7, batch_size=4, train_share=0.05, loss="cosent",
        frozen_layers=1, weight_decay=0.0, seed=3,
        evaluations_per_epoch=1)
    assert knobs.pooling.value == "max"


def test_default_settings_are_code_without_a_number(tiny_folder):
    knobs = Knobs(run_settings(tiny_folder, "made.csv", "mean", 64, TrainingConfig()))
    assert knobs.code == "pooling = 'mean'\nconfig = TrainingConfig()"
    assert knobs.config == TrainingConfig()
    knobs.epochs.value = 3
    assert knobs.code == "pooling = 'mean'\nconfig = TrainingConfig(\n    epochs=3,\n)"


@pytest.mark.parametrize(("place", "rate"), [(3.1622e-5, 3.2e-5), (5e-5, 5e-5),
                                             (1.26e-4, 1.3e-4), (0.01, 0.01)])
def test_the_learning_rate_is_rounded_to_two_digits(settings_of, place, rate):
    knobs = Knobs(settings_of())
    knobs.learning_rate.value = place
    assert knobs.config.learning_rate == as_code(knobs)[0].learning_rate == rate


@pytest.mark.parametrize(("start", "share", "evaluations"), [
    (1.0, 1.0, 4), (1.0, 0.5, 2), (1.0, 0.25, 1), (1.0, 0.01, 1), (0.1, 0.1, 4),
    (0.1, 0.05, 2), (0.1, 1.0, 4)])
def test_a_smaller_share_is_evaluated_less_often(settings_of, start, share, evaluations):
    knobs = Knobs(settings_of(train_share=start, evaluations_per_epoch=4))
    knobs.train_share.value = share
    assert knobs.config.evaluations_per_epoch == evaluations


# A run

def test_a_new_panel_has_a_picture_and_an_empty_table_and_started_nothing(new_panel):
    threads = threading.active_count()
    panel = new_panel()
    assert bytes(panel._image.value).startswith(b"\x89PNG")
    assert panel.runs.empty and threading.active_count() == threads
    assert (panel.model, panel.history, panel.folder, panel.error) == (None,) * 4


def test_a_run_goes_on_in_another_thread_with_knobs_and_train_locked(new_panel, held):
    panel, threads = new_panel(), set()
    panel._status.observe(lambda _: threads.add(threading.current_thread()), "value")
    knobs = [knob for column in panel.knobs.box.children for knob in column.children]
    assert len(knobs) == 7
    with held(panel):
        assert "Training on cpu" in said(panel) and panel._bar.max == STEPS
        assert panel._numbers.value.startswith(f"step 2 of {STEPS} · ")
        assert panel._train_button.disabled and not panel._stop_button.disabled
        assert all(knob.disabled for knob in knobs)
        assert not panel.wait(0.01)
    assert not panel._train_button.disabled and not any(knob.disabled for knob in knobs)
    assert len(threads) == 1 and threading.current_thread() not in threads
    assert panel.error is None and len(panel.history.step_losses) == STEPS


def test_the_buttons_start_and_stop(new_panel, held):
    panel = new_panel()
    with held(panel, start=panel._train_button.click):
        panel._stop_button.click()
    assert panel.runs["ended"].tolist() == [f"stopped at step 2 of {STEPS}"]
    panel._train_button.click()
    assert panel.wait(60) and panel.runs["ended"].iloc[-1] == "finished"


def test_a_run_leaves_model_history_folder_row_picture_and_sentence(new_panel):
    panel = new_panel("cls")
    picture = bytes(panel._image.value)
    dev, start = SPLITS["dev"], ConnectionBert.from_local(panel.settings["base_model"], "cls")
    ran(panel)
    history = panel.history
    assert history.config == panel.knobs.config and len(history.step_losses) == STEPS
    assert len(history.evaluations) == 3 and not panel.model.training
    assert not same_weights(panel.model, start)

    again = ConnectionBert.from_local(panel.folder)
    assert same_weights(panel.model, again) and again.pooling == "cls" == panel.model.pooling
    assert again.max_length == 64
    record = read_run(panel.folder, {**panel.settings, "pooling": "cls"})
    assert record["evaluations"] == history.evaluations and record["steps"] == STEPS
    assert record["pairs"] == {"train": 40, "dev": 35}
    now = spearman(dev["score"], again.similarity(dev["sentence1"], dev["sentence2"]))
    assert now == pytest.approx(history.best["dev_spearman"], abs=1e-6)

    row, = panel.runs.to_dict("records")
    assert row == {
        "pooling": "cls", "loss": "cosine_mse", "learning rate": "0.001", "epochs": 2,
        "batch size": 8, "frozen": "nothing", "train share": "100%", "ended": "finished",
        "dev Spearman × 100": round(100 * now, 2), "seconds": round(history.seconds)}
    assert "<td>finished</td>" in panel._table.value
    assert bytes(panel._image.value) != picture
    gain = now - history.evaluations[0]["dev_spearman"]
    assert (f"Finished: dev Spearman × 100 is {100 * now:.2f}, {100 * gain:.2f} above the "
            "starting model (95 % interval" in said(panel))
    assert said(panel).endswith(f"lies in {panel.folder}.</span>") and not is_red(panel)
    assert panel._bar.value == panel._bar.max == STEPS


def test_a_run_that_gains_nothing_says_so(new_panel):
    """Common words make the untrained BERT's cosines high, so here it starts at its best."""
    turned = {name: pairs.assign(score=1 - pairs["score"]) for name, pairs in SPLITS.items()}
    panel = ran(new_panel(epochs=1, splits=turned))
    assert panel.runs["ended"].tolist() == ["finished; kept the starting model"]
    assert "was not beaten in training" in said(panel)
    assert same_weights(panel.model, ConnectionBert.from_local(panel.settings["base_model"]))
    assert "kept the starting model" not in said(ran(new_panel()))


def test_the_knobs_of_a_run_are_those_at_its_start(new_panel, held):
    panel = new_panel()
    with held(panel):
        panel.knobs.epochs.value = 9           # by code; by hand it is locked
    assert panel.history.config.epochs == 2 and panel.runs["epochs"].tolist() == [2]


def test_another_setting_goes_to_another_folder_and_a_row_of_its_own(new_panel):
    panel = ran(new_panel())
    first, model = panel.folder, panel.model
    panel.knobs.pooling.value = "max"
    panel.knobs.frozen.value = (False, 1)
    ran(panel)
    assert panel.folder != first and first.is_dir() and panel.model is not model
    assert panel.runs["pooling"].tolist() == ["mean", "max"]
    assert panel.runs["frozen"].tolist() == ["nothing", "embeddings, 1 layer"]
    assert same_weights(ConnectionBert.from_local(first), model)   # it is not trained on


# The same run again

def test_equal_settings_give_equal_bits_whatever_ran_between(new_panel, settings_of):
    panel = ran(new_panel())
    first, losses = panel.model, panel.history.step_losses
    assert same_weights(ran(panel).model, first)
    panel.knobs.loss.value, panel.knobs.pooling.value = "cosent", "cls"
    assert not same_weights(ran(panel).model, first)
    panel.knobs.loss.value, panel.knobs.pooling.value = "cosine_mse", "mean"
    torch.rand(3)
    assert same_weights(ran(panel).model, first)
    assert panel.history.step_losses == losses

    alone = ConnectionBert.from_local(panel.settings["base_model"], "mean", 64)
    history = train(alone, ConnectionDataset(SPLITS["train"], alone.tokenizer, 64),
                    SPLITS["dev"], panel.knobs.config)
    assert same_weights(alone, first) and history.step_losses == losses


def test_a_share_and_frozen_layers_are_what_is_trained(new_panel):
    panel = ran(new_panel(train_share=0.5, frozen_layers=1))
    assert panel.history.pairs == 2 * 20
    start = ConnectionBert.from_local(panel.settings["base_model"])
    alike = {name: torch.equal(a, b) for (name, a), b in zip(
        start.state_dict().items(), panel.model.state_dict().values())}
    assert {name for name, same in alike.items() if same} == {
        name for name in alike if name.startswith(("bert.embeddings", "bert.encoder.layer.0"))}
    assert panel.runs["train share"].tolist() == ["50%"]


# Stop

def test_stop_keeps_the_model_in_a_folder_beside_the_finished_run(new_panel, held):
    panel = ran(new_panel())
    finished, marks = panel.folder, content(panel.folder)
    with held(panel):
        panel.stop()
        assert "Stopping" in said(panel)
    assert panel.error is None and len(panel.history.step_losses) == 2
    assert panel.folder.name == f"{finished.name}-stopped" and content(finished) == marks
    assert same_weights(ConnectionBert.from_local(panel.folder), panel.model)
    assert not same_weights(ConnectionBert.from_local(finished), panel.model)
    assert json.loads((panel.folder / "training.json").read_text())["steps"] == 2
    assert panel.runs["ended"].tolist() == ["finished", f"stopped at step 2 of {STEPS}"]
    assert f"Stopped at step 2 of {STEPS}: dev Spearman" in said(panel) and not is_red(panel)
    assert not panel._train_button.disabled
    ran(panel)                                 # and the next run is not stopped
    assert panel.folder == finished
    assert content(finished)["model.safetensors"] == marks["model.safetensors"]


def test_a_stop_at_the_last_step_is_a_finished_run(new_panel, held):
    panel = new_panel()
    with held(panel, STEPS):
        panel.stop()
    assert panel.runs["ended"].tolist() == ["finished"]
    assert not panel.folder.name.endswith("-stopped")


def test_stop_when_nothing_runs_says_so_and_stops_nothing_later(new_panel):
    panel = new_panel()
    panel.stop()
    assert "Nothing is being trained." in said(panel)
    assert ran(panel).runs["ended"].tolist() == ["finished"]
    panel.stop()
    assert "Nothing is being trained." in said(panel)


def test_a_stop_before_the_first_step_leaves_nothing(new_panel, tmp_path):
    panel = new_panel()
    panel._status.observe(
        lambda change: panel.stop() if "Loading" in change.new else None, "value")
    panel.start()
    assert panel.wait(60)
    assert "Stopped before the first step." in said(panel) and panel.runs.empty
    assert (panel.model, panel.history, panel.folder, panel.error) == (None,) * 4
    assert not panel._train_button.disabled and not (tmp_path / "runs").exists()


# One run in a kernel

def test_a_second_panel_does_not_disturb_the_run_and_its_stop_ends_it(new_panel, held):
    alone = ran(new_panel())
    first, second = new_panel(), new_panel("max")
    with held(first):
        second.start()
        assert "Another training is running in this kernel." in said(second)
        assert is_red(second) and not second._train_button.disabled
        assert not first.wait(0.01) and "Training on" in said(first)
    assert same_weights(first.model, alone.model) and second.runs.empty
    with held(first, 3):
        second.stop()
    assert [ended.split(";")[0] for ended in first.runs["ended"]] == [
        "finished", f"stopped at step 3 of {STEPS}"]
    ran(second)
    assert second.model.pooling == "max" and not is_red(second)


def test_train_pressed_twice_is_one_run(new_panel, held):
    panel = new_panel()
    with held(panel):
        panel.start()
        assert is_red(panel) and panel._train_button.disabled
    assert panel.runs["ended"].tolist() == ["finished"]


def test_a_cell_that_trains_meanwhile_is_told_to_wait(new_panel, held):
    panel = new_panel()
    model = ConnectionBert.from_local(panel.settings["base_model"])
    with held(panel), pytest.raises(RuntimeError, match="press Stop in its panel"):
        train(model, ConnectionDataset(SPLITS["train"], model.tokenizer), SPLITS["dev"])
    assert panel.runs["ended"].tolist() == ["finished"]


# What goes wrong

@pytest.mark.parametrize(("error", "sentence"), [
    (FloatingPointError("step 3: the loss is nan. Lower <learning_rate>."),
     ">step 3: the loss is nan. Lower &lt;learning_rate&gt;."),
    (OSError(28, "No space left on device"), ">OSError: [Errno 28] No space left on device"),
    (MemoryError("too large"), ">step 3: there is not enough memory for 8 pairs at once. Set "
     "batch_size=4 and gradient_accumulation_steps=2")], ids=str)
def test_an_error_in_training_becomes_a_red_sentence_and_a_row(new_panel, monkeypatch, error,
                                                               sentence):
    def failing(*given, on_step, **named):
        def at_step(history):
            on_step(history)
            if len(history.step_losses) == 2:
                raise error

        return train(*given, on_step=at_step, **named)

    panel = new_panel()
    with monkeypatch.context() as patch:
        patch.setattr(training_panel, "train", failing)
        panel.start()
        assert panel.wait(60)
    assert sentence in said(panel) and is_red(panel)
    assert error in (panel.error, panel.error.__cause__)
    assert panel.runs["ended"].tolist() == ["failed at step 2"]
    assert panel.model is None and panel.folder is None
    assert "failed at step 2" in panel._table.value and "nan" not in panel._table.value.lower()
    assert not panel._train_button.disabled and not panel.knobs.epochs.disabled
    ran(panel)                                 # and the next one is as if nothing had been
    assert not is_red(panel) and panel.error is None
    assert panel.runs["ended"].tolist() == ["failed at step 2", "finished"]


def test_pairs_that_cannot_be_trained_on_are_told(new_panel, tmp_path):
    panel = new_panel(splits={**SPLITS, "train": SPLITS["train"].assign(score=5.0)})
    panel.start()
    assert panel.wait(60)
    assert ">row 0: score is 5.0" in said(panel) and is_red(panel)
    assert panel.runs["ended"].tolist() == ["failed at step 0"]
    assert not (tmp_path / "runs").exists() and not panel._train_button.disabled


def test_a_run_that_collapses_is_told_and_the_table_shows_it(new_panel, monkeypatch):
    """The dev cosines all become one; the panel draws them, too."""
    real, calls = ConnectionBert.similarity, []

    def collapsing(self, *pairs, **options):
        calls.append(1)
        cosines = real(self, *pairs, **options)
        return cosines if len(calls) < 3 else np.full_like(cosines, 0.99)

    monkeypatch.setattr(ConnectionBert, "similarity", collapsing)
    panel = new_panel()
    panel.start()
    assert panel.wait(60)
    assert "The model has collapsed: lower the learning rate." in said(panel) and is_red(panel)
    assert panel.runs["ended"].tolist() == [f"failed at step {STEPS}"]
    assert not panel._train_button.disabled and panel.folder is None


def test_a_base_model_that_tells_nothing_apart_is_told(new_panel):
    """Its cosines before training cannot be ranked, and the figure would rank them."""
    dev = SPLITS["dev"].assign(sentence1="a cat", sentence2="the dog")
    panel = new_panel(splits={**SPLITS, "dev": dev})
    panel.start()
    assert panel.wait(60)
    assert "nothing can be ranked" in said(panel) and is_red(panel)
    assert not panel._train_button.disabled


def test_a_model_folder_that_has_gone_is_told(new_panel, tiny_folder):
    panel = new_panel()
    shutil.rmtree(tiny_folder)
    panel.start()
    assert panel.wait(60)
    assert "tiny_bert" in said(panel) and is_red(panel)
    assert panel.runs["ended"].tolist() == ["failed at step 0"]
    assert not panel._train_button.disabled


def test_a_model_that_cannot_be_saved_is_kept_and_told(new_panel, monkeypatch):
    panel = ran(new_panel())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_panel, "save_run", full)
    panel.knobs.pooling.value = "max"
    panel.start()
    assert panel.wait(60)
    assert "OSError: [Errno 28] No space left on device" in said(panel) and is_red(panel)
    assert panel.model.pooling == "max" and panel.runs["ended"].tolist() == ["finished"] * 2
    assert panel.folder is None                # the other run's folder holds another model


# The table and the static twin

def test_the_last_ten_runs_are_kept(new_panel):
    panel = new_panel()
    for epochs in range(1, 13):
        panel.add_run(History(replace(CONFIG, epochs=epochs), steps=3, step_losses=[1.0] * 3,
                              evaluations=[{"step": 3, "dev_spearman": 0.5}]), panel.settings)
    assert panel.runs["epochs"].tolist() == list(range(3, 13))
    assert panel._table.value.count("<tr") == 11 and len(panel.runs) == 10


def test_a_checked_panel_shows_picture_and_table_and_no_widget(new_panel, displayed):
    panel, threads = ran(new_panel()), threading.active_count()
    panel._ipython_display_()
    bundle, table = displayed
    assert set(bundle) == {"image/png", "text/plain"}          # and no widget view
    assert bundle["text/plain"].startswith("Three panels of the last run")
    assert table.equals(panel.runs) and table["ended"].tolist() == ["finished"]
    assert not any(isinstance(each, w.Widget) for each in displayed)
    assert threading.active_count() == threads


def test_a_checked_panel_before_any_run_shows_the_same_and_starts_nothing(new_panel, displayed):
    threads = threading.active_count()
    new_panel()._ipython_display_()
    bundle, table = displayed
    assert set(bundle) == {"image/png", "text/plain"} and table.empty
    assert threading.active_count() == threads


def test_a_run_by_cell_is_added_to_the_table_and_shown(new_panel, displayed):
    """As a notebook does whose run was checked: the panel has no thread of its own."""
    panel = new_panel()
    model = ConnectionBert.from_local(panel.settings["base_model"], "mean", 64)
    history = train(model, ConnectionDataset(SPLITS["train"], model.tokenizer), SPLITS["dev"],
                    CONFIG)
    picture = bytes(panel._image.value)
    panel.add_run(history, panel.settings)
    assert panel.history is history and bytes(panel._image.value) != picture
    panel._ipython_display_()
    assert displayed[1]["ended"].tolist() == ["finished"]


def test_a_watched_panel_is_the_widgets(new_panel, displayed, monkeypatch):
    monkeypatch.delenv("CONNECTION_CHECK")
    panel = new_panel()
    panel._ipython_display_()
    assert displayed == [panel.box]
    parts = {*panel.box.children, *panel.box.children[1].children}
    assert {panel.knobs.box, panel._train_button, panel._stop_button, panel._bar,
            panel._numbers, panel._status, panel._image, panel._table,
            panel.knobs.code_box} <= parts


# ThresholdPanel

@pytest.fixture
def model(tiny_folder):
    return ConnectionBert.from_local(tiny_folder)


CONNECTED = np.repeat([True, False], [30, 50])
COSINES = np.concatenate([np.random.default_rng(1).normal(0.6, 0.2, 30),
                          np.random.default_rng(2).normal(0.3, 0.2, 50)]).astype(np.float32)


@pytest.fixture
def chooser(model):
    return ThresholdPanel(model, CONNECTED, COSINES, 0.437)


def test_the_threshold_starts_where_it_was_chosen(chooser):
    assert chooser.threshold.value == 0.437


@pytest.mark.parametrize("threshold", [-0.3, 0.0, 0.437, 0.7, 1.0])
def test_confusion_counts_each_pair_once_as_judge_threshold_does(chooser, threshold):
    chooser.threshold.value = threshold
    counts, verdict = chooser.confusion, judge_threshold(CONNECTED, COSINES, threshold)
    assert counts.to_numpy().sum() == len(COSINES)
    assert counts.loc["connected"].sum() == 30 and counts.loc["not connected"].sum() == 50
    assert counts.loc["connected", "said connected"] == verdict["true_positive"]
    assert counts.loc["connected", "said not"] == verdict["false_negative"]
    assert counts.loc["not connected", "said connected"] == verdict["false_positive"]
    assert counts.loc["not connected", "said not"] == verdict["true_negative"]
    assert f"accuracy {verdict['accuracy']:.3f} · precision {verdict['precision']:.3f}" in \
        chooser._table.value
    assert re.findall(r"<td>(\d+)</td>", chooser._table.value) == [
        str(count) for count in counts.to_numpy().flatten()]


def test_moving_the_slider_changes_picture_table_and_confusion(chooser):
    def all_of_it():
        return (bytes(chooser._image.value), chooser._table.value, chooser.confusion.to_csv())

    first = all_of_it()
    chooser.threshold.value = 0.2
    second = all_of_it()
    assert first[0].startswith(b"\x89PNG")
    assert all(one != other for one, other in zip(first, second))
    chooser.threshold.value = 0.437
    assert all_of_it()[1:] == first[1:]


def test_two_texts_get_their_cosine_and_a_verdict_that_flips_at_the_threshold(chooser, model):
    chooser.sentence1.value, chooser.sentence2.value = "a man plays", "  the dog ran "
    cosine = float(model.similarity(["a man plays"], ["the dog ran"])[0])
    chooser.threshold.value = cosine - 0.001
    assert chooser._said.value == f"cosine {cosine:.2f}: <b>connected</b>"
    chooser.threshold.value = cosine + 0.001
    assert chooser._said.value == f"cosine {cosine:.2f}: <b>not connected</b>"
    chooser.threshold.value = cosine           # as judge_threshold: from the threshold on
    assert chooser._said.value == f"cosine {cosine:.2f}: <b>connected</b>"
    chooser.sentence2.value = "a man plays"
    assert chooser._said.value == "cosine 1.00: <b>connected</b>"


@pytest.mark.parametrize(("one", "other"), [("", ""), ("a cat", ""), ("", "a cat"),
                                            ("   ", "a cat")])
def test_an_empty_text_gets_the_hint(chooser, one, other):
    chooser.sentence1.value, chooser.sentence2.value = "a man", "two cats"
    chooser.sentence1.value, chooser.sentence2.value = one, other
    assert chooser._said.value == "Write two texts, and press Enter."


def test_a_text_is_never_read_as_html(chooser):
    chooser.sentence1.value, chooser.sentence2.value = "<img src=x onerror=alert(1)>", "<b>cat"
    shown = [each.value for each in (chooser._said, chooser._table)]
    assert shown[0].startswith("cosine ") and not any("<img" in text or "<b>cat" in text
                                                      for text in shown)


def test_a_checked_chooser_shows_picture_and_counts(chooser, displayed):
    chooser._ipython_display_()
    bundle, table = displayed
    assert set(bundle) == {"image/png", "text/plain"}
    assert "threshold" in bundle["text/plain"] and table.equals(chooser.confusion)


def test_a_watched_chooser_is_the_widgets(chooser, displayed, monkeypatch):
    monkeypatch.delenv("CONNECTION_CHECK")
    chooser._ipython_display_()
    assert displayed == [chooser.box]


def test_moving_the_threshold_does_not_encode_the_texts_again(chooser, monkeypatch):
    chooser.sentence1.value, chooser.sentence2.value = "the cat sat", "the cat sat"
    monkeypatch.setattr(chooser.model, "similarity", None)
    chooser.threshold.value = -0.3
    assert "<b>connected</b>" in chooser._said.value
