"""What tests do with a model folder: load it, read why it is refused, and break it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from connection_utils import ConnectionBert, ModelFolderError, check_model_dir

TEXTS = ["the cat sat on the mat", "a man plays guitar", "dog"]
BIN = "pytorch_model.bin"

Spoil = Callable[[Path], object]        # changes the folder that it is given


def refusal(folder: Path | str) -> str:
    """Why `folder` cannot be loaded; the report and the exception agree."""
    report = check_model_dir(folder)
    assert not report.ok
    assert report.problems
    assert str(report).endswith("verdict        cannot be loaded")
    with pytest.raises(ModelFolderError) as raised:
        ConnectionBert.from_local(folder, device="cpu")
    for problem in report.problems:
        assert problem in str(raised.value)
        assert f"PROBLEM        {problem}" in str(report)
    return "\n".join(report.problems)


def only_problem(folder: Path | str) -> str:
    """As `refusal`, where there is exactly one problem to find."""
    message = refusal(folder)
    assert len(check_model_dir(folder).problems) == 1, message
    return message


def load(folder: Path | str, **settings) -> ConnectionBert:
    """The model in `folder`, which the doctor must report as ready."""
    report = check_model_dir(folder)
    assert report.ok, report.problems
    return ConnectionBert.from_local(folder, device="cpu", **settings)


def embeddings(folder: Path | str) -> np.ndarray:
    """(3, hidden): those of TEXTS."""
    return load(folder).encode(TEXTS)


# Ways to break a folder

def put(name: str, content: str | bytes) -> Spoil:
    """Write the file `name`; as weights, it replaces those that are there."""
    def spoil(folder: Path) -> None:
        if name in ("model.safetensors", BIN):
            (folder / "model.safetensors").unlink()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return spoil


def remove(name: str) -> Spoil:
    """Delete the file."""
    return lambda folder: (folder / name).unlink()


def rename(name: str, to: str) -> Spoil:
    """Give the file another name."""
    return lambda folder: (folder / name).rename(folder / to)


def set_config(**values: object) -> Spoil:
    """Change some entries of config.json."""
    return lambda folder: put("config.json", json.dumps(json.loads(
        (folder / "config.json").read_text()) | values))(folder)


def set_tokenizer(**values: object) -> Spoil:
    """Write tokenizer_config.json with these entries."""
    return put("tokenizer_config.json", json.dumps(values))


def change(name: str, how: Callable[[bytes], bytes]) -> Spoil:
    """Put `how(content)` in the place of the file's content."""
    return lambda folder: (folder / name).write_bytes(how((folder / name).read_bytes()))


def change_vocab(how: Callable[[list[bytes]], list[bytes]]) -> Spoil:
    """Put `how(tokens)` in the place of the tokens of vocab.txt."""
    return change("vocab.txt", lambda content: b"".join(
        token + b"\n" for token in how(content.splitlines())))


def tensors(how: Callable[[dict], dict]) -> Spoil:
    """Put `how(tensors)` in the place of the tensors of model.safetensors."""
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(how(load_file(path)), path)
    return spoil


def to_bin(how: Callable[[dict], object] = dict, cut: float | None = None,
           legacy: bool = False) -> Spoil:
    """Save `how(tensors)` as pytorch_model.bin instead, and keep only a part of it."""
    def spoil(folder: Path) -> None:
        whole = how(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
        torch.save(whole, folder / BIN, _use_new_zipfile_serialization=not legacy)
        if cut is not None:
            change(BIN, lambda content: part(content, cut))(folder)
    return spoil


def part(content: bytes, cut: float) -> bytes:
    """The first bytes: so many, or that share; or all but some of the last."""
    return content[:int(cut * len(content)) if isinstance(cut, float) else cut]
