"""The card beside a saved model: read as hubs read it, against the run's own record."""

import json
import re
import socket

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from connection_utils import write_model_card
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig
from connection_utils.dataset import ConnectionDataset
from connection_utils.evaluation import (
    bootstrap_interval,
    choose_threshold,
    judge_threshold,
    spearman,
)
from connection_utils.training import History, train
from connection_utils.use.model_card import model_card
from connection_utils.use.runs import read_run, run_settings, save_run
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

CONFIG = TrainingConfig(epochs=2, batch_size=8, evaluations_per_epoch=2, frozen_layers=1,
                        learning_rate=1e-2, weight_decay=5e-5)    # before and after differ
ODD = ("a|b `c` *d* <script> #e [f](g) $h$ _i_ 'k' \"l\": - ~~m~~ &amp; !n\nnew line\udcff"
       "\x1b[0m")
SEEN = ("a|b `c` *d* <script> #e [f](g) $h$ _i_ 'k' \"l\": - ~~m~~ &amp; !n new line?"
        "?[0m")


@pytest.fixture(scope="module")
def run(make_tiny_folder, make_pairs):
    """A small model that was really trained: (model, history, facts of the run)."""
    pairs = make_pairs(66)
    test = pairs.tail(22)
    model = ConnectionBert.from_local(make_tiny_folder(), max_length=32, device="cpu")
    before = model.similarity(test["sentence1"], test["sentence2"])
    history = train(model, ConnectionDataset(pairs.head(44), model.tokenizer),
                    pairs.iloc[33:55], CONFIG)
    after = model.similarity(test["sentence1"], test["sentence2"])
    assert abs(spearman(test["score"], after) - spearman(test["score"], before)) > 1e-3
    return model, history, {
        "pairs": {"train": 44, "dev": 22, "test": 22},
        "test_spearman_before": spearman(test["score"], before),
        "test_spearman_after": spearman(test["score"], after),
        "test_spearman_interval": bootstrap_interval(test["score"], after),
        "threshold": {"threshold": choose_threshold(test["score"] > 0.5, after),
                      "connected_from": 0.5, "chosen_on": "dev",
                      "test": judge_threshold(test["score"] > 0.5, after, 0.5)}}


@pytest.fixture
def save(run, tmp_path):
    """Save the run as if it came from these data and this base; returns its folder."""
    model, history, facts = run
    facts = {name: fact for name, fact in facts.items() if name != "threshold"}

    def saved(data=DEFAULT_DATA, base=DEFAULT_MODEL, **more):
        folder = tmp_path / "my_run"
        settings = run_settings(base, data, model.pooling, model.max_length, CONFIG)
        save_run(folder, model, history, settings, **facts | more)
        return folder

    return saved


def rows(folder):
    """What a reader sees in the card's tables: name -> value."""
    found = {}
    parsed = MarkdownIt().enable("table").parse(shown(folder))
    cells = ["".join(part.content for part in token.children) for before, token in
             zip(parsed, parsed[1:]) if before.type in ("td_open", "th_open")]
    for name, value in zip(cells[::2], cells[1::2], strict=True):
        found[name] = value
    return found


def shown(folder):
    return ModelCard.load(folder / "README.md").text


def front(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_hubs_read_what_it_is(save, monkeypatch):
    def asked(*_):
        raise AssertionError("the card asks the network")

    monkeypatch.setattr(socket.socket, "connect", asked)
    folder = save()
    data = ModelCard.load(folder / "README.md").data
    assert data.library_name == "sentence-transformers"
    assert data.pipeline_tag == "sentence-similarity" and data.language == "en"
    assert data.base_model.endswith("/all-MiniLM-L6-v2") and "bert" in data.tags
    assert front(folder)["base_model"] == data.base_model


def test_the_tables_hold_the_records_numbers(save):
    folder = save()
    record, found = read_run(folder), rows(folder)
    for name, value in record["config"].items():
        assert found[name] == str(value)
    assert found["frozen_layers"] == "1" and found["weight_decay"] == "5e-05"
    low, high = record["test_spearman_interval"]
    assert found["test, after: 95 % interval"] == f"{100 * low:.2f} to {100 * high:.2f}"
    for when in ("before", "after"):
        assert found[f"test, {when} fine-tuning"] == \
            f"{100 * record[f'test_spearman_{when}']:.2f}"
    best = max(record["evaluations"], key=lambda each: each["dev_spearman"])
    assert found[f"dev, at epoch {best['epoch']:.2f}: these weights"] == \
        f"{100 * best['dev_spearman']:.2f}"
    assert "train 44, dev 22, test 22" in shown(folder)
    assert "cut to 32 tokens" in shown(folder) and "CC BY-SA" in shown(folder)


def test_pairs_of_ones_own_claim_no_benchmark(save):
    folder = save(data="/home/kim/secret/my_pairs.csv", base="/home/kim/secret/my_bert")
    text = (folder / "README.md").read_text()
    assert front(folder)["base_model"] == "my_bert" and "my_pairs.csv. Pairs" in text
    assert "language" not in front(folder)
    for word in ("kim", "STS", "CC BY-SA", "Apache", "MiniLM", "English"):
        assert word not in text


def test_a_run_without_a_test_says_so(run, tmp_path):
    model, history, _ = run
    settings = run_settings("a", DEFAULT_DATA, "mean", 32, CONFIG)
    save_run(tmp_path / "run", model, history, settings, steps=3)
    found = rows(tmp_path / "run")
    assert found["steps"] == "3" and not [name for name in found if name.startswith("test")]
    save_run(tmp_path / "run", model, History(CONFIG), settings)       # stopped at once
    assert rows(tmp_path / "run")["none"] == "not recorded"


def test_the_threshold_is_added_when_it_is_known(save, run):
    folder, threshold = save(), run[2]["threshold"]
    without = (folder / "README.md").read_text()
    assert "None is recorded" in without
    write_model_card(folder)
    assert (folder / "README.md").read_text() == without         # from the same facts
    write_model_card(folder, threshold)
    assert json.loads((folder / "threshold.json").read_text()) == threshold
    assert (f"From cosine {threshold['threshold']:.4f} on, say connected (a score of 0.5 or "
            "more" in shown(folder))
    found = rows(folder)
    assert found["connected_from"] == "0.5" and found["chosen_on"] == "dev"
    assert found["test: accuracy"] == f"{threshold['test']['accuracy']:.3f}"
    assert found["test: true_positive"] == str(threshold["test"]["true_positive"])
    assert "None is recorded" not in shown(folder)
    with_it = (folder / "README.md").read_text()
    write_model_card(folder)                     # from threshold.json
    assert (folder / "README.md").read_text() == with_it
    write_model_card(folder, {"threshold": 0.25})                # another one takes its place
    assert "From cosine 0.2500 on, say connected." in shown(folder)
    save()                                       # other weights: their threshold is not known
    assert "None is recorded" in shown(folder) and not (folder / "threshold.json").exists()


def test_odd_names_are_shown_as_they_are(save):
    folder = save(data=f"there/{ODD}", base=f"here/{ODD}", columns=rf"\|{ODD}\n\\",
                  pairs={ODD: 5}, **{ODD: "1"})
    assert front(folder)["base_model"] == SEEN
    found = rows(folder)
    assert found["columns"] == rf"\|{SEEN}\n\\" and found[SEEN] == "1"
    texts = ["".join(" " if part.type == "softbreak" else part.content
                     for part in token.children)
             for token in MarkdownIt().parse(shown(folder)) if token.type == "inline"]
    assert f"{SEEN}. Pairs: {SEEN} 5." in texts
    assert [text for text in texts if text.startswith(f"{SEEN}, fine-tuned as a siamese")]


@pytest.mark.parametrize("name", ["---", "- a", "yes", "{a}", "12", "@x", "a: b", "null", "%s"])
def test_a_name_stays_a_name_for_yaml_and_in_the_title(run, name):
    model, history, facts = run
    record = {**run_settings(name, DEFAULT_DATA, "mean", 32, CONFIG), **facts,
              "evaluations": history.evaluations}
    card = ModelCard(model_card(name, record))
    assert card.data.base_model == name
    title = MarkdownIt().parse(card.text)[1]
    assert "".join(part.content for part in title.children) == name


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_the_three_ways_to_load_it_run_and_agree(make_tiny_folder, tmp_path, pooling):
    model = ConnectionBert.from_local(make_tiny_folder(), pooling, max_length=7, device="cpu")
    save_run(tmp_path / "run", model, History(CONFIG),
             run_settings("a", "b", pooling, 7, CONFIG))
    blocks = re.findall(r"```python\n(.*?)```", shown(tmp_path / "run"), re.DOTALL)
    assert len(blocks) == 3
    expected = model.similarity(["A man plays a flute."], ["Someone plays an instrument."])
    for block in blocks:
        names = {}
        exec(block.replace("path/to/this/folder", str(tmp_path / "run")), names)
        found = torch.as_tensor(np.asarray(names["cosines"])).flatten()
        torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", [
    lambda card: "# My model\n", lambda card: card.replace("## Limits", "My note.\n"),
    lambda card: card + "My note.\n", lambda card: "My note.\n" + card, lambda card: ""],
    ids=["own", "changed", "appended", "prepended", "emptied"])
def test_a_persons_card_is_never_lost(save, run, change):
    folder = save()
    card = folder / "README.md"
    save()                                       # ours is replaced, as the weights are
    write_model_card(folder, run[2]["threshold"])
    card.write_text(change(card.read_text()))
    theirs = card.read_bytes()
    with pytest.raises(FileExistsError, match=r"README\.md .* somebody changed it"):
        write_model_card(folder, {"threshold": 0.25})
    assert json.loads((folder / "threshold.json").read_text()) == {"threshold": 0.25}
    save(steps=7)                                # the training is saved, their card stays
    assert read_run(folder)["steps"] == 7 and card.read_bytes() == theirs
    run[0].save(folder)                          # ConnectionBert's own save keeps it, too
    assert card.read_bytes() == theirs
    save()
    card.rename(folder.parent / "mine.md")       # what the message says
    write_model_card(folder)
    assert "## Limits" in card.read_text() and "My note" not in card.read_text()


def test_a_card_beside_broken_records_is_somebodys_and_stops_no_saving(save):
    folder = save()
    card = folder / "README.md"
    for record, theirs in (("{", b"\xff not UTF-8"), ("{}", card.read_bytes())):
        (folder / "training.json").write_text(record)
        card.write_bytes(theirs)
        save()
        assert card.read_bytes() == theirs and read_run(folder)["max_length"] == 32


def test_a_card_that_cannot_be_written_leaves_the_saved_model_whole(save, monkeypatch):
    folder = save()
    (folder / "README.md").unlink()
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    monkeypatch.setattr("connection_utils.use.runs.model_card", lambda *_: 1 / 0)
    for write in (save, lambda: write_model_card(folder)):
        with pytest.raises(ZeroDivisionError):
            write()
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    assert [path.name for path in folder.parent.glob(".*")] == []


def test_no_run_no_card(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model was trained with these settings"):
        write_model_card(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_card_survives_a_kill_between_two_renames(save):
    folder = save()
    (folder / "README.md").write_text("mine")
    for write in (save, lambda: ConnectionBert.from_local(hidden).save(folder)):
        hidden = folder.rename(folder.with_name(f".{folder.name}.0123.old"))
        write()
        assert (folder / "README.md").read_text() == "mine" and not hidden.exists()


def test_a_card_that_is_kept_is_reported_and_may_be_read_only(save, capsys):
    folder = save()
    assert not capsys.readouterr().out
    card = folder / "README.md"
    card.write_text("mine")
    card.chmod(0o444)
    save()
    assert "README.md was changed since it was written" in capsys.readouterr().out
    assert card.read_text() == "mine"
