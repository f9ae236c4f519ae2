"""The panels: knobs become a config, a run trains in a thread, and nothing is lost.

tests/test_browser.py turns the same panels by mouse and keyboard.
"""

import json
import re
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from html import escape

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
from connection_utils.training import train
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
        other = words[6 - common:12 - common]
        rows.append((" ".join(words[:6]), " ".join(other), 1 - common / 6))
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
    assert TrainingPanel._idle.wait(60)


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


@contextmanager
def held(panel, step=2):
    """A run that waits after `step` until the block's end."""
    reached, go_on = threading.Event(), threading.Event()

    def look(change):
        if change.new.startswith(f"step {step} of"):
            reached.set()
            go_on.wait(60)

    panel._numbers.observe(look, "value")
    panel._train_button.click()
    try:
        assert reached.wait(60), panel._status.value
        yield
    finally:
        go_on.set()
        assert panel._idle.wait(60)
        panel._numbers.unobserve(look, "value")


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


def started(panel):
    """The panel after a run that ended in any way, and that left the knobs unlocked."""
    panel.start()
    assert panel._idle.wait(60)
    assert not panel._train_button.disabled and not panel.knobs.epochs.disabled
    return panel


def ran(panel):
    """The panel after a run that finished."""
    assert not is_red(started(panel)), said(panel)
    return panel


def said(panel):
    return panel._status.value


def is_red(panel):
    return plots.RED in said(panel)


def ends(panel):
    return panel.runs["ended"].tolist()


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(u, v) for (a, u), (b, v) in pairs)


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
    assert knobs.loss.value == "cosent" and knobs.frozen_layers.value == 1


@pytest.mark.parametrize("odd", [
    {"batch_size": 12}, {"batch_size": 500}, {"train_share": 0.3}, {"epochs": 25},
    {"learning_rate": 0.05}, {"learning_rate": 3.21e-5}, {"evaluations_per_epoch": 9},
    {"freeze_embeddings": True, "frozen_layers": 7},
    {"warmup_ratio": 0.3, "weight_decay": 0.0, "max_grad_norm": 5.0, "seed": 3}], ids=str)
def test_a_setting_that_no_knob_offers_is_kept(settings_of, odd):
    assert Knobs(settings_of(**odd)).config == replace(CONFIG, **odd)


def test_all_but_the_last_layer_can_be_frozen_and_no_weights_are_read_for_it(settings_of,
                                                                            tiny_folder):
    settings = settings_of()
    (tiny_folder / "model.safetensors").unlink()
    assert [value for _, value in Knobs(settings).frozen_layers.options] == [0, 1]


def test_the_code_makes_what_the_knobs_say(settings_of):
    knobs = Knobs(settings_of(weight_decay=0.0, seed=3))
    for turn in ({}, {"learning_rate": 2e-4}, {"epochs": 7}, {"batch_size": 4},
                 {"train_share": 0.05}, {"loss": "cosent"}, {"pooling": "max"},
                 {"frozen_layers": 1}, {"freeze_embeddings": True}):
        for name, value in turn.items():
            getattr(knobs, name).value = value
        assert as_code(knobs) == (knobs.config, knobs.pooling.value)
        assert f"<pre>{escape(knobs.code)}</pre>" in knobs.code_box.value
    assert knobs.config == TrainingConfig(
        learning_rate=2e-4, epochs=7, batch_size=4, train_share=0.05, loss="cosent",
        freeze_embeddings=True, frozen_layers=1, weight_decay=0.0, seed=3,
        evaluations_per_epoch=1)
    assert knobs.pooling.value == "max"


def test_default_settings_are_code_without_a_number(tiny_folder):
    knobs = Knobs(run_settings(tiny_folder, "made.csv", "mean", 64, TrainingConfig()))
    assert knobs.code == "pooling = 'mean'\nconfig = TrainingConfig()"
    knobs.epochs.value = 3
    assert knobs.code == "pooling = 'mean'\nconfig = TrainingConfig(\n    epochs=3,\n)"


# A run

def test_a_run_trains_in_another_thread_with_knobs_and_train_locked(new_panel):
    panel, threads = new_panel(), set()
    assert bytes(panel._image.value).startswith(b"\x89PNG") and panel.runs.empty
    panel._status.observe(lambda _: threads.add(threading.current_thread()), "value")
    knobs = [knob for column in panel.knobs.box.children for knob in column.children]
    assert len(knobs) == 8
    other = ConnectionBert.from_local(panel.settings["base_model"])
    with held(panel):
        assert "Training on cpu" in said(panel) and panel._bar.max == STEPS
        assert re.fullmatch(rf"step 2 of {STEPS} · \d+ pairs/s · 0:0\d left",
                            panel._numbers.value)
        assert panel._train_button.disabled and not panel._stop_button.disabled
        assert all(knob.disabled for knob in knobs) and not panel._idle.wait(0.01)
        panel.knobs.epochs.value = 9           # by code; by hand it is locked
        with pytest.raises(RuntimeError, match="press Stop in its panel"):     # in a cell
            train(other, ConnectionDataset(SPLITS["train"], other.tokenizer), SPLITS["dev"])
    assert not panel._train_button.disabled and not any(knob.disabled for knob in knobs)
    assert len(threads) == 1 and threading.current_thread() not in threads
    assert len(panel.history.step_losses) == STEPS and ends(panel) == ["finished"]


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
    assert said(panel).endswith(f"saved in {panel.folder}.</span>")
    assert panel._bar.value == panel._bar.max == STEPS


def test_a_run_that_gains_nothing_says_so(new_panel):
    """Common words make the untrained BERT's cosines high, so here it starts at its best."""
    turned = {name: pairs.assign(score=1 - pairs["score"]) for name, pairs in SPLITS.items()}
    panel = ran(new_panel(epochs=1, splits=turned))
    assert ends(panel) == ["finished; kept the starting model"]
    assert "Noticed: kept" in said(panel) and "was not beaten in training" in said(panel)
    assert same_weights(panel.model, ConnectionBert.from_local(panel.settings["base_model"]))


def test_other_settings_go_to_another_folder_and_are_what_is_trained(new_panel):
    panel = ran(new_panel("max", train_share=0.5))
    first, model = panel.folder, panel.model
    panel.knobs.pooling.value = "mean"
    panel.knobs.frozen_layers.value = 1
    ran(panel)
    assert panel.folder != first and same_weights(ConnectionBert.from_local(first), model)
    assert panel.runs["pooling"].tolist() == ["max", "mean"]
    assert panel.runs["frozen"].tolist() == ["nothing", "embeddings, lowest layers: 1"]
    assert panel.runs["train share"].tolist() == ["50%"] * 2 and panel.history.pairs == 2 * 20
    start = ConnectionBert.from_local(panel.settings["base_model"])
    alike = {name: torch.equal(a, b) for (name, a), b in zip(
        start.state_dict().items(), panel.model.state_dict().values())}
    assert {name for name, same in alike.items() if same} == {
        name for name in alike if name.startswith(("bert.embeddings", "bert.encoder.layer.0"))}


def test_equal_settings_give_equal_bits_in_the_panel_and_in_a_cell(new_panel):
    panel = ran(new_panel())
    first, losses = panel.model, panel.history.step_losses
    torch.rand(3)
    alone = ConnectionBert.from_local(panel.settings["base_model"], "mean", 64)
    history = train(alone, ConnectionDataset(SPLITS["train"], alone.tokenizer, 64),
                    SPLITS["dev"], panel.knobs.config)
    assert same_weights(alone, first) and history.step_losses == losses
    assert same_weights(ran(panel).model, first)


# Stop

def test_stop_keeps_the_model_in_a_folder_beside_the_finished_run(new_panel):
    panel = ran(new_panel())
    finished, model = panel.folder, panel.model
    panel.stop()
    assert "Nothing is being trained." in said(panel)
    with held(panel):
        panel._stop_button.click()
        assert "Stopping" in said(panel)
    assert len(panel.history.step_losses) == 2 and not panel._train_button.disabled
    assert panel.folder.name == f"{finished.name}-stopped"
    assert same_weights(ConnectionBert.from_local(panel.folder), panel.model)
    assert same_weights(ConnectionBert.from_local(finished), model)
    assert json.loads((panel.folder / "training.json").read_text())["steps"] == 2
    assert ends(panel)[1].startswith(f"stopped at step 2 of {STEPS}")
    assert f"Stopped at step 2 of {STEPS}" in said(panel) and not is_red(panel)
    with held(panel, STEPS):                   # a new run is not stopped, but by a new stop
        panel.stop()
    assert ends(panel)[2] == "finished" and panel.folder == finished


def test_a_stop_while_the_model_is_loaded_ends_after_the_first_step(new_panel):
    panel = new_panel()
    panel._status.observe(
        lambda change: panel.stop() if "Loading" in change.new else None, "value")
    ran(panel)
    assert ends(panel)[0].startswith(f"stopped at step 1 of {STEPS}")


def test_a_second_panel_does_not_disturb_the_run_and_its_stop_ends_it(new_panel):
    first, second = new_panel(), new_panel("max")
    with held(first):
        for panel in (second, first):          # Train pressed twice is one run, too
            panel.start()
            assert "Another training is running in this kernel." in said(panel)
            assert is_red(panel) and panel._train_button.disabled == (panel is first)
        second.stop()
    assert [end.split(";")[0] for end in ends(first)] == [f"stopped at step 2 of {STEPS}"]
    assert second.runs.empty and ran(second).model.pooling == "max"


# What goes wrong

@pytest.mark.parametrize(("error", "sentence"), [
    (FloatingPointError("step 3: the loss is nan. Lower <learning_rate>."),
     ">step 3: the loss is nan. Lower &lt;learning_rate&gt;."),
    (OSError(28, "No space left on device"), ">OSError: [Errno 28] No space left on device"),
    (MemoryError("too large"), ">step 3: there is not enough memory for 8 pairs at once. "
     "Half the batch_size needs")], ids=str)
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
        started(panel)
    assert sentence in said(panel) and is_red(panel)
    assert ends(panel) == ["failed at step 2"]
    assert panel.model is None and panel.folder is None
    assert "failed at step 2" in panel._table.value and "nan" not in panel._table.value.lower()
    ran(panel)                                 # and the next one is as if nothing had been
    assert ends(panel) == ["failed at step 2", "finished"]


@pytest.mark.parametrize(("changes", "sentence", "step"), [
    ({"train": {"score": 5.0}}, ">row 0: score is 5.0", 0),
    ({"dev": {"sentence1": "a cat", "sentence2": "the dog"}}, "nothing can be ranked", 0),
    ({}, "tiny_bert", 0)], ids=["scores", "equal pairs", "no model"])
def test_what_cannot_be_trained_on_is_a_red_sentence(new_panel, tiny_folder, tmp_path, changes,
                                                     sentence, step):
    panel = new_panel(splits={name: pairs.assign(**changes.get(name, {}))
                              for name, pairs in SPLITS.items()})
    if not changes:
        shutil.rmtree(tiny_folder)
    started(panel)
    assert sentence in said(panel) and is_red(panel)
    assert ends(panel) == [f"failed at step {step}"] and not (tmp_path / "runs").exists()


def test_a_run_that_collapses_is_told_and_the_table_shows_it(new_panel, monkeypatch):
    """The dev cosines all become one; the panel draws them, too."""
    real, calls = ConnectionBert.similarity, []

    def collapsing(self, *pairs, **options):
        calls.append(1)
        cosines = real(self, *pairs, **options)
        return cosines if len(calls) < 3 else np.full_like(cosines, 0.99)

    monkeypatch.setattr(ConnectionBert, "similarity", collapsing)
    panel = started(new_panel())
    assert "The model has collapsed" in said(panel) and is_red(panel)
    assert "lower the learning rate." in said(panel)
    assert ends(panel) == [f"failed at step {STEPS}"] and panel.folder is None


def test_a_model_that_cannot_be_saved_is_kept_and_told(new_panel, monkeypatch):
    panel = ran(new_panel())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_panel, "save_run", full)
    panel.knobs.pooling.value = "max"
    started(panel)
    assert "OSError: [Errno 28] No space left on device" in said(panel) and is_red(panel)
    assert panel.model.pooling == "max" and ends(panel) == ["finished"] * 2
    assert panel.folder is None                # the other run's folder holds another model


# The static twin

def test_a_checked_panel_shows_picture_and_table_and_starts_nothing(new_panel, displayed):
    """As in a notebook whose training was a cell: the panel has no thread of its own."""
    threads, panel = threading.active_count(), new_panel()
    panel._ipython_display_()
    assert displayed[1].empty
    model = ConnectionBert.from_local(panel.settings["base_model"], "mean", 64)
    history = train(model, ConnectionDataset(SPLITS["train"], model.tokenizer), SPLITS["dev"],
                    CONFIG)
    panel.add_run(history, panel.settings)
    panel._ipython_display_()
    before, _, bundle, table = displayed
    assert set(bundle) == {"image/png", "text/plain"} and before != bundle    # no widget view
    assert bundle["text/plain"].startswith("Three panels of the last run")
    assert table.equals(panel.runs) and table["ended"].tolist() == ["finished"]
    assert panel.history is history and threading.active_count() == threads


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

CONNECTED = np.repeat([True, False], [30, 50])
COSINES = np.concatenate([np.random.default_rng(1).normal(0.6, 0.2, 30),
                          np.random.default_rng(2).normal(0.3, 0.2, 50)]).astype(np.float32)


@pytest.fixture
def chooser(tiny_folder):
    return ThresholdPanel(ConnectionBert.from_local(tiny_folder), CONNECTED, COSINES, 0.437)


@pytest.mark.parametrize("threshold", [-0.3, 0.0, 0.7, 1.0])
def test_the_slider_changes_picture_scores_and_confusion(chooser, threshold):
    assert chooser.threshold.value == 0.437
    picture, table = bytes(chooser._image.value), chooser._table.value
    chooser.threshold.value = threshold
    assert bytes(chooser._image.value).startswith(b"\x89PNG")
    assert bytes(chooser._image.value) != picture and chooser._table.value != table
    counts, verdict = chooser.confusion, judge_threshold(CONNECTED, COSINES, threshold)
    assert counts.loc["connected"].sum() == 30 and counts.loc["not connected"].sum() == 50
    assert counts.loc["connected", "said connected"] == verdict["true_positive"]
    assert counts.loc["not connected", "said connected"] == verdict["false_positive"]
    assert f"accuracy {verdict['accuracy']:.3f} · precision {verdict['precision']:.3f}" in \
        chooser._table.value
    assert re.findall(r"<td>(\d+)</td>", chooser._table.value) == [
        str(count) for count in counts.to_numpy().flatten()]


def test_two_texts_get_their_cosine_and_a_verdict_that_flips_at_the_threshold(chooser):
    chooser.sentence1.value, chooser.sentence2.value = "a man plays", "  the dog ran "
    cosine = float(chooser.model.similarity(["a man plays"], ["the dog ran"])[0])
    chooser.threshold.value = cosine - 0.001
    assert chooser._said.value == f"cosine {cosine:.2f}: <b>connected</b>"
    chooser.threshold.value = cosine + 0.001
    assert chooser._said.value == f"cosine {cosine:.2f}: <b>not connected</b>"
    chooser.threshold.value = cosine           # as judge_threshold: from the threshold on
    assert chooser._said.value == f"cosine {cosine:.2f}: <b>connected</b>"
    chooser.sentence1.value, chooser.sentence2.value = "<img src=x>", "<b>cat"
    assert chooser._said.value.startswith("cosine ") and "cat" not in chooser._said.value
    chooser.sentence1.value = "   "
    assert chooser._said.value == "Write two texts, and press Enter."


def test_a_chooser_is_widgets_or_when_checked_picture_and_counts(chooser, displayed,
                                                                 monkeypatch):
    chooser._ipython_display_()
    bundle, table = displayed
    assert set(bundle) == {"image/png", "text/plain"}
    assert "threshold" in bundle["text/plain"] and table.equals(chooser.confusion)
    monkeypatch.delenv("CONNECTION_CHECK")
    chooser._ipython_display_()
    assert displayed[2:] == [chooser.box]
