"""The files of a local model folder: which there are, read safely, written alike.

A BERT folder holds three things: the architecture, the vocabulary and the weights. A
siamese BERT has two settings more, pooling and max_length; they are kept where
sentence-transformers keeps them, so that either library loads what the other saved.
"""

import json
import pickle
import zipfile
from pathlib import Path

import pandas as pd
import safetensors
import torch
import transformers
from safetensors.torch import load_file
from transformers import BertTokenizer

transformers.logging.disable_progress_bar()      # a bar on stderr for every load and save
transformers.logging.set_verbosity_error()       # what matters is checked by the doctor

WEIGHTS = ("model.safetensors", "pytorch_model.bin")     # taken in this order
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class ModelFolderError(ValueError):
    """A model folder that cannot be used; the message names file, finding and remedy."""


KNOWN_FILES = {
    "config.json": "architecture",
    "model.safetensors": "weights",
    "pytorch_model.bin": "weights (pickle)",
    "vocab.txt": "vocabulary, one token a line",
    "tokenizer.json": "vocabulary and rules",
    "tokenizer_config.json": "tokenizer settings",
    "special_tokens_map.json": "names of special tokens",
    "modules.json": "sentence-transformers' parts",
    "sentence_bert_config.json": "sentence-transformers' length",
    "training.json": "how it was fine-tuned",
    "threshold.json": "from which cosine on to say connected",
    "README.md": "model card",
}
SAVED_FILES = frozenset({"1_Pooling", *KNOWN_FILES} - {"README.md", "pytorch_model.bin"})
SIAMESE_PARTS = ("Transformer", "Pooling", "Normalize")   # a cosine needs no Normalize
POOLING_KEYS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token",
                "max": "pooling_mode_max_tokens"}


def list_files(folder: Path) -> pd.DataFrame:
    """A row a file: file, what it is, bytes and, for links, where it really lies."""
    rows = [
        {"file": path.name, "what it is": KNOWN_FILES.get(path.name, "not used here"),
         "bytes": f"{path.stat().st_size:,}" if path.exists() else "-",
         **({"lies at": str(path.resolve())} if path.is_symlink() else {})}
        for path in sorted(folder.iterdir()) if not path.is_dir()
    ]
    return pd.DataFrame(rows).fillna("") if rows else pd.DataFrame(columns=["file"])


def load_tokenizer(folder: str | Path) -> BertTokenizer:
    """The folder's tokenizer, with nothing asked of a hub."""
    settings = {}
    stored = Path(folder) / "tokenizer.json"
    if stored.is_file() and not (Path(folder) / "tokenizer_config.json").is_file():
        normalizer = json.loads(stored.read_text(encoding="utf-8")).get("normalizer") or {}
        settings["do_lower_case"] = normalizer.get("lowercase", False)  # else True is assumed
    tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True, **settings)
    tokenizer.backend_tokenizer.no_padding()      # some files pad all texts to 128 tokens
    tokenizer.backend_tokenizer.no_truncation()   # max_length is passed at each call
    return tokenizer


def read_vocab_txt(path: Path) -> list[str]:
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


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A weights file's tensors under today's names; pickles only ``weights_only=True``.

    Raises ModelFolderError for a file that is a pointer, damaged, or more than tensors.
    """
    if not path.is_file():
        raise ModelFolderError(f"{path.name} is not a regular file. Copy the weights again.")
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ModelFolderError(
            f"{path.name} is a Git LFS pointer of {size} bytes, not the weights. In the "
            "repository it came from run `git lfs pull`, or download the file itself.")
    broken = ModelFolderError(
        f"{path.name} ({size:,} bytes) is damaged or was not copied whole. Copy it again "
        "and compare its size with the source.")
    if path.suffix == ".safetensors":
        try:
            return _with_current_names(load_file(path))
        except (safetensors.SafetensorError, OSError) as error:
            raise broken from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True,
                             mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        said = str(error).lower()
        if "weights_only" not in said and "unsupported" not in said \
                or "unsupported operand" in said:       # no pickle at all, an HTML page, say
            raise broken from error
        raise ModelFolderError(
            f"{path.name} is a pickle that asks for more than tensors, so it was not "
            "opened: it could run code on this machine. Never load it with "
            "weights_only=False. Get model.safetensors of the same model, or a file from "
            "a source you trust.") from error
    except Exception as error:        # truncated files raise many kinds
        raise broken from error
    if not isinstance(tensors, dict) or not all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor)
            for name, tensor in tensors.items()):
        raise ModelFolderError(
            f"{path.name} is not a state dict (names to tensors). Save the model with "
            "save_pretrained, or torch.save(model.state_dict(), …).")
    return _with_current_names(tensors)


def _with_current_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Old checkpoints prefix ``bert.`` and call LayerNorm's parameters gamma and beta.

    ``position_ids``, counted rather than learnt, stood in files of some versions: left out.
    """
    def current(name: str) -> str:
        return (name.removeprefix("bert.")
                .replace("LayerNorm.gamma", "LayerNorm.weight")
                .replace("LayerNorm.beta", "LayerNorm.bias"))

    return {current(name): tensor for name, tensor in tensors.items()
            if not name.endswith("position_ids")}


def write_vocab_txt(path: Path, vocab: dict[str, int]) -> None:
    """Write token -> id as BERT's ``vocab.txt``: a token's line is its id."""
    path.write_text("".join(f"{word}\n" for word in sorted(vocab, key=vocab.get)),
                    encoding="utf-8", newline="\n")


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_siamese_settings(folder: Path, pooling: str, max_length: int,
                           hidden_size: int) -> None:
    """Write the files by which sentence-transformers knows the pooling and max_length."""
    parts = {"Transformer": "", "Pooling": "1_Pooling"}
    contents = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path,
             "type": f"sentence_transformers.models.{part}"}
            for i, (part, path) in enumerate(parts.items())
        ],
        "sentence_bert_config.json": {"max_seq_length": max_length,
                                      "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden_size,
            **{key: name == pooling for name, key in POOLING_KEYS.items()},
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    }
    for name, values in contents.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_siamese_settings(folder: Path) -> dict[str, object]:
    """``pooling`` and ``max_length``, as far as the folder tells them."""
    settings: dict[str, object] = {}
    parts = _read_json(folder / "modules.json") or []
    unknown = [part["type"] for part in parts
               if part["type"].rsplit(".", 1)[-1] not in SIAMESE_PARTS]
    if unknown:
        raise ModelFolderError(
            f"{folder}: modules.json asks for {', '.join(unknown)}, which would be left out "
            f"here and change every embedding. Expected only {', '.join(SIAMESE_PARTS)}.")
    try:
        length = _read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        pooling = _read_json(folder / "1_Pooling/config.json")
        if pooling:
            settings["pooling"] = pooling.get("pooling_mode") or next(
                name for name, key in POOLING_KEYS.items() if pooling.get(key))
            if length is None:      # since version 6 sentence-transformers keeps it there
                length = _read_json(folder / "tokenizer_config.json").get("model_max_length")
        if length is not None and int(length) < 1e9:      # 1e30 means that none was set
            settings["max_length"] = int(length)
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise ModelFolderError(
            f"{folder}: sentence_bert_config.json or 1_Pooling/config.json is not "
            f"understood here ({error!r}); expected max_seq_length and one of the modes "
            f"{', '.join(POOLING_KEYS)}. Mend or remove them, and pass pooling= and "
            "max_length= instead.") from error
    return settings
