"""A verdict on a local model folder before anything is built from it.

A BERT folder holds ``config.json`` (the architecture), ``vocab.txt`` or
``tokenizer.json`` (the vocabulary) and ``model.safetensors`` or ``pytorch_model.bin``
(the weights). Most things that go wrong with one load without an error, or with an error
that names another cause; each is looked for here and answered with what to do.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from transformers import BertConfig, BertModel

from connection_utils.model_files import (
    KNOWN_FILES,
    WEIGHTS,
    ModelFolderError,
    list_files,
    load_tokenizer,
    read_tensors,
    read_vocab_txt,
)
from connection_utils.workspace import as_path, shown

BODY = ("embeddings.", "encoder.")    # anything else is a head, and not needed here


@dataclass
class ModelReport:
    """What `check_model_dir` found. ``print(report)`` shows it as a table."""

    folder: Path
    files: pd.DataFrame | None = None      # file, bytes, what it is, lies at
    facts: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)         # legitimate, worth knowing
    problems: list[str] = field(default_factory=list)      # each makes the folder unusable
    config: BertConfig | None = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """True if a model can be loaded from the folder."""
        return not self.problems

    def raise_if_broken(self) -> None:
        """Raise ModelFolderError with every problem found, if there is one."""
        if self.problems:
            raise ModelFolderError(
                f"{shown(self.folder)} cannot be used as a BERT folder:\n"
                + "\n".join(f"- {problem}" for problem in self.problems)
            )

    def __str__(self) -> str:
        parts = [f"model folder   {shown(self.folder)}"]
        if self.files is not None:
            left = {name: f"{{:<{self.files[name].str.len().max()}}}".format
                    for name in self.files if name != "bytes"}
            parts += ["", self.files.to_string(index=False, formatters=left,
                                               justify="left"), ""]
        parts += [f"{name:<14} {value}" for name, value in self.facts.items()]
        parts += [f"note           {note}" for note in self.notes]
        parts += [f"PROBLEM        {problem}" for problem in self.problems]
        parts += [f"verdict        {'ready to load' if self.ok else 'cannot be loaded'}"]
        return "\n".join(parts)


def check_model_dir(folder: str | Path) -> ModelReport:
    """Look at a local BERT folder and say whether, and why not, a model loads from it.

    No code from the folder is ever run (pickles only through ``weights_only=True``), no
    network is tried, nothing is written. Either slash may separate the path's parts.
    """
    path = as_path(folder)
    report = ModelReport(path.absolute())
    if not path.is_dir():
        found = "it is a file" if path.exists() else "folder not found"
        report.problems.append(
            f"{found}: {path.absolute()}. Expected a folder with config.json, vocab.txt "
            "and model.safetensors or pytorch_model.bin. Nothing is ever fetched from a "
            "model hub: transformers/README.md tells how to bring a model by hand."
        )
        return report
    report.files = list_files(path)
    for link in path.iterdir():
        if link.name in KNOWN_FILES and link.is_symlink() and not link.exists():
            report.problems.append(f"{link.name} is a link that leads nowhere (to "
                                   f"{link.readlink()}). Copy the file itself.")
    if not report.ok:
        return report
    report.config = _read_config(path, report)
    _check_vocabulary(path, report)
    _check_weights(path, report)
    return report


def load_weights(report: ModelReport) -> dict[str, torch.Tensor]:
    """The checked folder's weights as float32, named as today's ``BertModel`` names them.

    Heads (``pooler``, ``cls``, ``classifier``) are left out. Raises ModelFolderError if
    the report holds a problem.
    """
    report.raise_if_broken()
    return {name: tensor.to(torch.float32) for name, tensor in report.tensors.items()
            if name.startswith(BODY)}


def _read_config(folder: Path, report: ModelReport) -> BertConfig | None:
    path = folder / "config.json"
    if not path.is_file():
        names = ", ".join(report.files["file"]) if len(report.files) else "no file at all"
        report.problems.append(
            f"config.json is missing (the folder holds {names}). Copy it from where the "
            "weights come from; it tells how many layers to build."
        )
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(values, dict):
            raise ValueError(f"expected an object, found {type(values).__name__}")
        if values.get("model_type", "bert") != "bert":
            raise ValueError(f"model_type is {values['model_type']!r}, expected 'bert'")
        config = BertConfig.from_dict(values)
        with torch.device("meta"):
            BertModel(config, add_pooling_layer=False)     # raises if sizes do not fit
    except json.JSONDecodeError as error:
        report.problems.append(
            f"config.json, line {error.lineno}, column {error.colno}: not JSON "
            f"({error.msg}). Copy the file again from where the weights come from.")
        return None
    except Exception as error:     # whatever a wrong value makes the constructor raise
        report.problems.append(f"config.json: {error}. Copy the file again.")
        return None
    report.facts["architecture"] = (
        f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, "
        f"{config.num_attention_heads} heads, feed-forward {config.intermediate_size}, "
        f"at most {config.max_position_embeddings} tokens")
    return config


def _check_vocabulary(folder: Path, report: ModelReport) -> None:
    vocab_path = folder / "vocab.txt"
    if vocab_path.is_file():
        try:
            vocab = read_vocab_txt(vocab_path)
        except ModelFolderError as error:
            report.problems.append(str(error))
            return
    elif (folder / "tokenizer.json").is_file():
        vocab = []
    else:
        report.problems.append(
            "vocab.txt is missing, and so is tokenizer.json. Without one every word would "
            "silently become [UNK]. Copy vocab.txt (about 230 kB for bert-base-uncased).")
        return
    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:    # the tokenizers library raises plain Exception
        report.problems.append(f"the tokenizer cannot be built: {error}. Copy "
                               "vocab.txt or tokenizer.json again.")
        return
    size = len(tokenizer)
    report.facts["vocabulary"] = f"{size:,} tokens"
    if size <= len(tokenizer.all_special_tokens):
        report.problems.append(
            f"the vocabulary holds only the {size} special tokens, so every word would "
            "become [UNK]. Copy the whole vocab.txt or tokenizer.json again.")
    ids = tokenizer.get_vocab()           # may hold added tokens, too
    if any(ids.get(token) != line for line, token in enumerate(vocab)):
        report.problems.append(
            f"vocab.txt ({len(vocab):,} tokens) and tokenizer.json ({size:,}) disagree: they "
            "belong to different models. Keep those of one model.")
    if report.config is not None:
        rows = report.config.vocab_size
        if size > rows:
            report.problems.append(
                f"the tokenizer has {size:,} tokens, the embedding table of config.json "
                f"only {rows:,} rows: token {rows} would be an IndexError (on a GPU a "
                "device-side assert). Take vocabulary and weights from the same model.")
        elif size < rows - 1000:
            report.problems.append(
                f"the vocabulary has {size:,} tokens, the embedding table of config.json "
                f"{rows:,} rows: it was not copied whole, or belongs to another model.")
        elif size < rows:
            report.notes.append(f"the embedding table has {rows - size} rows more than the "
                                "vocabulary (padded for speed): harmless")
    cased = sum(word[0].isascii() and word[0].isupper() for word in vocab)
    if cased > 100 and tokenizer.tokenize("Word") == tokenizer.tokenize("word"):
        report.problems.append(
            f"vocab.txt is cased ({cased:,} tokens begin with a capital) but texts would "
            "be lower-cased. Put a tokenizer_config.json with "
            '{"do_lower_case": false} beside it.')


def _check_weights(folder: Path, report: ModelReport) -> None:
    path = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if path is None:
        others = [p.name for p in folder.iterdir()
                  if p.suffix in {".h5", ".msgpack", ".onnx", ".ot", ".index"}
                  or p.name.endswith(".index.json")]
        report.problems.append(
            "the weights are missing: expected model.safetensors or pytorch_model.bin"
            + (f", found {', '.join(sorted(others))}, which is another format"
               if others else "")
            + ". Copy one of the two into the folder.")
        return
    try:
        tensors = read_tensors(path)
    except ModelFolderError as error:
        report.problems.append(str(error))
        return
    report.tensors = tensors
    report.facts["weights"] = f"{path.name}, " + ", ".join(
        sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()
                if t.is_floating_point()}))
    if report.config is None:
        return
    with torch.device("meta"):
        expected = BertModel(report.config, add_pooling_layer=False).state_dict()
    report.facts["parameters"] = f"{sum(t.numel() for t in expected.values()):,}"
    found = report.tensors
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found
               if name not in expected and name.startswith(BODY)]
    wrong = [name for name in expected
             if name in found and found[name].shape != expected[name].shape]
    if missing:
        report.problems.append(
            f"{path.name} lacks {len(missing)} of the {len(expected)} tensors that "
            f"config.json asks for ({_some(missing)}). They would stay random. Expected "
            "weights and config.json of the same model.")
    if surplus:
        report.problems.append(
            f"{path.name} holds {len(surplus)} tensors that config.json has no place for "
            f"({_some(surplus)}). They would be dropped silently. Expected weights and "
            "config.json of the same model.")
    for name in wrong[:3]:
        report.problems.append(
            f"{path.name}: {name} has shape {tuple(found[name].shape)}, config.json says "
            f"{tuple(expected[name].shape)}. Take both from the same model.")
    heads = sorted({name.split(".")[0] for name in found if not name.startswith(BODY)})
    if heads:
        report.notes.append(f"{path.name} also holds {' and '.join(heads)} weights; they "
                            "are not needed here")


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", …" if len(names) > 2 else "")
