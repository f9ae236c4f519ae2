"""Training on the real model and a slice of the real data."""

import dataclasses
import math

import pytest
import torch

from connection_utils import training
from connection_utils.assets import DEFAULT_DATA, DEFAULT_MODEL
from connection_utils.bert import ConnectionBert
from connection_utils.dataset import ConnectionDataset
from connection_utils.evaluation import spearman
from connection_utils.losses import cosine_mse
from connection_utils.reading import read_splits
from connection_utils.training import (
    TrainingConfig,
    build_optimizer,
    build_schedule,
    read_run,
    run_folder,
    run_settings,
    save_run,
    train,
)
from connection_utils.workspace import ROOT, runs_folder

CONFIG = TrainingConfig(epochs=2, batch_size=8, evaluations_per_epoch=2)


@pytest.fixture(scope="module")
def splits():
    return {name: pairs.sample(96, random_state=1).reset_index(drop=True)
            for name, pairs in read_splits(ROOT / DEFAULT_DATA).items()}


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


def test_the_same_seed_gives_bit_equal_weights(splits, run):
    torch.rand(7)                               # whatever was drawn before plays no part
    again, history = trained(splits, CONFIG)
    for (name, one), other in zip(run[0].state_dict().items(), again.state_dict().values()):
        assert torch.equal(one, other), name
    assert history.step_losses == run[1].step_losses


def test_another_seed_gives_other_weights(splits, run):
    other, _ = trained(splits, dataclasses.replace(CONFIG, seed=13))
    assert not torch.equal(run[0].bert.encoder.layer[0].output.dense.weight,
                           other.bert.encoder.layer[0].output.dense.weight)


def test_history_holds_every_step_and_evaluation(run):
    history = run[1]
    assert len(history.step_losses) == 2 * 96 / 8
    frame = history.to_frame()
    assert frame["step"].tolist() == [6, 12, 18, 24]
    assert frame["epoch"].tolist() == [0.5, 1.0, 1.5, 2.0]
    assert frame["loss"].iloc[0] == pytest.approx(sum(history.step_losses[:6]) / 6)
    assert (frame["seconds"].diff().dropna() > 0).all() and (frame["pairs_per_s"] > 0).all()


def test_training_lowers_the_loss(run):
    losses = run[1].step_losses
    assert sum(losses[-6:]) < sum(losses[:6])


def test_the_weights_of_the_best_evaluation_are_kept(splits, monkeypatch):
    """The second of four evaluations is told to be the best; its weights must come back."""
    model, weights = fresh(), []
    told = iter([0.1, 0.9, 0.2, 0.3])
    monkeypatch.setattr(training, "spearman", lambda scores, cosines: next(told))
    history = train(model, ConnectionDataset(splits["train"], model.tokenizer),
                    splits["dev"], CONFIG, on_evaluation=lambda record: weights.append(
                        model.bert.embeddings.word_embeddings.weight.detach().clone()))
    kept = model.bert.embeddings.word_embeddings.weight
    assert [torch.equal(kept, each) for each in weights] == [False, True, False, False]
    assert history.best["step"] == 12 and not model.training


def test_the_best_dev_spearman_is_what_the_model_now_scores(splits, run):
    model, history = run
    dev = splits["dev"]
    now = spearman(dev["score"], model.similarity(dev["sentence1"], dev["sentence2"]))
    assert now == pytest.approx(history.best["dev_spearman"], abs=1e-9)


def test_training_leaves_the_random_state_alone(splits):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    trained(splits, dataclasses.replace(CONFIG, epochs=1, evaluations_per_epoch=1))
    assert torch.equal(torch.rand(4), expected)


def test_a_diverged_loss_is_told_with_step_and_advice(splits):
    model = fresh()
    broken = ConnectionDataset(splits["train"], model.tokenizer)
    broken.score = [math.inf] * len(broken)
    with pytest.raises(FloatingPointError, match="step 1: the loss is inf.*learning_rate"):
        train(model, broken, splits["dev"], CONFIG)


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


def test_cosine_mse_is_its_definition():
    u, v = torch.randn(5, 8), torch.randn(5, 8)
    score = torch.rand(5)
    by_hand = sum((float(a @ b / (a.norm() * b.norm())) - float(s)) ** 2
                  for a, b, s in zip(u, v, score)) / 5
    assert cosine_mse(u, v, score).item() == pytest.approx(by_hand, rel=1e-5)


def test_cosine_mse_equals_sentence_transformers():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    u, v, score = torch.randn(5, 8), torch.randn(5, 8), torch.rand(5)
    theirs = CosineSimilarityLoss(SentenceTransformer(str(ROOT / DEFAULT_MODEL), device="cpu"))
    expected = theirs.compute_loss_from_embeddings([u, v], score)
    torch.testing.assert_close(cosine_mse(u, v, score), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "value"), [
    ("epochs", 0), ("batch_size", 0), ("learning_rate", 0.0), ("learning_rate", 5.0),
    ("loss", "hinge"), ("warmup_ratio", 2.0), ("evaluations_per_epoch", 0)])
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
    for field in dataclasses.fields(TrainingConfig):
        value = getattr(CONFIG, field.name)
        if field.name != "loss":           # there is one so far
            changed = dataclasses.replace(CONFIG, **{field.name: value / 2 if isinstance(
                value, float) else value + 1})
            settings.append(run_settings(**{**start, "config": changed}))
    folders = [run_folder(each) for each in settings]
    assert len(set(folders)) == len(folders) == 13
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
