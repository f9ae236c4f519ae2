"""A training that is killed, cut off or interrupted goes on, bit for bit."""

import dataclasses
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

import pytest
import torch
from cases import chosen, contradicting, slow

from connection_utils import remove_checkpoints
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig
from connection_utils.dataset import ConnectionDataset
from connection_utils.ground.whole_files import sha256_of
from connection_utils.training import train

CONFIG = TrainingConfig(epochs=2, batch_size=4, evaluations_per_epoch=2, checkpoint_every=3)
STEPS = 2 * 10                                       # of 40 pairs


class PowerCut(Exception):
    """What a test raises in the midst of a training."""


@pytest.fixture
def start(tiny_folder, make_pairs, tmp_path):
    """Train the tiny BERT on 40 pairs; `at` calls something after a step."""
    pairs = make_pairs(40)

    def run(config=CONFIG, at=None, folder=tmp_path / "checkpoints", dev=contradicting,
            **options):
        model = ConnectionBert.from_local(tiny_folder, device="cpu")
        done = {}

        def on_step(history):
            done["history"] = history
            for step, act in (at or {}).items():
                if len(history.step_losses) == step:
                    act()

        told = []
        run.told, run.model, run.done = told, model, done
        history = train(model, ConnectionDataset(pairs, model.tokenizer),
                        dev(model, pairs.head(20)), config, on_step=on_step,
                        checkpoints=folder, tell=told.append, **options)
        return model, history

    run.folder = tmp_path / "checkpoints"
    return run


def cut():
    raise PowerCut


def plain(history):
    """The evaluations without what a clock decides."""
    return [{name: value for name, value in record.items()
             if name not in ("seconds", "pairs_per_s")} for record in history.evaluations]


def assert_the_same(one, other):
    (model, history), (again, its_history) = one, other
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(),
                            strict=True):
        assert torch.equal(a, b), name
    assert history.step_losses == its_history.step_losses
    assert plain(history) == plain(its_history) and history.pairs == its_history.pairs


def resumed(config=CONFIG):
    return dataclasses.replace(config, resume=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Bit-equal

@pytest.mark.parametrize("at", [1, 3, 4, 5, 9, 10, 11, 13, 19, 20])
def test_a_training_that_was_cut_off_ends_with_the_same_bits(start, tmp_path, at):
    """Before the first checkpoint, on one, at an evaluation, at an epoch's end, at the end."""
    whole = start(folder=tmp_path / "whole")
    with pytest.raises(PowerCut):
        start(at={at: cut})
    assert_the_same(whole, start(resumed()))


@pytest.mark.parametrize("settings", [
    {"loss": "cosent", "average_from": 0.4}, {"average_from": 0.2, "start_share": 0.3},
    {"freeze_embeddings": True}, {"frozen_layers": 1}, {"bucket": 4}, {"train_share": 0.7},
    {"batch_size": 2}, {"seed": 3}, {"precision": "bf16"},
], ids=lambda settings: "-".join(settings))
def test_whatever_the_settings(start, tmp_path, settings, monkeypatch):
    monkeypatch.setattr("connection_utils.speed.precision.has_bf16", lambda device: True)
    config = dataclasses.replace(CONFIG, **settings)
    whole = start(config, folder=tmp_path / "whole")
    with pytest.raises(PowerCut):
        start(config, at={8: cut})
    assert_the_same(whole, start(resumed(config)))


def test_cut_off_again_and_again(start, tmp_path):
    whole = start(folder=tmp_path / "whole")
    for at in (4, 7, 11, 17):
        with pytest.raises(PowerCut):
            start(resumed(), at={at: cut})
    assert_the_same(whole, start(resumed()))


def agreeing(model, pairs):
    """`pairs` scored as `model` scores them: no training can beat it."""
    return pairs.assign(score=model.similarity(pairs["sentence1"], pairs["sentence2"]))


def test_the_starting_model_is_kept_across_an_interruption_too(start, tmp_path):
    """Cut off at step 0, before the first checkpoint, and after the first evaluation."""
    whole = start(folder=tmp_path / "whole", dev=agreeing)
    (kept,) = (said for said in start.told if said.startswith("kept the starting model"))
    with pytest.raises(PowerCut):
        start(dev=agreeing, on_evaluation=lambda record: cut())
    for at in (2, 8):
        with pytest.raises(PowerCut):
            start(resumed(), at={at: cut}, dev=agreeing)
    model, history = start(resumed(), dev=agreeing)
    assert_the_same(whole, (model, history))
    assert history.kept_start and start.told[-1] == kept
    assert len(history.cosines) == len(whole[1].cosines) == len(history.evaluations)
    for one, other in zip(history.cosines, whole[1].cosines):
        assert torch.equal(one, other)


def test_checkpoints_change_nothing(start, tmp_path):
    without = start(dataclasses.replace(CONFIG, checkpoint_every=0), folder=None)
    assert_the_same(without, start())


def test_the_newest_two_are_kept_and_removed_at_the_end(start):
    start()
    assert names(start.folder) == ["step-00000015.pt", "step-00000018.pt"]
    remove_checkpoints(start.folder)
    assert not start.folder.exists()


def test_a_file_of_somebody_else_in_the_folder_stays(start):
    start()
    (start.folder / "notes.txt").write_text("mine")
    remove_checkpoints(start.folder)
    assert names(start.folder) == ["notes.txt"]


# Damaged, foreign, in the way

def flip_in_the_directory(path):
    """A size in the zip's own list of its parts, which no checksum covers."""
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 21] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [
    flip_in_the_directory,
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    lambda path: path.write_bytes(path.read_bytes()[:5000] + b"\0" + path.read_bytes()[5001:]),
], ids=["a bit in the directory", "truncated", "empty", "first bit", "a byte in the midst"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(start, tmp_path, damage):
    whole = start(folder=tmp_path / "whole")
    with pytest.raises(PowerCut):
        start(at={11: cut})
    before, newest = sorted(start.folder.iterdir())
    damage(newest)
    assert_the_same(whole, start(resumed()))
    said, going_on = start.told[:2]
    assert newest.name in said and "damaged" in said and "one before" in said
    assert "after step 6" in going_on and before.name in going_on


def test_where_all_are_damaged_the_training_begins_anew(start, tmp_path):
    whole = start(folder=tmp_path / "whole")
    with pytest.raises(PowerCut):
        start(at={11: cut})
    for path in start.folder.iterdir():
        path.write_bytes(b"torn")
    assert_the_same(whole, start(resumed()))
    assert sum("is damaged" in said for said in start.told) == 2


@pytest.mark.parametrize(("settings", "said"), [
    ({"learning_rate": 1e-4}, "learning_rate is 5e-05 there, 0.0001 here"), ({"seed": 1}, "seed"),
    ({"train_share": 0.5}, "training pairs"), ({"precision": "bf16"}, "precision is fp32 there")])
def test_a_checkpoint_of_another_run_is_never_taken(start, settings, said, monkeypatch):
    monkeypatch.setattr("connection_utils.speed.precision.has_bf16", lambda device: True)
    with pytest.raises(PowerCut):
        start(at={4: cut})
    with pytest.raises(ValueError, match=f"of another training.*{said}"):
        start(dataclasses.replace(resumed(), **settings))


def test_auto_and_what_it_chooses_are_the_same_run(start, tmp_path):
    whole = start(folder=tmp_path / "whole")
    with pytest.raises(PowerCut):
        start(at={8: cut})
    assert_the_same(whole, start(dataclasses.replace(resumed(), precision="fp32")))


def test_work_in_the_folder_is_not_overwritten(start):
    with pytest.raises(PowerCut):
        start(at={4: cut})
    with pytest.raises(FileExistsError, match="resume=True .--resume. goes on"):
        start()
    assert len(names(start.folder)) == 1


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_checkpoint_that_would_run_code_is_not_opened(start, tmp_path):
    with pytest.raises(PowerCut):
        start(at={4: cut})
    marker = tmp_path / "ran"
    torch.save({"run": Malicious(marker)}, start.folder / "step-00000099.pt")
    start(resumed())
    assert any("is damaged" in said and "00000099" in said for said in start.told)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malicious(marker)))         # the trap does bite
    assert marker.exists()


def test_checkpoints_want_a_folder(start):
    for settings in ({"checkpoint_every": 3}, {"checkpoint_every": 0, "resume": True}):
        with pytest.raises(ValueError, match="need a folder"):
            start(dataclasses.replace(CONFIG, **settings), folder=None)


# No space

@contextmanager
def largest_file(size):
    """Writing past `size` bytes fails with an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_is_told_and_the_last_good_checkpoint_stays(start, tmp_path):
    whole = start(folder=tmp_path / "whole")
    limits = []

    def fill():
        limits.append(largest_file(1000))
        limits[-1].__enter__()

    try:
        ended = start(at={4: fill})
    finally:
        limits[0].__exit__(None, None, None)
    assert_the_same(whole, ended)
    good, = names(start.folder)
    assert good == "step-00000003.pt"
    said = [each for each in start.told if "no checkpoint could be written" in each]
    assert [each.split(":")[0] for each in said] == [f"step {n}" for n in (6, 9, 12, 15, 18)]
    assert "File too large). The training goes on" in said[0]
    assert f"The last good one is {good}" in said[0]
    assert_the_same(whole, start(resumed()))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="wants to mount")
def test_a_disk_that_is_really_full(start, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1300k", "tmpfs", disk],
                             capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        start(folder=disk / "checkpoints")
        assert any("No space left on device" in said for said in start.told), start.told
        whole = names(disk / "checkpoints")
        assert whole and all(re.fullmatch(r"step-\d{8}\.pt", name) for name in whole)
        _, history = start(resumed(), folder=disk / "checkpoints")
        assert len(history.step_losses) == STEPS
    finally:
        subprocess.run(["umount", disk], check=True)


# Ctrl-C

def test_an_interrupt_leaves_a_usable_model_and_says_how_to_go_on(start, tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)   # a shell's background ignores it
    whole = start(folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(at={7: lambda: os.kill(os.getpid(), signal.SIGINT)})
    history = start.done["history"]
    assert len(history.step_losses) == 7 and history.evaluations[-1]["step"] == 7
    assert not start.model.training
    assert len(start.model.similarity(["a cat"], ["the dog"])) == 1
    assert "interrupted after step 7 of 20" in start.told[-1]
    assert "resume=True" in start.told[-1] and str(start.folder) in start.told[-1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_the_same(whole, start(resumed()))


def test_an_interrupt_without_checkpoints_says_how_to_have_them(start):
    with pytest.raises(KeyboardInterrupt):
        start(dataclasses.replace(CONFIG, checkpoint_every=0), folder=None,
              at={2: lambda: os.kill(os.getpid(), signal.SIGINT)})
    assert "checkpoint_every=" in start.told[-1]


# Killed for real

TRAIN_AND_DIE = """
import json, os, signal, sys, time
from pathlib import Path
import torch
from connection_utils import bert, training
from connection_utils.commands import finetune
from connection_utils.long_runs import checkpoint
from connection_utils.use import runs  # once, for all forks

torch.set_num_threads(1)
model, data = sys.argv[1:3]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def before(module, name, nth, act=die):         # the nth call, or each of them
    real, calls = getattr(module, name), []
    def call(*given, **named):
        calls.append(1)
        if nth in (None, len(calls)):
            act(*given, **named)
        return real(*given, **named)
    setattr(module, name, call)

def half(state, file):
    file.write(b"PK half of a checkpoint")
    file.flush()
    die()

def half_a_record(path, *_, **__):
    if path.name == "training.json":
        path.write_bytes(b'{"base_mod')
        die()

def full(*_, **__):
    raise OSError(28, "No space left on device")

WHEN_SAVED = {"full": lambda: before(
    bert, "write_siamese_settings", None, full)}
POINTS = WHEN_SAVED | {
    "checkpoint, half written": lambda: before(torch, "save", 3, half),
    "checkpoint, written, not in place": lambda: before(os, "replace", 3),
    "checkpoint, in place, old ones not removed": lambda: before(checkpoint, "_paths", 4),
    "first checkpoint, half written": lambda: before(torch, "save", 1, half),
    "best model, half written": lambda: before(bert, "write_siamese_settings", 1),
    "history, half written": lambda: before(Path, "write_text", None, half_a_record),
    "best model and history, written, not in place": lambda: before(os, "rename", 5),
    "best model and history, between two renames": lambda: before(os, "rename", 6),
    "output tried, between two renames": lambda: before(os, "rename", 2),
    "best model in place, checkpoints not removed": lambda: before(
        checkpoint, "remove_checkpoints", 1),
}

def run(folder, point, *more):
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        log = os.open(str(Path(folder).parent / "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        if point in POINTS:
            POINTS[point]()
        try:
            finetune.main(["--recipe", "post", "--model", model, "--data", data, "--output", folder, "--epochs", "3",
                           "--batch-size", "4", "--checkpoint-every", "5", "--device", "cpu",
                           *more])
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return pid

for line in sys.stdin:                                # a case a line
    folder, point, seconds, *more = json.loads(line)
    started = time.monotonic()
    pid = run(folder, point, *more)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    print(json.dumps([os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status),
                      time.monotonic() - started]), flush=True)
"""


@pytest.fixture(scope="module")
def process(make_tiny_folder, make_pairs, tmp_path_factory):
    """Runs finetune in processes of their own: (folder, point, seconds) -> how it ended.

    A run takes one core; there are two servers, so that two threads may call it at a time.
    """
    data = tmp_path_factory.mktemp("data") / "pairs.csv"
    make_pairs(80).to_csv(data, index=False)
    command = [sys.executable, "-c", TRAIN_AND_DIE, str(make_tiny_folder()), str(data)]
    servers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                text=True) for _ in range(2)]
    free = SimpleQueue()
    for server in servers:
        free.put(server)

    def run(folder, point=None, seconds=None, *more):
        server = free.get()
        server.stdin.write(json.dumps([str(folder), point, seconds, *more]) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        free.put(server)
        assert answer, "the server died"
        return json.loads(answer)

    yield run
    for server in servers:
        server.stdin.close()
        server.wait(30)


def what_stands(folder):
    """The weights' hash, and the record without what a clock decides."""
    record = json.loads((folder / "training.json").read_text())
    for each in record["evaluations"]:
        del each["seconds"], each["pairs_per_s"]
    return sha256_of(folder / "model.safetensors"), record


@pytest.fixture(scope="module")
def unkilled(process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unkilled") / "run"
    killed, code, seconds = process(folder)
    assert (killed, code) == (False, 0), (folder.parent / "log").read_text()
    return what_stands(folder), seconds


def assert_it_goes_on(process, folder, expected):
    assert process(folder, None, None, "--resume")[:2] == [False, 0], (
        folder.parent / "log").read_text()
    assert what_stands(folder) == expected
    assert names(folder.parent) == ["log", folder.name]      # no checkpoint, no litter


MOMENTS = range(10)                    # two of them, and three points, are in every run
INSIDE = [line.split('"')[1] for line in TRAIN_AND_DIE.splitlines()
          if line.startswith('    "') and "lambda" in line]


def kill_at(moment, process, unkilled, folder):
    expected, seconds = unkilled
    moment = random.Random(moment).uniform(0.02, 0.98) * seconds
    killed, _, _ = process(folder, None, moment)
    assert killed or folder.exists()                  # else it was done before its time
    assert_it_goes_on(process, folder, expected)


def kill_inside(point, process, unkilled, folder):
    expected, _ = unkilled
    if "two renames" in point:                        # there must be one to replace
        assert process(folder)[:2] == [False, 0]
    killed, code, _ = process(folder, point)
    assert killed and code == -signal.SIGKILL, (folder.parent / "log").read_text()
    assert_it_goes_on(process, folder, expected)


@pytest.fixture(scope="module")
def killed(request, process, unkilled, tmp_path_factory):
    """Each case killed and gone on with, two at a time; its future raises what is wrong."""
    with ThreadPoolExecutor(2) as pool:
        yield {case: pool.submit(kill_at if case in MOMENTS else kill_inside, case, process,
                                 unkilled, tmp_path_factory.mktemp("killed") / "run")
               for case in (*chosen(request, "moment"), *chosen(request, "point"))}


@pytest.mark.parametrize("moment", [*MOMENTS[:2], *map(slow, MOMENTS[2:])])
def test_killed_at_any_moment_it_ends_with_the_same_bits(killed, moment):
    killed[moment].result()


@pytest.mark.parametrize("point", [
    point if point in INSIDE[::3] else slow(point) for point in INSIDE])
def test_killed_inside_a_write_it_ends_with_the_same_bits(killed, point):
    killed[point].result()


def test_a_disk_that_is_full_when_the_model_is_saved_costs_nothing(process, unkilled, tmp_path):
    folder = tmp_path / "run"
    assert process(folder, "full")[:2] == [False, 1]
    said = (tmp_path / "log").read_text()
    assert f"could not be saved to {folder}: [Errno 28] No space left on device" in said
    assert "run the same command with --resume" in said and not folder.exists()
    assert_it_goes_on(process, folder, unkilled[0])


def test_a_finished_run_is_not_trained_again(process, unkilled, tmp_path):
    folder = tmp_path / "run"
    process(folder)
    before = what_stands(folder)
    assert process(folder, None, None, "--resume")[:2] == [False, 0]
    assert "nothing to do" in (tmp_path / "log").read_text()
    assert what_stands(folder) == before == unkilled[0]
