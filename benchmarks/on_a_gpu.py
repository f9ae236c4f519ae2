"""What only a GPU can answer, all in one call of at most 8 minutes.

    python benchmarks/on_a_gpu.py transformers/bert/all-MiniLM-L6-v2 data/stsb \\
        benchmarks/results/on_a_gpu.json

The CUDA tests; notebook 03's training and the recipe `best`; encoding; the largest batch;
packed attention against padded; one process under torchrun with NCCL; sentence-transformers
with the same settings, if it is installed; and whether CPU and GPU agree. What has two
precisions is measured in both, fp32 and (where the GPU really has it) bfloat16.

It needs Python 3.11 to 3.13, torch from 2.11 on, transformers 5, numpy, pandas, scipy and
scikit-learn, no installation of this project and no network. To carry the model to a machine
elsewhere, `float16_folder.py` halves it. Each part is a process of its own: one that fails, or
takes too long, is recorded with what it had found, and the next one runs. The result is
written after each part. ``--smoke`` goes
through all of it on a CPU with a few pairs.
"""

import argparse
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from measuring import ROOT, keep

from connection_utils import (
    RECIPES,
    ConnectionBert,
    ConnectionDataset,
    TrainingConfig,
    connection_loader,
    cosine_mse,
    read_splits,
    spearman,
    train,
)
from connection_utils.training import build_optimizer, build_schedule, training_step

SECONDS = {"sentence_transformers": 100}     # at most, for a part; 75 for the others
# torch 2.11 lets cuDNN plan bfloat16 attention anew for every batch width, which takes up to a
# second each; the other kernels need no plan. For all parts, sentence-transformers' too.
ENVIRONMENT = {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}
AGREE_EMBEDDINGS = 1e-3       # largest difference of a number in an embedding, fp32
AGREE_SPEARMAN = 0.3          # points of test Spearman × 100
Job = argparse.Namespace      # model, data (folders), device, smoke


def pairs_of(job: Job) -> dict[str, pd.DataFrame]:
    """The pairs by split; a few of each in a smoke run."""
    splits = read_splits(job.data, tell=lambda line: None)
    return {name: pairs.head(48) if job.smoke else pairs for name, pairs in splits.items()}


def load(job: Job, device: str | None = None) -> ConnectionBert:
    """The model to start from, on the GPU unless another device is asked for."""
    return ConnectionBert.from_local(job.model, device=device or job.device)


def precisions(job: Job) -> list[str]:
    """What this GPU really has; a smoke run goes through both."""
    real = job.smoke or torch.cuda.is_bf16_supported(including_emulation=False)
    return ["fp32", "bf16"] if real else ["fp32"]


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """In the block, training and encoding run in `precision`; on a CPU without it, too."""
    with patch("connection_utils.speed.precision.resolved", lambda *_: precision):
        yield


def turns_of(job: Job) -> int:
    """How often a speed is measured; the median counts."""
    return 1 if job.smoke else 5


def wait(job: Job) -> None:
    """Until the GPU has done what it was given."""
    if job.device == "cuda":
        torch.cuda.synchronize()


def score(model: ConnectionBert, pairs: pd.DataFrame) -> float:
    """Spearman × 100 of the model's cosines."""
    return 100 * spearman(pairs["score"], model.similarity(pairs["sentence1"],
                                                           pairs["sentence2"]))


def so_far(found: dict[str, object]) -> None:
    """Tell the parent what is known by now: it stays known if the part is ended."""
    print(json.dumps(found), flush=True)


def warmed_up(job: Job, splits: dict[str, pd.DataFrame], device: str | None = None
              ) -> ConnectionBert:
    """A fresh model, after another one was trained a little: no clock sees a cold start."""
    model = load(job, device)
    train(model, ConnectionDataset(splits["train"].head(160), model.tokenizer), splits["dev"],
          TrainingConfig(epochs=1, evaluations_per_epoch=1), tell=lambda sentence: None)
    return load(job, device)


def against(job: Job, ours: Callable[[], float], other: Callable[[], float]
            ) -> dict[str, object]:
    """Two speeds in alternating turns; the ratio is formed within a turn."""
    ours(), other()                                              # warm-up
    turns = [(ours(), other()) for _ in range(turns_of(job))]
    ratios = [a / b for a, b in turns]
    return {"turns": turns, "ratio": statistics.median(ratios), "ratio_min": min(ratios),
            "ratio_max": max(ratios)}


# The parts: each runs in a process of its own and returns what it found

def gpu(job: Job) -> dict[str, object]:
    """Which GPU, and what it has."""
    if job.device != "cuda":
        return {"name": "none: a smoke run on a CPU"}
    facts = torch.cuda.get_device_properties(0)
    return {"name": facts.name, "memory_gib": facts.total_memory / 2**30,
            "compute_capability": f"{facts.major}.{facts.minor}", "cuda": torch.version.cuda,
            "has_bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
            "fp32_matmul_precision": torch.get_float32_matmul_precision(),
            "environment": ENVIRONMENT}


def cuda_tests(job: Job) -> dict[str, object]:
    """tests/test_cuda.py on this device, model and data."""
    sys.path.insert(0, str(ROOT / "tests"))
    import test_cuda

    test_cuda.MODEL, test_cuda.DATA, test_cuda.DEVICE = job.model, job.data, job.device
    result = unittest.TextTestRunner(stream=sys.stderr).run(
        unittest.defaultTestLoader.loadTestsFromModule(test_cuda))
    bad = {str(test): told[-2000:] for test, told in result.failures + result.errors}
    if bad or result.skipped:
        raise AssertionError(f"failed: {bad}, skipped: {result.skipped}")
    return {"passed": result.testsRun}


def trained(job: Job, config: TrainingConfig) -> dict[str, object]:
    """A whole training in each precision: seconds, memory, dev and test Spearman."""
    splits, found = pairs_of(job), {}
    for precision in precisions(job):
        with computing_in(precision):
            model = warmed_up(job, splits)
        before = score(model, splits["test"])
        train_set = ConnectionDataset(splits["train"], model.tokenizer)
        if job.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        with computing_in(precision):
            history = train(model, train_set, splits["dev"], config)
        wait(job)
        found[precision] = {
            "train_seconds": history.seconds,
            "seconds_with_evaluations": time.perf_counter() - started,
            "train_pairs_per_s": history.pairs / history.seconds,
            "peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20
            if job.device == "cuda" else None,
            "dev_spearman": 100 * history.best["dev_spearman"],
            "test_spearman_before": before, "test_spearman": score(model, splits["test"])}
        so_far(found)
    return found


def train_post(job: Job) -> dict[str, object]:
    """Notebook 03's training."""
    return trained(job, RECIPES["post"])


def train_best(job: Job) -> dict[str, object]:
    """The recipe `best`."""
    return trained(job, RECIPES["best"])


def encode(job: Job) -> dict[str, object]:
    """Texts per second, tokenizing included, in batches of 64 and of 512."""
    model, splits = load(job), pairs_of(job)
    texts = list(dict.fromkeys(text for pairs in splits.values()
                               for side in ("sentence1", "sentence2") for text in pairs[side]))
    started = time.perf_counter()
    model.tokenize(texts)
    found: dict[str, object] = {"texts": len(texts),
                                "tokenize_seconds": time.perf_counter() - started}
    for precision in precisions(job):
        found[precision] = {}
        for batch_size in (64, 512):
            seconds = []
            with computing_in(precision):
                for _ in range(1 + turns_of(job)):                      # the first one warms up
                    started = time.perf_counter()
                    model.encode(texts, batch_size=batch_size)
                    seconds.append(time.perf_counter() - started)
                dev = score(model, splits["dev"])
            found[precision][f"batches_of_{batch_size}"] = {
                "texts_per_s": len(texts) / statistics.median(seconds[1:]),
                "dev_spearman": dev}
            so_far(found)
    return found


def cpu_agreement(job: Job) -> dict[str, object]:
    """The same on CPU and GPU, in fp32: embeddings, and a short training without dropout."""
    splits = pairs_of(job)
    texts = [*splits["test"]["sentence1"], *splits["test"]["sentence2"]]
    found: dict[str, object] = {}
    embeddings, losses, scores = [], [], []
    for device in (job.device, "cpu"):
        with computing_in("fp32"):
            model = warmed_up(job, splits, device)
        embeddings.append(model.encode(texts))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with computing_in("fp32"):
            history = train(model, ConnectionDataset(splits["train"], model.tokenizer),
                            splits["dev"], TrainingConfig(epochs=1, train_share=0.2,
                                                          evaluations_per_epoch=1))
        losses.append(history.step_losses)
        scores.append(score(model, splits["test"]))
        found[f"{'cpu' if device == 'cpu' else 'gpu'}_train_pairs_per_s"] = (
            history.pairs / history.seconds)
    found |= {
        "largest_difference_in_an_embedding": float(np.abs(np.subtract(*embeddings)).max()),
        "largest_difference_of_a_loss": float(np.abs(np.subtract(*losses)).max()),
        "test_spearman_gpu": scores[0], "test_spearman_cpu": scores[1],
        "steps": len(losses[0])}
    if not (found["largest_difference_in_an_embedding"] <= AGREE_EMBEDDINGS
            and abs(scores[0] - scores[1]) <= AGREE_SPEARMAN):
        raise AssertionError(f"CPU and GPU disagree: {found}")
    return found


def packed_against_padded(job: Job) -> dict[str, object]:
    """`speed/packing.py` against BERT on padded batches: pairs or texts per second, and the ratio."""
    found: dict[str, object] = {}
    splits, steps = pairs_of(job), 2 if job.smoke else 20
    for precision in precisions(job):
        for batch_size in (16, 64):
            model = load(job)
            optimizer = build_optimizer(model, TrainingConfig())
            schedule = build_schedule(optimizer, 10**6, TrainingConfig())
            batches = list(islice(connection_loader(
                ConnectionDataset(splits["train"], model.tokenizer), batch_size), steps))
            texts = splits["train"]["sentence1"].head(steps * batch_size).tolist()

            def steps_per_second() -> float:
                model.train()
                wait(job)
                started = time.perf_counter()
                pairs = sum(training_step(model, batch, cosine_mse, optimizer, schedule, 1.0)[1]
                            for batch in batches)
                wait(job)
                return pairs / (time.perf_counter() - started)

            tokens = model.tokenize(texts)

            def answer() -> float:
                with patch.object(model, "tokenize", lambda texts: tokens):   # not timed
                    started = time.perf_counter()
                    model.encode(texts, batch_size=batch_size)
                    return len(texts) / (time.perf_counter() - started)

            for name, speed in (("training", steps_per_second), ("encoding", answer)):
                with computing_in(precision):
                    found[f"{name}_{precision}_{batch_size}"] = against(
                        job, speed, lambda: _padded(speed))
            so_far(found)
    return found | {"faster": {name: "packed" if each["ratio"] > 1 else "padded"
                               for name, each in found.items()}}


def _padded(speed: Callable[[], float]) -> float:
    def last_hidden_state(bert, input_ids, attention_mask):
        return bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    with patch("connection_utils.bert.last_hidden_state", last_hidden_state):
        return speed()


def largest_batch(job: Job) -> dict[str, object]:
    """The most pairs of full-length texts that fit into one step, in 95 % of the memory."""
    found = {}
    if job.device == "cuda":         # some room for kernels that are loaded on the way
        torch.cuda.set_per_process_memory_fraction(0.95)
    for precision in precisions(job):
        fits, too_many = 0, None
        size = 4 if job.smoke else 64
        while size != fits and size <= (8 if job.smoke else 65_536):
            with computing_in(precision):
                done = _step_fits(job, size)
            fits, too_many = (size, too_many) if done else (fits, size)
            size = 2 * size if too_many is None else (fits + too_many) // 16 * 8
        found[precision] = {"pairs_that_fit": fits, "pairs_that_do_not": too_many,
                            "tokens_per_text": load(job, "cpu").max_length}
        so_far(found)
    return found


def _step_fits(job: Job, size: int) -> bool:
    model = load(job).train()
    optimizer = build_optimizer(model, TrainingConfig())
    words = torch.randint(len(model.tokenizer), (2 * size, model.max_length))
    batch = {"input_ids": words, "attention_mask": torch.ones_like(words),
             "score": torch.rand(size)}
    try:
        training_step(model, batch, cosine_mse, optimizer,
                      build_schedule(optimizer, 10, TrainingConfig()), 1.0)
        return True
    except RuntimeError as error:    # the allocator, cuBLAS and cuDNN raise different ones
        said = str(error).lower()
        if isinstance(error, torch.OutOfMemoryError) or any(
                words in said for words in ("out of memory", "alloc_failed")):
            return False
        raise
    finally:
        del model, optimizer
        gc.collect()
        if job.device == "cuda":
            torch.cuda.empty_cache()


def one_process_nccl(job: Job) -> dict[str, object]:
    """A group of one: torchrun, NCCL (gloo on a CPU) and DistributedDataParallel for real."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr",
               "127.0.0.1", "--nproc-per-node", "1", __file__, *_arguments(job), "--part",
               "in_a_group"]
    return found_by(command, 60, {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"})


def in_a_group(job: Job) -> dict[str, object]:
    """The same short training alone and, after joining, as a group of one."""
    import torch.distributed as dist

    splits, histories = pairs_of(job), []
    for joining in (False, True):
        if joining:
            dist.init_process_group("cpu:gloo,cuda:nccl" if job.device == "cuda" else "gloo",
                                    timeout=timedelta(seconds=60))
        model = warmed_up(job, splits)
        histories.append(train(
            model, ConnectionDataset(splits["train"].head(1600), model.tokenizer),
            splits["dev"], TrainingConfig(epochs=1, evaluations_per_epoch=1)))
    backend = dist.get_backend_config()
    dist.destroy_process_group()
    alone, group = histories
    return {"backend": str(backend), "steps": len(group.step_losses),
            "largest_difference_of_a_loss": float(np.abs(np.subtract(
                alone.step_losses, group.step_losses)).max()),
            "pairs_per_s_alone": alone.pairs / alone.seconds,
            "pairs_per_s_in_the_group": group.pairs / group.seconds}


def sentence_transformers(job: Job) -> dict[str, object]:
    """One epoch by this series and by their trainer, same settings; pairs per second."""
    from compare_sentence_transformers import SAME, fit_theirs

    try:
        import accelerate
        import datasets
        import sentence_transformers
    except ImportError as error:
        return {"not_measured": f"{error.name} is not installed"}
    pairs = pairs_of(job)["train"].head(2000)
    found: dict[str, object] = {"versions": {
        each.__name__: each.__version__ for each in (sentence_transformers, accelerate,
                                                     datasets)}}
    for precision in precisions(job):
        def ours() -> float:
            model = load(job)
            started = time.perf_counter()
            train_set = ConnectionDataset(pairs, model.tokenizer)
            tokenizing = time.perf_counter() - started
            started = time.perf_counter()           # all of train(), as all of theirs
            with computing_in(precision):
                train(model, train_set, pairs.head(16), replace(SAME, evaluations_per_epoch=1))
            return len(pairs) / (tokenizing + time.perf_counter() - started)

        def theirs() -> float:
            return len(pairs) / fit_theirs(job.model, pairs, job.device, num_train_epochs=1,
                                           bf16=precision == "bf16")[1]

        found[precision] = against(job, ours, theirs)
        so_far(found)
    return found


PARTS = {part.__name__: part for part in (
    gpu, cuda_tests, train_post, encode, cpu_agreement, train_best, packed_against_padded,
    one_process_nccl, sentence_transformers, largest_batch)}


# The parent: one part after the other, and what comes of it

def _arguments(job: Job) -> list[str]:
    return [str(job.model), str(job.data), str(job.output), *["--smoke"] * job.smoke]


class Failed(RuntimeError):
    """A part's process that failed or was ended; `found` is what it had told by then."""

    def __init__(self, why: str, found: dict[str, object]) -> None:
        super().__init__(why)
        self.found = found


def found_by(command: list[str], seconds: float, environment: dict[str, str] = {}
             ) -> dict[str, object]:
    """The JSON in the last line that `command` prints; Failed if it fails or takes longer."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True,
                               env=ENVIRONMENT | environment | os.environ)
    why = ""
    try:
        said, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        why = f"not ended after {seconds:.0f} s\n"
        os.killpg(process.pid, signal.SIGTERM)               # torchrun ends its worker, too
        try:
            said, errors = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, errors = process.communicate()
    lines = [line for line in said.splitlines() if line.startswith("{")]
    found = json.loads(lines[-1]) if lines else {}
    if why or process.returncode:
        raise Failed(f"{errors[-4000:]}\n{why}".strip(), found)
    return found


def run(job: Job, name: str, seconds: float) -> dict[str, object]:
    """One part in a process of its own, ended after `seconds`; here if it is a smoke run."""
    started = time.monotonic()
    try:
        if job.smoke:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                found = PARTS[name](job)
        else:
            found = found_by([sys.executable, __file__, *_arguments(job), "--part", name],
                             max(seconds, 0.1))
    except Failed as error:
        found = error.found | {"failed": str(error)}
    except Exception:
        found = {"failed": traceback.format_exc()[-4000:]}
    return found | {"part_seconds": time.monotonic() - started}


def summary(parts: dict[str, dict]) -> dict[str, str | float]:
    """What notebooks and README show of `parts`; empty if one that it needs failed.

    The training is that at the precision that `train` chooses on this GPU, bfloat16 if it has
    it. Texts per second are those of `encode` in fp32, at the faster of two batch sizes.
    """
    gpu, trained, encoded = (parts.get(name, {"failed": "not measured"})
                             for name in ("gpu", "train_post", "encode"))
    if any("failed" in part for part in (gpu, trained, encoded)):
        return {}
    precision = "bf16" if "bf16" in trained else "fp32"
    n = {name: trained[precision][name]
         for name in ("train_seconds", "train_pairs_per_s", "test_spearman")}
    texts_per_s = max(each["texts_per_s"] for each in encoded["fp32"].values())
    return {"gpu": gpu["name"], "precision": precision, **n, "texts_per_s": texts_per_s,
            "sentence": (
                f"On one {gpu['name']}, the training of notebook 03 takes "
                f"{n['train_seconds']:.0f} s in {precision} (test Spearman × 100: "
                f"{n['test_spearman']:.2f}), and encoding runs at {texts_per_s:,.0f} texts per "
                "second.")}


def main(arguments: list[str] | None = None) -> None:
    """Measure part by part, keep, print; exit status 1 if a part failed."""
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path, help="a local model folder; float16 will do")
    options.add_argument("data", type=Path, help="a folder with train, dev and test files")
    options.add_argument("output", type=Path, help="the JSON file for the result")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS),
                         help="only these (default: all)")
    options.add_argument("--minutes", type=float, default=8, help="for all parts (default: 8)")
    options.add_argument("--commit", help="what is measured, if this is a copy without git")
    options.add_argument("--smoke", action="store_true",
                         help="on a CPU, with a few pairs: does the script itself work?")
    options.add_argument("--part", choices=[*PARTS, "in_a_group"], help=argparse.SUPPRESS)
    job = options.parse_args(arguments)
    os.environ["CONNECTION_CHECK"] = "quick"                         # no bars
    job.device = "cpu" if job.smoke else "cuda"
    if job.part:
        print(json.dumps((PARTS | {"in_a_group": in_a_group})[job.part](job)))
        return
    end, parts = time.monotonic() + 60 * job.minutes, {}
    command = " ".join(["on_a_gpu.py", *_arguments(job)])
    named = {"commit": job.commit} if job.commit else {}
    for name in job.parts:
        parts[name] = run(job, name, min(end - time.monotonic(), SECONDS.get(name, 75)))
        told = parts[name].get("failed", "ended").strip().splitlines()[-1]
        print(f"{name}: {told} ({parts[name]['part_seconds']:.0f} s)", flush=True)
        keep(job.output, command, **named, smoke=job.smoke, parts=parts,
             summary=summary(parts))
    failed = [name for name, found in parts.items() if "failed" in found]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the reasons are in {job.output}")


if __name__ == "__main__":
    main()
