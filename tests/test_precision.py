"""bfloat16: offered where the processor has it, refused elsewhere, close to fp32."""

import re
from argparse import Namespace

import numpy as np
import pytest
import torch
from cases import contradicting
from torch import nn

from connection_utils import (
    ConnectionBert,
    ConnectionDataset,
    ConnectionScorer,
    TrainingConfig,
    pad_batch,
)
from connection_utils.commands import finetune
from connection_utils.speed import packing, precision
from connection_utils.speed.precision import autocast, has_bf16, resolved
from connection_utils.training import train

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def bf16_cpu(monkeypatch):
    """A CPU that says it has bfloat16: others emulate it, slowly and with like results."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


@pytest.fixture
def plain_cpu(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_only_where_the_gpu_itself_has_it(monkeypatch, native):
    """A T4 emulates it, and answers True unless it is asked without emulation."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: including_emulation or native)
    assert resolved("auto", CUDA) == ("bf16" if native else "fp32")
    assert resolved("fp32", CUDA) == "fp32"


@pytest.mark.parametrize("instruction", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_a_cpu_is_asked_for_its_instructions(monkeypatch, plain_cpu, instruction):
    assert not has_bf16(CPU) and not has_bf16(MPS)
    monkeypatch.setattr(torch.cpu, instruction, lambda: True)
    assert has_bf16(CPU)
    assert [resolved(name, CPU) for name in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]


def test_where_it_would_be_slower_it_is_refused(plain_cpu, tiny_folder, make_pairs):
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    refused = "this cpu cannot compute in bfloat16.*AMX or AVX-512-BF16.*Expected auto or fp32"
    with pytest.raises(ValueError, match=refused):
        model.encode(["a text"], precision="bf16")
    pairs = make_pairs(8)
    with pytest.raises(ValueError, match=refused):
        train(model, ConnectionDataset(pairs, model.tokenizer), pairs,
              TrainingConfig(precision="bf16"))
    with pytest.raises(ValueError, match="'fp16'; expected one of auto, fp32, bf16"):
        model.encode(["a text"], precision="fp16")
    with pytest.raises(ValueError, match="precision is 'fp16'; expected one of"):
        TrainingConfig(precision="fp16")


def test_encoding_in_bf16_is_close_and_auto_is_fp32(bf16_cpu, tiny_folder):
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    texts = [f"a man plays guitar {i}" for i in range(20)] + ["the dog"]
    fp32, auto, bf16 = (model.encode(texts, batch_size=8, normalize=True, precision=name)
                        for name in ("fp32", "auto", "bf16"))
    assert (auto == fp32).all() and bf16.dtype == np.float32
    assert 1e-5 < np.abs(bf16 - fp32).max() < 0.02
    np.testing.assert_allclose(np.linalg.norm(bf16, axis=1), 1, atol=1e-6)
    cosines = model.similarity(texts[:3], texts[3:6], precision="bf16")
    assert cosines.tolist() == pytest.approx((bf16[:3] * bf16[3:6]).sum(axis=1), abs=0.02)


def test_training_in_bf16_ends_close_with_weights_in_fp32(bf16_cpu, tiny_folder, make_pairs):
    pairs, weights, losses = make_pairs(40), {}, {}
    for name in ("fp32", "auto", "bf16"):
        model = ConnectionBert.from_local(tiny_folder, device="cpu")
        for each in model.modules():
            if isinstance(each, nn.Dropout):
                each.p = 0.0                          # it draws by shape, and shapes differ
        history = train(model, ConnectionDataset(pairs, model.tokenizer),
                        contradicting(model, pairs.head(12)),
                        TrainingConfig(batch_size=4, precision=name), keep_start=False)
        weights[name] = nn.utils.parameters_to_vector(model.parameters())
        losses[name] = history.step_losses
    assert weights["bf16"].dtype == torch.float32
    assert losses["auto"] == losses["fp32"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.02)
    assert torch.equal(weights["auto"], weights["fp32"])
    assert not torch.equal(weights["bf16"], weights["fp32"])


@pytest.mark.parametrize(("even", "name", "gradients"), [
    (packing.EVEN_BF16, "bf16", False), (packing.EVEN_BF16, "bf16", True),
    (packing.EVEN_ENCODING, "fp32", False), (None, "fp32", True)])
def test_shapes_are_few(bf16_cpu, tiny_folder, monkeypatch, even, name, gradients):
    """Few shapes, little memory: a training in fp32 alone has rows of its own number."""
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    rows, widths = [], set()
    layer = next(each for each in model.bert.encoder.modules() if isinstance(each, nn.Linear))
    layer.register_forward_hook(lambda module, args, out: rows.append(args[0].shape[1]))
    attended = packing._attended

    def seen(q, *others):
        widths.add(q.shape[2])
        return attended(q, *others)

    monkeypatch.setattr(packing, "_attended", seen)
    tokens = model.tokenize(["the dog ran " * (1 + i % 7) for i in range(60)])
    with torch.set_grad_enabled(gradients), autocast(name, model.device):
        for start in range(0, 60, 20):
            model.embed(**pad_batch(tokens[start:start + 20], model.tokenizer.pad_token_id))
    row, width = even or (1, 1)
    own = [sum(map(len, tokens[start:start + 20])) for start in range(0, 60, 20)]
    assert rows == [-(-count // row) * row for count in own]
    assert not any(each % width for each in widths)
    assert all(count % packing.EVEN_ENCODING[0] for count in own)     # so that it shows


def test_spare_tokens_have_no_part_in_anything(bf16_cpu, tiny_folder, monkeypatch):
    """The rounded row in fp32 arithmetic: values and gradients as without rounding."""
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    batch = {"input_ids": torch.randint(5, 20, (6, 9)),
             "attention_mask": (torch.arange(9) < torch.tensor([[9], [2], [5], [3], [7], [4]])
                                ).long()}
    found = []
    for rounded in (False, True):
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_, on=rounded: on)
        model.zero_grad()
        vectors = model.embed(**batch)
        (vectors ** 2).sum().backward()
        found.append([vectors.detach(), *(p.grad.clone() for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


def test_a_scorer_of_another_precision_is_another_one(bf16_cpu, tiny_folder):
    """Parts that were scored in fp32 are not continued in bf16."""
    same, also, other = (ConnectionScorer(tiny_folder, device="cpu", precision=name).identity()
                         for name in ("auto", "fp32", "bf16"))
    assert same == also != other
    with autocast("bf16", CPU):
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("offered", [True, False])
def test_finetune_offers_it_where_there_is_a_gain(monkeypatch, tiny_folder, make_pairs, tmp_path,
                                                  capsys, offered):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: offered)
    make_pairs(120).to_csv(tmp_path / "pairs.csv", index=False)
    call = ["--data", str(tmp_path / "pairs.csv"), "--model", str(tiny_folder), "--device", "cpu",
            "--output", str(tmp_path / "model"), "--scale", "0", "1"]
    finetune.main(call)
    told = re.search(r"--precision bf16 would multiply matrices (\d+\.\d) times as fast",
                     capsys.readouterr().out)
    assert bool(told) is offered
    if offered:
        assert float(told[1]) > 0
        finetune.main([*call, "--precision", "bf16"])
        assert "would multiply" not in capsys.readouterr().out


def test_the_gain_is_a_ratio_of_times(monkeypatch):
    monkeypatch.setattr("torch.utils.benchmark.Timer", lambda code, globals: Namespace(
        blocked_autorange=lambda min_run_time: Namespace(median=globals["a"].element_size())))
    assert precision.bf16_gain() == 2
