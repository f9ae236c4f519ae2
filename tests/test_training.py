"""Training on the real model and a slice of the real data."""

import dataclasses
import itertools
import math
import threading
from array import array
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from cases import contradicting
from transformers import BertModel

from connection_utils import training
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig
from connection_utils.dataset import ConnectionDataset, connection_loader
from connection_utils.evaluation import spearman
from connection_utils.ground.paths import ROOT, runs_folder
from connection_utils.losses import cosine_mse
from connection_utils.pair_files.reading import read_splits
from connection_utils.speed.precision import resolved
from connection_utils.training import (
    History,
    build_optimizer,
    build_schedule,
    freeze,
    train,
    training_step,
)
from connection_utils.use.runs import read_run, run_folder, run_settings, save_run
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

CONFIG = TrainingConfig(epochs=2, batch_size=8, evaluations_per_epoch=2)
SHORT = TrainingConfig(epochs=2, batch_size=4, evaluations_per_epoch=1)   # of `few`: 6 steps


@pytest.fixture(scope="module")
def splits():
    found = {name: pairs.sample(96, random_state=1).reset_index(drop=True)
             for name, pairs in read_splits(ROOT / DEFAULT_DATA).items()}
    return found | {"dev": contradicting(fresh(), found["dev"])}


@pytest.fixture(scope="module")
def few(splits):
    return {name: pairs.head(12) for name, pairs in splits.items()}


def fresh():
    return ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")


def trained(splits, config):
    model = fresh()
    train_set = ConnectionDataset(splits["train"], model.tokenizer)
    records = []
    history = train(model, train_set, splits["dev"], config, on_evaluation=records.append)
    assert records == history.evaluations
    return model, history


@pytest.fixture(scope="module")
def run(splits):
    return trained(splits, CONFIG)


@pytest.fixture(scope="module")
def short_run(few):
    return trained(few, SHORT)


def changed(one, other):
    """The names of the weights in which two models differ in any bit."""
    return {name for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(),
                                         strict=True) if not torch.equal(a, b)}


def in_a_thread(work):
    """What `work()` returns or raises when another thread calls it."""
    result = []

    def call():
        try:
            result.append(work())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(60)
    return result[0]


def test_the_same_seed_gives_bit_equal_weights(few, short_run):
    torch.rand(7)                               # whatever was drawn before plays no part
    again, history = trained(few, SHORT)
    assert not changed(short_run[0], again)
    assert history.step_losses == short_run[1].step_losses


def test_another_seed_gives_other_weights(few, short_run):
    other, _ = trained(few, dataclasses.replace(SHORT, seed=13))
    assert not torch.equal(short_run[0].bert.encoder.layer[0].output.dense.weight,
                           other.bert.encoder.layer[0].output.dense.weight)


def test_history_holds_every_step_and_evaluation(run):
    history = run[1]
    assert len(history.step_losses) == 2 * 96 / 8
    frame = history.to_frame()
    assert frame["step"].tolist() == [0, 6, 12, 18, 24]
    assert frame["epoch"].tolist() == [0, 0.5, 1.0, 1.5, 2.0]
    assert frame["loss"].iloc[1] == pytest.approx(sum(history.step_losses[:6]) / 6)
    assert (frame["seconds"].diff().dropna() > 0).all()
    assert (frame["pairs_per_s"].iloc[1:] > 0).all()
    assert frame.iloc[0][["loss", "pairs_per_s"]].isna().all()
    assert frame["dev_spearman"].iloc[0] == pytest.approx(-1)       # they contradict it


def test_training_lowers_the_loss(run):
    losses = run[1].step_losses
    assert sum(losses[-6:]) < sum(losses[:6])


def test_the_weights_of_the_best_evaluation_are_kept(few, monkeypatch):
    """The second of four evaluations is told to be the best; its weights must come back."""
    model, weights = fresh(), []
    told = iter([0.0, 0.1, 0.9, 0.2, 0.3])
    monkeypatch.setattr(training, "spearman", lambda scores, cosines: next(told))
    history = train(model, ConnectionDataset(few["train"], model.tokenizer), few["dev"],
                    dataclasses.replace(SHORT, evaluations_per_epoch=2),
                    on_evaluation=lambda record: weights.append(
                        model.bert.embeddings.word_embeddings.weight.detach().clone()))
    kept = model.bert.embeddings.word_embeddings.weight
    assert [torch.equal(kept, each) for each in weights] == [False, False, True, False, False]
    assert history.best["step"] == 3 and not model.training


def test_a_training_that_only_harms_gives_the_starting_weights_back(few):
    """A learning rate that destroys the model; its own cosines are the dev scores."""
    model, told, start = fresh(), [], fresh()
    dev = few["dev"].assign(score=start.similarity(few["dev"]["sentence1"],
                                                   few["dev"]["sentence2"]))
    history = train(model, ConnectionDataset(few["train"], model.tokenizer), dev,
                    dataclasses.replace(SHORT, learning_rate=1e-2), tell=told.append)
    assert history.kept_start and history.best["step"] == 0
    assert not changed(start, model)
    assert [record["step"] for record in history.evaluations] == [0, 3, 6]
    (said,) = (sentence for sentence in told if sentence.startswith("kept the starting model"))
    best = max(record["dev_spearman"] for record in history.evaluations[1:])
    assert f"{100 - 100 * best:.2f} lower (95 % interval" in said and "12 dev pairs" in said
    assert "a lower learning_rate (it is 0.01)" in said
    assert ("fewer epochs" in said) == (SHORT.epochs > 1)


def test_without_keep_start_a_training_that_harms_shows_what_it_does(few):
    model, told, start = fresh(), [], fresh()
    dev = few["dev"].assign(score=start.similarity(few["dev"]["sentence1"],
                                                   few["dev"]["sentence2"]))
    history = train(model, ConnectionDataset(few["train"], model.tokenizer), dev,
                    dataclasses.replace(SHORT, learning_rate=1e-2), tell=told.append,
                    keep_start=False)
    assert not history.kept_start and not any("kept the starting" in said for said in told)
    assert [record["step"] for record in history.evaluations] == [0, 3, 6]
    assert changed(start, model)
    now = spearman(dev["score"], model.similarity(dev["sentence1"], dev["sentence2"]))
    assert now == pytest.approx(history.best["dev_spearman"], abs=1e-9)
    assert now == max(record["dev_spearman"] for record in history.evaluations[1:]) < 1


def test_the_best_dev_spearman_is_what_the_model_now_scores(splits, run):
    model, history = run
    dev = splits["dev"]
    now = spearman(dev["score"], model.similarity(dev["sentence1"], dev["sentence2"]))
    assert now == pytest.approx(history.best["dev_spearman"], abs=1e-9)


def test_one_table_for_the_words_gradient_changes_no_bit(few, short_run, monkeypatch):
    model, _ = short_run
    words = model.bert.embeddings.word_embeddings
    assert not words.sparse and not words.weight._post_accumulate_grad_hooks
    monkeypatch.setattr(training, "one_gradient_table", nullcontext)   # autograd's own way
    assert not changed(model, trained(few, SHORT)[0])


def test_training_leaves_the_random_state_alone(splits):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    trained(splits, dataclasses.replace(CONFIG, epochs=1, evaluations_per_epoch=1))
    assert torch.equal(torch.rand(4), expected)


def test_a_diverged_loss_is_told_with_step_and_advice(splits):
    model = fresh()
    broken = ConnectionDataset(splits["train"], model.tokenizer)
    broken.score = array("d", [math.inf] * len(broken))
    with pytest.raises(FloatingPointError, match="step 1: the loss is inf.*learning_rate"):
        train(model, broken, splits["dev"], CONFIG)


# The history

def test_a_history_without_an_evaluation_is_an_empty_table():
    frame = History(TrainingConfig()).to_frame()
    assert frame.empty and "dev_spearman" in frame


def test_only_the_steps_time_is_counted(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    history = History(TrainingConfig(), steps=2)
    now[0] += 5                                            # an evaluation takes time, too
    history.add(0, 0.5, np.zeros(3))
    now[0] += 2
    history.add_step(0.25, 16)
    now[0] += 1
    history.add_step(0.75, 8)
    record = history.add(1, 0.6, np.ones(3))
    assert (record["step"], record["loss"], record["pairs_per_s"]) == (2, 0.5, 24 / 3)
    assert (history.seconds, history.pairs) == (3, 24) and record is history.best
    assert [each.tolist() for each in history.cosines] == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_used_only_where_the_gpu_itself_has_it(monkeypatch, native):
    """A T4 emulates it, and answers True unless it is asked without emulation."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: including_emulation or native)
    assert resolved("auto", torch.device("cuda")) == ("bf16" if native else "fp32")
    assert resolved("auto", torch.device("cpu")) == "fp32"


# stop and on_step

def test_on_step_gets_the_history_so_far_after_each_step(few):
    model, seen = fresh(), []
    config = dataclasses.replace(SHORT, epochs=1)
    history = train(model, ConnectionDataset(few["train"], model.tokenizer), few["dev"], config,
                    on_step=lambda h: seen.append(
                        (len(h.step_losses), h.pairs, len(h.evaluations), h.seconds)))
    assert [each[:3] for each in seen] == [(1, 4, 1), (2, 8, 1), (3, 12, 1)]
    assert 0 < seen[0][3] < seen[1][3] < seen[2][3] == history.seconds
    assert history.steps == 3 and len(history.cosines[-1]) == len(few["dev"])


def test_stop_ends_the_run_after_that_step_and_keeps_the_best_weights(few, monkeypatch):
    """Stopped at step 4 of 6, where no evaluation was due; that of step 3 is told as best."""
    model, stop, weights = fresh(), threading.Event(), []
    told = iter([0.1, 0.9, 0.2])
    monkeypatch.setattr(training, "spearman", lambda scores, cosines: next(told))

    def at_step(history):
        if len(history.step_losses) == 4:
            stop.set()

    history = train(model, ConnectionDataset(few["train"], model.tokenizer), few["dev"], SHORT,
                    lambda record: weights.append(
                        model.bert.embeddings.word_embeddings.weight.detach().clone()),
                    at_step, stop)
    assert len(history.step_losses) == 4 < history.steps == 6
    assert [record["step"] for record in history.evaluations] == [0, 3, 4]
    assert [record["epoch"] for record in history.evaluations] == [
        0, 1, pytest.approx(4 / 3)]
    kept = model.bert.embeddings.word_embeddings.weight
    assert [torch.equal(kept, each) for each in weights] == [False, True, False]
    assert not model.training


def test_a_stop_before_any_evaluation_evaluates_the_step(few):
    model, stop = fresh(), threading.Event()
    stop.set()
    history = train(model, ConnectionDataset(few["train"], model.tokenizer), few["dev"], SHORT,
                    stop=stop)
    assert [record["step"] for record in history.evaluations] == [0, 1]
    assert len(history.step_losses) == 1
    cosines = model.similarity(few["dev"]["sentence1"], few["dev"]["sentence2"])
    assert history.cosines[-1] == pytest.approx(cosines, abs=1e-6)


def test_a_stop_in_an_evaluation_ends_the_run_after_one_more_step(few):
    model, stop = fresh(), threading.Event()
    config = dataclasses.replace(SHORT, evaluations_per_epoch=3)
    history = train(model, ConnectionDataset(few["train"], model.tokenizer), few["dev"], config,
                    on_evaluation=lambda record: record["step"] and stop.set(), stop=stop)
    assert [record["step"] for record in history.evaluations] == [0, 1, 2]   # each but once


def test_a_stop_from_another_thread_ends_the_run_within_a_step(few):
    model, stop, first_step = fresh(), threading.Event(), threading.Event()
    losses, done = [], []

    def press():
        first_step.wait(60)
        stop.set()
        done.append(len(losses))

    def at_step(history):
        losses.append(history.step_losses[-1])
        first_step.set()

    presser = threading.Thread(target=press)
    presser.start()
    history = train(model, ConnectionDataset(few["train"], model.tokenizer), few["dev"], SHORT,
                    on_step=at_step, stop=stop)
    presser.join(60)
    assert 1 <= len(history.step_losses) <= done[0] + 1 < history.steps
    assert history.evaluations[-1]["step"] == len(history.step_losses) and not model.training


# one training at a time, in any thread

def test_training_in_another_thread_gives_bit_equal_weights(few, short_run):
    model, history = in_a_thread(lambda: trained(few, SHORT))
    assert not changed(short_run[0], model)
    assert history.step_losses == short_run[1].step_losses


def test_a_second_training_is_refused_and_the_first_does_not_notice(few, short_run):
    """Even where it is given the very model: its dropout must stay on."""
    model, told = fresh(), []
    train_set = ConnectionDataset(few["train"], model.tokenizer)

    def at_step(history):
        told.append(in_a_thread(lambda: train(model, train_set, few["dev"], SHORT)))
        assert model.training

    history = train(model, train_set, few["dev"], SHORT, on_step=at_step)
    assert {type(error) for error in told} == {RuntimeError}
    assert str(told[0]) == ("another training is running in this process: wait until it has "
                            "ended, or press Stop in its panel")
    assert not changed(short_run[0], model)
    assert history.step_losses == short_run[1].step_losses


def test_loading_a_model_meanwhile_does_not_disturb_the_training(few, short_run, monkeypatch):
    """As a cell may while a panel trains: the loading begins at step 1 and ends at step 3."""
    model, inside, go_on = fresh(), threading.Event(), threading.Event()

    load = BertModel.from_pretrained

    def slowly(*given, **named):
        made = load(*given, **named)
        inside.set()
        go_on.wait(60)
        return made

    monkeypatch.setattr(BertModel, "from_pretrained", slowly)
    loading = threading.Thread(target=fresh)

    def at_step(history):
        if len(history.step_losses) == 1:
            loading.start()
            assert inside.wait(60)
        if len(history.step_losses) == 3:
            go_on.set()
            loading.join(60)

    history = train(model, ConnectionDataset(few["train"], model.tokenizer), few["dev"], SHORT,
                    on_step=at_step)
    assert history.step_losses == short_run[1].step_losses
    assert not changed(short_run[0], model)


def test_after_an_error_the_next_training_runs_as_if_nothing_had_been(few, short_run):
    broken = fresh()
    train_set = ConnectionDataset(few["train"], broken.tokenizer)
    train_set.score = array("d", [math.nan] * len(train_set))
    with pytest.raises(FloatingPointError, match="step 1: the loss is nan"):
        train(broken, train_set, few["dev"], SHORT)
    assert not broken.training

    def pull_the_plug(history):
        raise OSError("pulled")

    model = fresh()
    with pytest.raises(OSError, match="pulled"):
        train(model, ConnectionDataset(few["train"], model.tokenizer), few["dev"], SHORT,
              on_step=pull_the_plug)
    assert not model.training
    assert not changed(short_run[0], trained(few, SHORT)[0])


# freeze and train_share

@pytest.mark.parametrize(("settings", "frozen"), [
    ({"freeze_embeddings": True}, ("bert.embeddings.",)),
    ({"frozen_layers": 2}, ("bert.embeddings.", "bert.encoder.layer.0.",
                            "bert.encoder.layer.1."))], ids=str)
def test_what_is_frozen_keeps_every_bit_and_all_else_learns(few, settings, frozen):
    config = dataclasses.replace(SHORT, epochs=1, learning_rate=1e-3, **settings)
    start, (model, _) = fresh(), trained(few, config)
    names = set(start.state_dict())
    kept = {name for name in names if name.startswith(frozen)}
    assert changed(start, model) == names - kept and kept
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == kept


def test_bucket_decides_which_pairs_share_a_batch(few):
    by_length, again, shuffled = (trained(few, dataclasses.replace(
        SHORT, epochs=1, bucket=bucket))[1].step_losses for bucket in (50, 50, 1))
    assert by_length == again != shuffled
    with pytest.raises(ValueError, match="bucket is 0; expected a whole number, at least 1"):
        TrainingConfig(bucket=0)


def test_a_later_training_with_nothing_frozen_trains_all_again(few, monkeypatch):
    monkeypatch.setattr(training, "spearman", lambda *_, better=itertools.count(): next(better))
    model, start = fresh(), fresh()
    train_set = ConnectionDataset(few["train"], model.tokenizer)
    config = dataclasses.replace(SHORT, epochs=1, learning_rate=1e-3, frozen_layers=5)
    train(model, train_set, few["dev"], config)
    assert len(changed(start, model)) == 16                # the sixth layer's
    train(model, train_set, few["dev"], dataclasses.replace(config, frozen_layers=0))
    assert changed(start, model) == set(start.state_dict())


def test_frozen_weights_are_not_in_the_optimizer():
    model = fresh()
    freeze(model, embeddings=False, layers=4)
    decayed, others = build_optimizer(model, CONFIG).param_groups
    given = {id(p) for p in decayed["params"] + others["params"]}
    assert given == {id(p) for p in model.bert.encoder.layer[4:].parameters()}
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in others["params"]} == {1}


def test_freezing_all_layers_is_refused_before_anything_happens(few):
    model = fresh()
    train_set = ConnectionDataset(few["train"], model.tokenizer)
    with pytest.raises(ValueError, match="frozen_layers is 6, and the model has 6 layers: "
                                         "nothing is left to train. Expected 5 or fewer."):
        train(model, train_set, few["dev"], dataclasses.replace(SHORT, frozen_layers=6))
    assert not changed(fresh(), model) and not model.training
    freeze(model, embeddings=True, layers=5)               # one layer is enough
    assert {p.requires_grad for p in model.bert.encoder.layer[5].parameters()} == {True}


def test_a_share_of_the_pairs_is_what_is_trained_on(few):
    config = dataclasses.replace(SHORT, train_share=0.5)
    one, history = trained(few, config)
    assert history.pairs == 2 * 6 and history.steps == len(history.step_losses) == 4
    other, again = trained(few, config)
    assert not changed(one, other) and again.step_losses == history.step_losses
    drawn = ConnectionDataset(few["train"], one.tokenizer).sample(0.5, config.seed)
    history = train(fresh(), drawn, few["dev"], SHORT)
    assert history.pairs == 2 * 6 and again.step_losses == history.step_losses


def test_without_a_share_all_pairs_are_seen_in_each_epoch(short_run):
    assert short_run[1].pairs == 2 * 12


@pytest.mark.parametrize("bound", [0.01, 1e6])
def test_gradients_longer_than_max_grad_norm_are_cut_to_it(tiny_folder, make_pairs, bound):
    """Plain SGD with a rate of 1 moves the weights by the gradient itself."""
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    before = [p.detach().clone() for p in model.parameters()]
    batch = next(iter(connection_loader(ConnectionDataset(make_pairs(8), model.tokenizer), 8)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    training_step(model, batch, cosine_mse, optimizer,
                  torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1), bound)
    moved = torch.nn.utils.get_total_norm(
        [p.detach() - old for p, old in zip(model.parameters(), before)]).item()
    assert moved == pytest.approx(bound, rel=1e-3) if bound < 1 else 0.01 < moved < bound


def test_schedule_climbs_for_the_warm_up_and_falls_to_zero():
    model = fresh()
    optimizer = build_optimizer(model, CONFIG)
    schedule = build_schedule(optimizer, 100, CONFIG)
    rates = []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0 and rates[10] == max(rates) == 5e-5 and rates[100] == 0
    assert rates[5] == pytest.approx(2.5e-5) and rates[55] == pytest.approx(2.5e-5)


def test_biases_and_layer_norms_are_not_decayed():
    model = fresh()
    decayed, others = build_optimizer(model, CONFIG).param_groups
    assert decayed["weight_decay"] == 0.01 and others["weight_decay"] == 0
    assert {p.ndim for p in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_training_with_cosent_lowers_the_loss(few):
    config = TrainingConfig(epochs=6, batch_size=12, loss="cosent", learning_rate=1e-4,
                            evaluations_per_epoch=1)       # each batch holds all pairs
    losses = trained(few, config)[1].step_losses
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


@pytest.mark.parametrize(("name", "value"), [
    ("epochs", 0), ("batch_size", 0), ("learning_rate", 0.0), ("learning_rate", 5.0),
    ("loss", "hinge"), ("warmup_ratio", 2.0), ("evaluations_per_epoch", 0),
    ("checkpoint_every", -1),
    ("frozen_layers", -1), ("train_share", 0.0), ("train_share", -0.5), ("train_share", 1.5),
    ("train_share", math.nan)])
def test_a_setting_that_cannot_work_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        TrainingConfig(**{name: value})


def test_every_setting_leads_to_a_folder_of_its_own():
    """Or a reader's odd run would take the place of the model that 04 expects."""
    start = {"model_dir": "transformers/bert/a", "data": "data/stsb", "pooling": "mean",
             "max_length": 128, "config": CONFIG}
    other = {"model_dir": "elsewhere/a", "data": "elsewhere/stsb", "pooling": "cls",
             "max_length": 64}
    settings = [run_settings(**start)]
    settings += [run_settings(**{**start, name: value}) for name, value in other.items()]
    decide = []
    for field in dataclasses.fields(TrainingConfig):
        value = getattr(CONFIG, field.name)
        changed = ({"loss": "cosent", "precision": "bf16"}[field.name] if field.type is str
                   else not value if field.type is bool
                   else value / 2 or 0.5 if field.type is float else value + 1)
        config = dataclasses.replace(CONFIG, **{field.name: changed})
        if field.name in ("checkpoint_every", "resume"):     # how it survives, not what it is
            assert run_settings(**{**start, "config": config}) == settings[0]
        else:
            decide.append(run_settings(**{**start, "config": config}))
    settings += decide
    folders = [run_folder(each) for each in settings]
    assert len(set(folders)) == len(folders) == 5 + len(dataclasses.fields(TrainingConfig)) - 2
    assert folders[0].parent == runs_folder()
    assert folders[0].name.startswith("a-stsb-mean-cosine_mse-lr5e-05-bs8-ep2-seed12-")


def test_either_slash_means_the_same_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert run_settings(r"transformers\bert\a", ROOT / "data/stsb", "mean", 128, CONFIG) == \
        run_settings("./transformers/bert/a", r"data\stsb", "mean", 128, CONFIG)


def test_a_run_is_saved_and_checked_on_reading(run, tmp_path):
    model, history = run
    settings = run_settings("a", "here", "mean", 128, CONFIG)
    save_run(tmp_path / "run", model, history, settings, pairs={"train": 96})
    record = read_run(tmp_path / "run", settings)
    assert record["evaluations"] == history.evaluations and record["pairs"]["train"] == 96
    with pytest.raises(ValueError, match="max_length is 128, expected 64.*notebook 03"):
        read_run(tmp_path / "run", {**settings, "max_length": 64})
    with pytest.raises(FileNotFoundError, match="no model was trained with these settings"):
        read_run(tmp_path / "elsewhere")
