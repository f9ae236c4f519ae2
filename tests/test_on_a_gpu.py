"""The script that waits for a GPU: it must work when one is there, so it is rehearsed here."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import nbformat
import pytest
import torch
from safetensors.torch import load_file

from connection_utils import RECIPES, gpu_numbers, gpu_sentence
from connection_utils.ground.paths import ROOT
from connection_utils.speed.precision import resolved
from connection_utils.workshop.assets import DEFAULT_DATA

sys.path.insert(0, str(ROOT / "benchmarks"))
import float16_folder
import on_a_gpu

# What a borrowed machine may lack: only torch, transformers, numpy, pandas, scipy, scikit-learn
# and what these bring are promised. sentence-transformers, which that part may find, brings
# pyarrow and datasets.
MISSING = ("openpyxl", "matplotlib", "nbformat", "nbclient", "papermill", "onnxruntime",
           "onnx", "onnxscript", "faiss", "ipywidgets", "IPython", "pytest")


@pytest.fixture(scope="module")
def rehearsal(make_tiny_folder, tmp_path_factory):
    """The whole script on a CPU, with a float16 folder and few packages: its JSON file."""
    folder = tmp_path_factory.mktemp("rehearsal")
    float16_folder.main([str(make_tiny_folder()), str(folder / "float16")])
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({MISSING}))\n")
    done = subprocess.run(
        [sys.executable, on_a_gpu.__file__, "--smoke", str(folder / "float16"),
         str(ROOT / DEFAULT_DATA), str(folder / "result.json")], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ended (") == len(on_a_gpu.PARTS)
    return folder / "result.json"


@pytest.mark.slow
def test_half_the_weights_travel_and_nothing_else_changes(rehearsal, tiny_folder):
    halved = load_file(rehearsal.with_name("float16") / "model.safetensors")
    whole = load_file(tiny_folder / "model.safetensors")
    assert halved.keys() == whole.keys()
    for name, tensor in halved.items():
        assert tensor.dtype == torch.float16 and torch.equal(tensor, whole[name].half())


@pytest.mark.slow
def test_every_part_finds_something(rehearsal):
    record = json.loads(rehearsal.read_text())
    parts = record["parts"]
    assert parts.keys() == on_a_gpu.PARTS.keys() and record["smoke"] and "commit" in record
    assert parts["cuda_tests"]["passed"] >= 6
    for recipe in ("train_post", "train_best"):
        for precision in ("fp32", "bf16"):
            found = parts[recipe][precision]
            assert found["train_seconds"] < found["seconds_with_evaluations"]
            epochs = RECIPES[recipe.removeprefix("train_")].epochs
            assert found["train_pairs_per_s"] == pytest.approx(
                epochs * 48 / found["train_seconds"])
            assert -100 <= found["dev_spearman"] <= 100
    assert parts["encode"]["texts"] > 200
    assert parts["cpu_agreement"]["largest_difference_of_a_loss"] == 0      # twice the CPU
    assert parts["one_process_nccl"]["largest_difference_of_a_loss"] < 1e-5
    assert "gloo" in parts["one_process_nccl"]["backend"]
    assert parts["largest_batch"]["fp32"]["pairs_that_fit"] == 8            # the smoke's limit
    packed = parts["packed_against_padded"]
    assert packed["faster"].keys() == packed.keys() - {"faster", "part_seconds"}
    assert parts["sentence_transformers"]["fp32"]["ratio"] > 0


def test_the_largest_batch_is_closed_in(monkeypatch):
    """Doubled until one does not fit, then between the two, in steps of 8 pairs."""
    tried = []
    monkeypatch.setattr(on_a_gpu, "_step_fits",
                        lambda job, size: tried.append(size) or size <= 1100)
    monkeypatch.setattr(on_a_gpu, "load", lambda job, device=None: Namespace(max_length=128))
    monkeypatch.setattr(on_a_gpu, "precisions", lambda job: ["fp32"])
    found = on_a_gpu.largest_batch(Namespace(smoke=False, device="cpu"))["fp32"]
    assert (found["pairs_that_fit"], found["pairs_that_do_not"]) == (1096, 1104)
    assert tried[:6] == [64, 128, 256, 512, 1024, 2048] and len(tried) < 16


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(tmp_path, capsys):
    output = tmp_path / "result.json"
    with pytest.raises(SystemExit, match="failed: encode;"):
        on_a_gpu.main(["not-here", str(ROOT / DEFAULT_DATA), str(output), "--smoke",
                       "--parts", "encode", "gpu"])
    parts = json.loads(output.read_text())["parts"]
    assert "folder not found" in parts["encode"]["failed"]
    assert "smoke" in parts["gpu"]["name"] and "gpu: ended" in capsys.readouterr().out


def test_a_part_has_a_process_and_a_time_of_its_own(tmp_path):
    job = Namespace(model="not-here", data="not-here", output=tmp_path / "result.json",
                    smoke=False)
    assert "Expected a folder with config.json" in on_a_gpu.run(job, "encode", 300)["failed"]
    assert "not ended after" in on_a_gpu.run(job, "encode", 0.2)["failed"]


def test_what_a_part_had_found_when_it_was_ended_is_kept():
    code = "import time; print('{\"fp32\": 1}', flush=True); time.sleep(60)"
    with pytest.raises(on_a_gpu.Failed, match="not ended after 2 s") as ended:
        on_a_gpu.found_by([sys.executable, "-c", code], 2)
    assert ended.value.found == {"fp32": 1}


@pytest.mark.parametrize(("error", "fits"), [
    (torch.OutOfMemoryError("CUDA out of memory."), False),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), False),
    (RuntimeError("shapes do not fit"), None)])
def test_every_kind_of_too_little_memory_is_known(monkeypatch, tiny_folder, error, fits):
    def fail(*_):
        raise error

    monkeypatch.setattr(on_a_gpu, "training_step", fail)
    job = Namespace(model=tiny_folder, device="cpu")
    if fits is None:
        with pytest.raises(RuntimeError, match="shapes"):
            on_a_gpu._step_fits(job, 2)
    else:
        assert on_a_gpu._step_fits(job, 2) is fits


def test_bfloat16_is_taken_only_where_the_gpu_really_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: including_emulation)
    assert resolved("auto", torch.device("cuda")) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert resolved("auto", torch.device("cuda")) == "bf16"


@pytest.mark.slow
def test_the_numbers_come_from_the_file_or_are_not_measured_yet(rehearsal, tmp_path):
    assert gpu_numbers(tmp_path / "none.json") == {}
    assert "not measured yet" in gpu_sentence(tmp_path / "none.json")
    numbers, parts = gpu_numbers(rehearsal), json.loads(rehearsal.read_text())["parts"]
    trained = parts["train_post"]["bf16"]
    assert numbers["train_seconds"] == trained["train_seconds"]
    assert numbers["texts_per_s"] == max(
        each["texts_per_s"] for each in parts["encode"]["fp32"].values())
    said = gpu_sentence(rehearsal)
    assert parts["gpu"]["name"] in said and f"{trained['test_spearman']:.2f}" in said
    del parts["train_post"]["bf16"]
    assert on_a_gpu.summary(parts)["precision"] == "fp32"
    assert on_a_gpu.summary(parts | {"encode": {"failed": "not ended after 75 s"}}) == {}
    del parts["gpu"]
    assert on_a_gpu.summary(parts) == {}


def test_readme_and_notebooks_say_what_was_measured():
    assert gpu_sentence() in " ".join((ROOT / "README.md").read_text().split())
    for name in ("03_train_siamese_cosine", "10_scale_out"):
        cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
        assert any(gpu_sentence() in output.get("text", "")
                   for cell in cells for output in cell.get("outputs", [])), name
