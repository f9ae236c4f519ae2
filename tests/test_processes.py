"""Two processes train one model: with torchrun, on the CPU, as on two machines."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import slow

from connection_utils import ConnectionBert, ConnectionDataset, TrainingConfig, train
from connection_utils.dataset import LengthBucketedBatches
from connection_utils.ground.paths import ROOT
from connection_utils.long_runs import processes

TOGETHER = Path(__file__).with_name("together.py")
PAIRS = 46
CONFIG = {"epochs": 2, "batch_size": 6, "evaluations_per_epoch": 1, "learning_rate": 1e-3}


def torchrun(*command: object, count: int = 2) -> subprocess.CompletedProcess:
    """Run `command` in `count` processes of one thread each."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
         str(count), *map(str, command)], capture_output=True, text=True, timeout=300,
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def still_folder(make_tiny_folder: Callable[..., Path]) -> Path:
    """A tiny BERT without dropout."""
    return make_tiny_folder(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture(scope="module")
def lively_folder(make_tiny_folder: Callable[..., Path]) -> Path:
    """One with dropout."""
    return make_tiny_folder()


def random_pairs(count: int) -> pd.DataFrame:
    """Texts of 2 to 12 random words, so that no two cosines are near each other."""
    words = np.array("cat dog sat ran mat man woman plays guitar music two park".split())
    rng = np.random.default_rng(12)
    first, second = ([" ".join(words[rng.integers(0, len(words), size)])
                      for size in rng.integers(2, 13, count)] for _ in range(2))
    return pd.DataFrame({"sentence1": first, "sentence2": second,
                         "score": rng.integers(0, 11, count) / 10})


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    """Pairs of unlike lengths, whose scores some batches hold twice."""
    return random_pairs(PAIRS)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, lively_folder: Path, pairs: pd.DataFrame
             ) -> Callable:
    """Train `jobs`, one after the other; returns what each process saw of each of them.

    With ``fails=True``, how torchrun ended.
    """
    def run(*jobs: dict, count: int = 2, fails: bool = False):
        folder = tmp_path_factory.mktemp("together")
        pairs.to_json(folder / "pairs.jsonl", orient="records", lines=True)
        (folder / "jobs.json").write_text(json.dumps([
            {"model": str(lively_folder), "pairs": str(folder / "pairs.jsonl"), **job,
             "config": CONFIG | job.get("config", {})} for job in jobs], default=str))
        done = torchrun(TOGETHER, folder / "jobs.json", count=count)
        if fails:
            assert done.returncode != 0
            return done
        assert done.returncode == 0, done.stderr
        return [[json.loads((folder / f"seen-{job}-{rank}.json").read_text())
                 | {"said": done.stdout} for rank in range(count)] for job in range(len(jobs))]

    return run


def alone(folder: Path, pairs: pd.DataFrame, config: dict):
    """The same training in this one process."""
    model = ConnectionBert.from_local(folder, device="cpu")
    return train(model, ConnectionDataset(pairs, model.tokenizer), pairs,
                 TrainingConfig(**CONFIG | config))


# The same losses as one process

CONFIGS = [
    {}, {"loss": "cosent"}, {"loss": "multiple_negatives_ranking"},
    {"loss": "cosent", "bucket": 2, "freeze_embeddings": True, "average_from": 0.5},
    {"loss": "cosent", "batch_size": 15},     # 46 = 3 * 15 + 1: the last pair is in one process
    {"batch_size": 45},                       # 46 = 45 + 1
]


@pytest.fixture(scope="module")
def without_dropout(together: Callable, still_folder: Path) -> list[list[dict]]:
    """Each of `CONFIGS` trained by two processes, in one go."""
    return together(*({"config": config, "model": still_folder} for config in CONFIGS))


@pytest.mark.parametrize("number", range(len(CONFIGS)), ids=lambda number: "-".join(
    map(str, CONFIGS[number].values())) or "cosine_mse")
def test_two_processes_have_the_losses_of_one(without_dropout, still_folder, pairs, number):
    one, two = alone(still_folder, pairs, CONFIGS[number]), without_dropout[number]
    for each in two:
        assert np.abs(np.subtract(each["losses"], one.step_losses)).max() < 1e-5
        assert np.abs(np.subtract(each["cosines"], one.cosines[-1].numpy())).max() < 1e-5
        assert each["dev"] == pytest.approx([r["dev_spearman"] for r in one.evaluations],
                                            abs=1e-6)
        assert each["pairs"] == one.pairs == 2 * PAIRS
    assert np.ptp(one.step_losses) > 1e-3                  # it does move
    assert two[0]["weights"] == two[1]["weights"]


@pytest.mark.slow
def test_three_processes_have_them_too(together, still_folder, pairs):
    """A batch of 6 and a last one of 4, dealt to three."""
    one, (three,) = alone(still_folder, pairs, {}), together({"model": still_folder}, count=3)
    assert np.abs(np.subtract(three[2]["losses"], one.step_losses)).max() < 1e-5


def test_each_pair_is_seen_once_an_epoch_by_one_of_them(without_dropout):
    for both in without_dropout:
        epochs = [(asked[:len(asked) // 2], asked[len(asked) // 2:])     # as many in each
                  for asked in (each["asked"] for each in both)]
        for first, second in zip(*epochs):
            assert sorted(first + second) == list(range(PAIRS))
            assert abs(len(first) - len(second)) <= 4      # a batch of 15 is dealt as 8 and 7


@pytest.fixture(scope="module")
def with_dropout(together: Callable, tmp_path_factory: pytest.TempPathFactory
                 ) -> list[list[dict]]:
    """A training as it is, one with checkpoints, and one that the second process stops."""
    return together({}, {"config": {"checkpoint_every": 4},
                         "checkpoints": tmp_path_factory.mktemp("checkpoints")},
                    {"at_step": 3, "rank": 1, "then": "stop"})


def test_each_draws_a_dropout_of_its_own(with_dropout, pairs, lively_folder):
    two = with_dropout[0]
    assert two[0]["weights"] == two[1]["weights"]
    one = alone(lively_folder, pairs, {})
    assert np.abs(np.subtract(two[0]["losses"], one.step_losses)).max() > 1e-5


@pytest.mark.parametrize("count", [3, 11])
def test_shares_make_up_the_batches(monkeypatch, count):
    """Also where a batch of 10 has no pair for the last of 11 processes."""
    batches = LengthBucketedBatches(list(range(PAIRS)), 10, bucket=2)
    batches.set_epoch(1, skip=2)
    whole, shares = list(batches), []
    monkeypatch.setattr(processes, "count", lambda: count)
    for rank in range(count):
        monkeypatch.setattr(processes, "rank", lambda: rank)
        shares.append(list(batches))
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(sum(parts, [])) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


# One writes; what one notices, all do

def test_one_process_writes_and_speaks(with_dropout):
    main, other = with_dropout[1]
    assert any(".pt" in path for path in main["wrote"]) and not other["wrote"]
    assert main["said"].count("evaluated") == 8        # 3 starts, 2 epochs, 2 epochs, the stop
    assert main["weights"] == with_dropout[0][0]["weights"]    # checkpoints change nothing


def test_a_stop_in_one_stops_all_after_the_same_step(with_dropout):
    first, second = with_dropout[2]
    assert len(first["losses"]) == len(second["losses"]) == 3
    assert first["weights"] == second["weights"]


@pytest.mark.slow
def test_processes_that_would_train_different_things_are_told(together):
    done = together({"other_pairs": 1}, fails=True)
    assert "would train different things: training pairs is " in done.stderr
    assert "Give all machines the same files" in done.stderr


# A process that dies

@pytest.mark.parametrize("rank", [slow(0), 1])
def test_a_process_that_dies_ends_the_others_and_the_training_goes_on(
        together, with_dropout, tmp_path, rank):
    folder = tmp_path / "checkpoints"
    job = {"config": {"checkpoint_every": 3}, "checkpoints": folder, "at_step": 8,
           "rank": rank, "then": "die"}
    done = together(job, fails=True)
    said = re.findall(r"^process (\d) of 2: another process has died.*"
                      "--resume continues from the last checkpoint.", done.stderr, re.M)
    assert said == [str(1 - rank)]
    assert sorted(path.name[:13] for path in folder.iterdir()) == [
        "step-00000003", "step-00000006"]
    copy = shutil.copytree(folder, tmp_path / "copy")
    goes_on = {"config": {"checkpoint_every": 3, "resume": True}}
    (resumed,) = together(goes_on | {"checkpoints": folder})
    assert resumed[0]["said"].count("going on after step 6") == 1
    for each, whole in zip(resumed, with_dropout[0]):
        assert each["losses"] == whole["losses"] and each["weights"] == whole["weights"]
    if rank:                                     # with one process less it can go on, too
        ((one,),) = together(goes_on | {"checkpoints": copy}, count=1)
        assert len(one["losses"]) == 16 and one["losses"][:6] == with_dropout[0][0]["losses"][:6]


# The command line

def finetune(*options: object, count: int = 2) -> subprocess.CompletedProcess:
    return torchrun("-m", "connection_utils", "finetune", *options, count=count)


@pytest.fixture
def job(tmp_path: Path, still_folder: Path) -> list[object]:
    """Options of a small training."""
    random_pairs(120).to_csv(tmp_path / "pairs.csv", index=False)
    return ["--recipe", "post", "--model", still_folder, "--data", tmp_path / "pairs.csv", "--scale", 0, 1,
            "--output", tmp_path / "model", "--device", "cpu", "--batch-size", 8]


def test_finetune_is_the_same_command(job, tmp_path):
    one = subprocess.run([sys.executable, "-m", "connection_utils", "finetune", *map(str, job)],
                         capture_output=True, text=True, cwd=ROOT)
    assert one.returncode == 0, one.stderr
    alone = ConnectionBert.from_local(tmp_path / "model")
    two = finetune(*job)
    assert two.returncode == 0, two.stderr
    assert "in each of 2 processes" in two.stdout

    def without_speed(said: str) -> list[str]:
        return [re.sub(r" +\d+ pairs/s", "", line) for line in said.splitlines()
                if not line.startswith(("model ", "speed "))]

    assert without_speed(two.stdout) == without_speed(one.stdout)
    both = ConnectionBert.from_local(tmp_path / "model")
    texts = ["a man plays guitar", "the dog ran"]
    assert np.abs(both.encode(texts) - alone.encode(texts)).max() < 1e-4
    assert not (tmp_path / "model-checkpoints").exists()


@pytest.mark.slow
def test_an_error_that_all_have_is_told_once(job, tmp_path):
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2,score\na,b,7\n")
    done = finetune(*job)
    assert done.returncode != 0
    assert done.stderr.count("expected a number from 0 to 1") == 1
    assert "connection_utils/" not in done.stderr                  # no traceback of ours


def test_a_checkpoint_that_names_other_settings_is_another_training():
    """One that an earlier version wrote knows nothing of a newer setting, and the reverse."""
    assert "precision is None there, fp32 here" in processes.differences(
        {"seed": "1"}, {"seed": "1", "precision": "fp32"})
    assert processes.differences({"old": "1"}, {}) == "old is 1 there, None here"
    assert not processes.differences({"seed": "1"}, {"seed": "1"})
