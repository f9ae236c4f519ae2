"""Where the time of a training step goes, and what this machine's matrix products allow.

    python benchmarks/where_the_time_goes.py --steps 60

Real steps of `connection_utils.training` on batches drawn across the training set, timed
part by part. Beside it the same matrix products (shapes and memory layout recorded from
the step, forward and backward) are run by themselves: the share of that speed which the
training reaches says what is left to win without fewer or smaller products. The same is done
for encoding, and in another process the memory is read from the imports to the last step.
The result goes to benchmarks/results/ as JSON.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from unittest.mock import patch

import psutil
import torch
from compare_sentence_transformers import peak_memory_mib
from measuring import RESULTS, in_a_process, keep, parser, tokens_per_pair
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from connection_utils import (
    ConnectionBert,
    ConnectionDataset,
    TrainingConfig,
    connection_loader,
    cosine_mse,
    load_tokenizer,
    pad_batch,
    read_splits,
)
from connection_utils.ground.paths import ROOT
from connection_utils.speed.gradient_table import one_gradient_table
from connection_utils.speed.precision import has_bf16
from connection_utils.training import build_optimizer, build_schedule, freeze, training_step
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

BUCKET = 50          # batches' worth of pairs that are sorted by length, to compare with
PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default,
            torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default}


class Recorder(TorchDispatchMode):
    """The matrix products that run inside it: operation, and each operand's layout."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[Callable, list[tuple]]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in PRODUCTS:
            self.products.append((operation, [(tuple(a.shape), a.stride(), a.dtype)
                                              for a in args if isinstance(a, torch.Tensor)]))
        return operation(*args, **(kwargs or {}))

    def seconds_alone(self) -> float:
        """The same products on random numbers, one after the other; the better of two."""
        ready = [(operation, [_random(*layout) for layout in operands])
                 for operation, operands in self.products]
        best = float("inf")
        for _ in range(2):
            started = time.perf_counter()
            for operation, operands in ready:
                operation(*operands)
            best = min(best, time.perf_counter() - started)
        return best


def _random(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype
            ) -> torch.Tensor:
    """Random numbers in this layout, which may visit a place in memory twice."""
    places = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides))
    return torch.rand(places).to(dtype).as_strided(shape, strides)


def timed(function: Callable, seconds: dict[str, float], part: str) -> Callable:
    """`function`, which adds its time to ``seconds[part]``."""
    @wraps(function)
    def wrapper(*args, **kwargs):
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += time.perf_counter() - started
    return wrapper


def measure(steps: int, config: TrainingConfig) -> dict[str, object]:
    """Time of the parts of a step, and the share of the matrix products' own speed."""
    torch.manual_seed(config.seed)
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    dataset = ConnectionDataset(read_splits(ROOT / DEFAULT_DATA)["train"], model.tokenizer)
    loader = connection_loader(dataset, config.batch_size, config.seed,
                               bucket=config.bucket)
    freeze(model, config.freeze_embeddings, config.frozen_layers)
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, len(loader), config)
    model.train()
    seconds: dict[str, float] = defaultdict(float)
    pairs = flops = 0
    alone = whole = 0.0

    def step(loss: Callable) -> None:
        training_step(model, batch, loss, optimizer, schedule, config.max_grad_norm,
                      config.precision)

    batches = iter(loader)
    with one_gradient_table(model.bert.embeddings.word_embeddings):
        for number in range(-3, steps):                            # three to warm up
            started = time.perf_counter()
            batch = next(batches)
            if number < 0:
                step(cosine_mse)
                continue
            seconds["making the batch"] += time.perf_counter() - started
            with (patch.object(ConnectionBert, "forward", timed(ConnectionBert.forward, seconds,
                                                                "forward")),
                  patch.object(torch.Tensor, "backward", timed(torch.Tensor.backward, seconds,
                                                               "backward")),
                  patch("torch.nn.utils.clip_grad_norm_", timed(
                      torch.nn.utils.clip_grad_norm_, seconds, "clipping")),
                  patch.object(optimizer, "step", timed(optimizer.step, seconds, "optimizer"))):
                step(timed(cosine_mse, seconds, "loss"))
            whole += time.perf_counter() - started
            pairs += len(batch["score"])
            with FlopCounterMode(display=False) as counter, Recorder() as recorder:
                step(cosine_mse)
            flops += counter.get_total_flops()
            alone += recorder.seconds_alone()
    seconds["rest"] = whole - sum(seconds.values())
    return {
        "pairs_per_s": pairs / whole, "step_ms": 1000 * whole / steps,
        "parts": {part: {"ms": 1000 * spent / steps, "share": spent / whole}
                  for part, spent in seconds.items()},
        "matrix_products": {
            "gflop_per_step": flops / steps / 1e9,
            "gflop_per_s_alone": flops / alone / 1e9,
            "gflop_per_s_in_training": flops / whole / 1e9,
            "share_of_step": alone / whole,
            "share_of_forward_and_backward": alone / (seconds["forward"]
                                                      + seconds["backward"])},
    }


def encoding(texts: int, seed: int = 1) -> dict[str, float]:
    """`encode` of texts drawn from train: the share of tokenising and of matrix products."""
    pairs = read_splits(ROOT / DEFAULT_DATA)["train"]
    some = [*pairs["sentence1"], *pairs["sentence2"]]
    some = [some[row] for row in torch.randperm(
        len(some), generator=torch.Generator().manual_seed(seed))[:texts]]
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    model.encode(some[:256])
    seconds: dict[str, float] = defaultdict(float)
    with patch.object(ConnectionBert, "tokenize", timed(ConnectionBert.tokenize, seconds,
                                                        "tokenize")):
        started = time.perf_counter()
        model.encode(some)
        whole = time.perf_counter() - started
    tokens = sorted(model.tokenize(some), key=len)
    alone = flops = 0.0
    for start in range(0, len(tokens), 64):              # a batch of encode's at a time
        batch = pad_batch(tokens[start:start + 64], model.tokenizer.pad_token_id)
        with torch.no_grad(), FlopCounterMode(display=False) as counter, Recorder() as recorder:
            model.embed(**batch)
        alone += recorder.seconds_alone()
        flops += counter.get_total_flops()
    return {"texts_per_s": len(some) / whole, "share_of_tokenizing": seconds["tokenize"] / whole,
            "share_of_matrix_products": alone / whole, "gflop_per_s_alone": flops / alone / 1e9}


def memory(steps: int) -> dict[str, float]:
    """MiB of this process, from the imports to the most that it had in `steps` steps."""
    def held() -> float:
        return psutil.Process().memory_info().rss / 2**20

    found = {"imports": held()}
    config = TrainingConfig()
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    dataset = ConnectionDataset(read_splits(ROOT / DEFAULT_DATA)["train"], model.tokenizer)
    found["with_model_and_pairs"] = held()
    weights = sum(weight.nbytes for weight in model.parameters()) / 2**20
    loader = connection_loader(dataset, config.batch_size, config.seed)
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, len(loader), config)
    model.train()
    with one_gradient_table(model.bert.embeddings.word_embeddings):
        for _, batch in zip(range(steps), loader):
            training_step(model, batch, cosine_mse, optimizer, schedule, config.max_grad_norm,
                          config.precision)
    return found | {"peak": peak_memory_mib(), "weights": weights,
                    "gradients_and_moments": 3 * weights}


def padding(batch_size: int, seed: int) -> dict[str, float]:
    """Tokens per pair in an epoch over the whole training set (exact)."""
    dataset = ConnectionDataset(read_splits(ROOT / DEFAULT_DATA)["train"],
                                load_tokenizer(ROOT / DEFAULT_MODEL))
    buckets, shuffled = (tokens_per_pair(dataset, batch_size, seed, bucket)
                         for bucket in (BUCKET, 1))
    return {"own": buckets["own"], "buckets_by_length": buckets["padded"],
            "shuffled_only": shuffled["padded"], "all_to_128": 2 * 128.0}


def main() -> None:
    """Measure, keep, print."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=60, help="steps that are timed")
    options.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.memory:
        print(json.dumps(memory(chosen.steps)))
        return
    config = TrainingConfig()
    kinds = {"full": config, "by_length": replace(config, bucket=BUCKET),
             "frozen_embeddings": replace(config, freeze_embeddings=True)}
    if has_bf16(torch.device("cpu")):
        kinds["bf16"] = replace(config, precision="bf16")
    # first: a process begins with the peak of the one that starts it
    found = {"memory_mib": in_a_process(__file__, "--memory", "--steps", chosen.steps)}
    found |= {name: measure(chosen.steps, kind) for name, kind in kinds.items()}
    found["tokens_per_pair"] = padding(config.batch_size, config.seed)
    found["encoding"] = encoding(3000)
    for name in kinds:
        print(f"{name}: {found[name]['pairs_per_s']:.1f} pairs/s")
        for part, spent in found[name]["parts"].items():
            print(f"  {part:18} {spent['ms']:7.1f} ms  {100 * spent['share']:5.1f} %")
        for part, value in found[name]["matrix_products"].items():
            print(f"  {part:30} {value:7.2f}")
    for name in ("encoding", "memory_mib"):
        print(f"{name}: " + "  ".join(f"{part} {value:.2f}" for part, value
                                      in found[name].items()))
    print("tokens per pair: " + "  ".join(f"{name} {value:.1f}" for name, value
                                          in found["tokens_per_pair"].items()))
    keep(chosen.output or RESULTS / "where_the_time_goes.json",
         f"where_the_time_goes.py --steps {chosen.steps}", **found)


if __name__ == "__main__":
    main()
