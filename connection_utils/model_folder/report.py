"""The report on a model folder, and the first look at the small files in it.

A folder may come from a stranger. So a file is measured before it is opened, settings
that ask for code of their own are refused, and of ``config.json`` only the entries that
shape a BERT are taken: others can load kernels, quantise, or fill the memory.
"""

import json
import math
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from transformers import BertConfig, BertModel

from connection_utils.ground.paths import shown
from connection_utils.model_folder.files import KNOWN_FILES, SPECIAL_TOKENS, ModelFolderError

# bytes, many times what real ones have
MOST_BYTES = dict.fromkeys(
    ("config.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
     "sentence_bert_config.json", "1_Pooling/config.json", "chat_template.jinja"), 10**6
) | dict.fromkeys(("vocab.txt", "tokenizer.json", "added_tokens.json"), 10**8)

# What config.json may ask for. Layers are built, without memory, before the weights are
# read; the largest BERT published has 48.
MOST = {"vocab_size": 10**7, "hidden_size": 10**5, "num_hidden_layers": 200,
        "num_attention_heads": 10**4, "intermediate_size": 10**6,
        "max_position_embeddings": 10**6, "type_vocab_size": 10**4}
TAKEN = (*MOST, "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob",
         "initializer_range", "layer_norm_eps", "pad_token_id")

ELSEWHERE = ("vocab", "init_inputs", "gguf_file", "tokenizer_object", "fast_tokenizer_files")
TOKENIZERS = (None, "BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast",
              "TokenizersBackend")      # what transformers writes for a BERT, now and before


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
            raise ModelFolderError(_printable(
                f"{shown(self.folder)} cannot be used as a BERT folder:\n"
                + "\n".join(f"- {problem}" for problem in self.problems)
            ))

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
        return _printable("\n".join(parts))


def _printable(text: str) -> str:
    """`text` without what would steer a terminal: names in it come from the files."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in text)


def list_files(folder: Path) -> pd.DataFrame:
    """A row a file: file, what it is, bytes and, for links, where it really lies."""
    rows = [
        {"file": path.name, "what it is": KNOWN_FILES.get(path.name, "not used here"),
         "bytes": f"{path.stat().st_size:,}" if path.exists() else "-",
         **({"lies at": str(path.resolve())} if path.is_symlink() else {})}
        for path in sorted(folder.iterdir()) if not path.is_dir()
    ]
    return pd.DataFrame(rows).fillna("") if rows else pd.DataFrame(columns=["file"])


def check_files(folder: Path) -> list[str]:
    """A sentence for each name that holds no file, or too large a one; none is opened."""
    problems = []
    for name in KNOWN_FILES | MOST_BYTES:
        path = folder / name
        if not path.exists():
            if path.is_symlink():
                problems.append(f"{name} is a link that leads nowhere (to "
                                f"{path.readlink()}). Copy the file itself.")
        elif not path.is_file():
            problems.append(f"{name} is {_kind(path)}; expected a file. Remove it, and copy "
                            "the file from where the weights come from.")
        elif not os.access(path, os.R_OK):
            problems.append(f"{name} cannot be read. Mend its permissions.")
        elif path.stat().st_size > MOST_BYTES.get(name, math.inf):
            problems.append(
                f"{name} has {path.stat().st_size:,} bytes, so it was not opened; expected "
                f"at most {MOST_BYTES[name]:,}. Copy the file again.")
    return problems


def _kind(path: Path) -> str:
    mode = path.stat().st_mode
    return ("a folder" if stat.S_ISDIR(mode) else "a named pipe" if stat.S_ISFIFO(mode)
            else "a socket" if stat.S_ISSOCK(mode) else "a device")


def _read_settings(path: Path) -> dict:
    """A JSON file's entries, if none of them asks for code or for files elsewhere."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ModelFolderError(
            f"{path.name}, line {error.lineno}, column {error.colno}: not JSON "
            f"({error.msg}). Copy the file again from where the weights come from.") from None
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path.name}: expected an object, found "
                               f"{type(values).__name__}. Copy the file again.")
    if "auto_map" in values:
        raise ModelFolderError(
            f"{path.name} has the entry 'auto_map': the model needs code of its own, and "
            "none is ever run here. Take a model without it.")
    for key in ELSEWHERE:
        if values.get(key):
            raise ModelFolderError(
                f"{path.name} has the entry {key!r}: the vocabulary would be taken from "
                "there. Expected it in vocab.txt or tokenizer.json; remove the entry.")
    if values.get("tokenizer_class") not in TOKENIZERS:
        raise ModelFolderError(
            f"{path.name}: tokenizer_class is {values['tokenizer_class']!r:.60}, expected "
            "'BertTokenizer'. Another class cuts texts otherwise, and the model would not "
            "know the pieces. Take a BERT with a WordPiece vocabulary.")
    return values


def read_config(folder: Path, report: ModelReport) -> BertConfig | None:
    """The architecture that ``config.json`` asks for; None with a problem in `report`."""
    path = folder / "config.json"
    if not path.is_file():
        names = ", ".join(report.files["file"]) if len(report.files) else "no file at all"
        report.problems.append(
            f"config.json is missing (the folder holds {names}). Copy it from where the "
            "weights come from; it tells how many layers to build."
        )
        return None
    try:
        values = _read_settings(path)
        if values.get("model_type", "bert") != "bert":
            raise ValueError(f"model_type is {values['model_type']!r:.60}, expected 'bert'")
        for name, most in MOST.items():
            value = values.get(name, 1)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} is {value!r:.60}, expected a whole number from 1 "
                                 f"to {most:,}")
        config = BertConfig(**{name: values[name] for name in TAKEN if name in values})
        with torch.device("meta"):
            BertModel(config, add_pooling_layer=False)     # raises if sizes do not fit
    except ModelFolderError as error:
        report.problems.append(str(error))
        return None
    except Exception as error:     # whatever a wrong value makes the constructor raise
        report.problems.append(f"config.json: {str(error):.300}. Copy the file again.")
        return None
    report.facts["architecture"] = (
        f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, "
        f"{config.num_attention_heads} heads, feed-forward {config.intermediate_size}, "
        f"at most {config.max_position_embeddings} tokens")
    return config


def check_tokenizer_settings(folder: Path) -> None:
    """Raise ModelFolderError unless the tokenizer's files ask for a WordPiece tokenizer."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            _read_settings(folder / name)
    path = folder / "tokenizer.json"
    if path.is_file():
        kind = json.loads(path.read_text(encoding="utf-8")).get("model", {}).get("type")
        if kind not in (None, "WordPiece"):          # old files do not say
            raise ModelFolderError(
                f"tokenizer.json holds a vocabulary of the kind {kind!r:.60}, expected "
                "'WordPiece': it would be read as one, and every text be cut wrongly. Take "
                "a BERT with a WordPiece vocabulary.")


def read_vocab_txt(path: Path) -> list[str]:
    """The tokens of ``vocab.txt`` in order; ModelFolderError names line and finding."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFolderError(
            f"vocab.txt, line {raw[:error.start].count(10) + 1}: byte "
            f"0x{raw[error.start]:02x} is not UTF-8. Copy the file again, unchanged."
        ) from None
    if text.startswith("\ufeff"):
        raise ModelFolderError(
            "vocab.txt, line 1, column 1: a byte order mark (BOM). It makes the first "
            "token unknown and adds one past the embedding table. Save the file as UTF-8 "
            "without BOM, or copy it again without opening it in an editor.")
    tokens = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    first_line: dict[str, int] = {}
    for line, token in enumerate(tokens, start=1):
        if not token:
            raise ModelFolderError(
                f"vocab.txt, line {line}: the line is empty; expected a token, as a token's "
                "line is its id. Copy the file again, unchanged.")
        if token in first_line:
            raise ModelFolderError(
                f"vocab.txt, line {line}: token {token!r} stands on line "
                f"{first_line[token]} already; expected each token once, as a token's "
                "line is its id. Copy the file again.")
        first_line[token] = line
    absent = [token for token in SPECIAL_TOKENS if token not in first_line]
    if absent:
        raise ModelFolderError(
            f"vocab.txt has {len(tokens):,} lines and lacks {', '.join(absent)}. Expected "
            "a BERT WordPiece vocabulary; copy it from where the weights come from.")
    return tokens
