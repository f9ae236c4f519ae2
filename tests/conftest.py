"""Shared by the tests: tiny local BERTs on disk, ways to break them, and tables of pairs."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = "the cat dog sat ran on a mat man woman plays guitar music two in park ##s ##ing"

Tensors = dict[str, torch.Tensor]


class Alter:
    """Ways to change a model folder on disk, each in one call."""

    @staticmethod
    def config(folder: Path, **values: object) -> None:
        """Set some values of ``config.json``."""
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    @staticmethod
    def vocab(folder: Path, tokens: list[str]) -> None:
        """Write ``vocab.txt``, a token a line."""
        (folder / "vocab.txt").write_bytes("".join(f"{t}\n" for t in tokens).encode())

    @staticmethod
    def tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
        """Write ``change(tensors)`` back to ``model.safetensors``."""
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path)

    @staticmethod
    def to_bin(folder: Path, change: Callable[[Tensors], object] = dict,
               legacy: bool = False) -> Path:
        """Put ``change(tensors)`` into ``pytorch_model.bin`` instead; returns its path."""
        path = folder / "pytorch_model.bin"
        torch.save(change(load_file(folder / "model.safetensors")), path,
                   _use_new_zipfile_serialization=not legacy)
        (folder / "model.safetensors").unlink()
        return path


@pytest.fixture(scope="session")
def alter() -> type[Alter]:
    """Functions that change a model folder: config, vocab, tensors, to_bin."""
    return Alter


@pytest.fixture(scope="session")
def tiny_vocab() -> list[str]:
    """A WordPiece vocabulary in which any lower-case ASCII word has its tokens."""
    return SPECIAL + list(dict.fromkeys([*SIGNS, *(f"##{s}" for s in SIGNS), *WORDS.split()]))


@pytest.fixture(scope="session")
def make_tiny_folder(tmp_path_factory: pytest.TempPathFactory,
                     tiny_vocab: list[str]) -> Callable[..., Path]:
    """Make a folder with a random BERT of 2 layers; keywords go to ``BertConfig``.

    It holds config.json, model.safetensors and vocab.txt; the seed is always the same.
    """
    def make(**settings: object) -> Path:
        folder = tmp_path_factory.mktemp("tiny_bert")
        sizes = {"vocab_size": len(tiny_vocab), "hidden_size": 32, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "intermediate_size": 64}
        with torch.random.fork_rng():
            torch.manual_seed(12)
            bert = BertModel(BertConfig(**sizes | settings), add_pooling_layer=False)
        bert.config.architectures = ["BertModel"]
        (folder / "config.json").write_text(json.dumps(bert.config.to_dict()))
        save_file(bert.state_dict(), folder / "model.safetensors")
        Alter.vocab(folder, tiny_vocab)
        return folder

    return make


@pytest.fixture(scope="session")
def _tiny_template(make_tiny_folder: Callable[..., Path]) -> Path:
    return make_tiny_folder()


@pytest.fixture
def tiny_folder(_tiny_template: Path, tmp_path: Path) -> Path:
    """A tiny BERT's folder that the test may break as it likes."""
    return Path(shutil.copytree(_tiny_template, tmp_path / "tiny_bert"))


@pytest.fixture(scope="session")
def make_pairs() -> Callable[..., pd.DataFrame]:
    """Make a table of `n` unrelated pairs, with scores spread over 0..1."""
    def make(n: int) -> pd.DataFrame:
        return pd.DataFrame({
            "sentence1": [f"a man plays guitar {i}" for i in range(n)],
            "sentence2": [f"the dog ran {i} times" for i in range(n)],
            "score": [i % 11 / 10 for i in range(n)],
        })

    return make


@pytest.fixture(scope="module")
def drawn_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all cases that Hypothesis draws; what is set aside lands below it."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("connection_utils.pair_files.faults.runs_folder", lambda: folder / "runs")
        yield folder
