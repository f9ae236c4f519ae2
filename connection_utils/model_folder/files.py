"""The files of a local model folder: which there are, read safely, written alike.

A BERT folder holds three things: the architecture, the vocabulary and the weights. A
siamese BERT has two settings more, pooling and max_length; they are kept where
sentence-transformers keeps them, so that either library loads what the other saved.
"""

import json
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
import transformers
from safetensors.torch import load_file
from transformers import BertTokenizer

from connection_utils.ground.whole_files import is_sealed, put_back

transformers.logging.disable_progress_bar()      # a bar on stderr for every load and save
transformers.logging.set_verbosity_error()       # what matters is checked by check.py

WEIGHTS = ("model.safetensors", "pytorch_model.bin")     # taken in this order
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


# all that a state dict asks for by name, and what else could call something
TENSOR_PARTS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch(\.cuda|\.storage)? \w+Storage")
CALLS = {"INST", "OBJ", "STACK_GLOBAL", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}


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


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A weights file's tensors under today's names; no code in it is ever run.

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
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = _unpickle(path, zipped=head.startswith(b"PK\3\4"))
    except ModelFolderError:
        raise
    except Exception as error:        # truncated files raise many kinds
        raise ModelFolderError(
            f"{path.name} ({size:,} bytes) is damaged or was not copied whole. Copy it again "
            "and compare its size with the source.") from error
    tensors = dict(tensors) if isinstance(tensors, dict) else {0: tensors}
    if not all(isinstance(name, str) and isinstance(tensor, torch.Tensor)
               for name, tensor in tensors.items()):
        raise ModelFolderError(
            f"{path.name} is not a state dict (names to tensors). Save the model with "
            "save_pretrained, or torch.save(model.state_dict(), …).")
    unpacked = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if unpacked > 2 * size:           # a head may share its numbers with the embeddings
        raise ModelFolderError(
            f"{path.name} ({size:,} bytes) holds tensors that would take {unpacked:,} bytes: "
            "it was made to fill the memory. Get the file from a source you trust.")
    return _with_current_names(tensors)


def _unpickle(path: Path, zipped: bool) -> object:
    """What `torch.save` wrote, in today's format (a zip archive) or the old one."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            _check_archive(path, archive)
            for entry in archive.infolist():
                if entry.filename.lower().endswith(".pkl"):
                    with archive.open(entry) as file:
                        _check_pickle(path, file)
    else:
        with open(path, "rb") as file:
            for _ in range(5):        # five pickles, then the numbers
                _check_pickle(path, file)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise _more_than_tensors(path, "what torch.load refuses") from error


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse what would unpack to more than the file: `torch.save` only stores."""
    size, entries = path.stat().st_size, archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) \
            or min(entry.header_offset for entry in entries) != 0:
        raise ModelFolderError(
            f"{path.name} ({size:,} bytes) is an archive that torch.save did not write: its "
            f"entries are compressed or overlap, {unpacked:,} bytes once unpacked. It was "
            "not unpacked. Get the file from a source you trust.")


def _check_pickle(path: Path, file: BinaryIO) -> None:
    """Refuse a pickle that does more than put tensors into dicts; it is read, never run.

    ``weights_only=True`` runs no code either, but follows 32 bytes that ask for 6 GB, or
    for the hash of a tuple that holds one twice that holds one twice, 60 times over.
    """
    tuples, last = set(), ""
    for step, (code, found, _) in enumerate(pickletools.genops(file)):
        if code.name in CALLS or code.name == "GLOBAL" and not TENSOR_PARTS.fullmatch(found):
            raise _more_than_tensors(path, str(found or code.name).replace(" ", "."))
        if step > 250_000 or "GET" in code.name and found in tuples:
            raise _more_than_tensors(path, "work without end")
        if "PUT" in code.name and last.startswith("TUPLE"):
            tuples.add(found)
        elif "PUT" not in code.name and code.name != "PROTO":
            last = code.name


def _more_than_tensors(path: Path, found: str) -> ModelFolderError:
    return ModelFolderError(
        f"{path.name} is a pickle that asks for more than tensors ({found!r:.60}), so it was "
        "not opened: it could run code on this machine. Never load it with "
        "weights_only=False. Get model.safetensors of the same model, or a file from "
        "a source you trust.")


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


def replaceable_names(folder: str | Path) -> frozenset[str]:
    """The names that may be replaced in `folder`: ours, if it is a model that we saved."""
    put_back(folder)
    if not (Path(folder) / "modules.json").exists():
        return frozenset()
    card = Path(folder) / "README.md"        # a person's, or changed by one: theirs
    return SAVED_FILES | {card.name} if is_sealed(card) else SAVED_FILES


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
    try:
        parts = [part["type"] for part in _read_json(folder / "modules.json") or []]
        unknown = [part for part in parts if part.rsplit(".", 1)[-1] not in SIAMESE_PARTS]
        length = _read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        pooling = _read_json(folder / "1_Pooling/config.json")
        if pooling:
            settings["pooling"] = str(pooling.get("pooling_mode") or next(
                name for name, key in POOLING_KEYS.items() if pooling.get(key)))
            if length is None:      # since version 6 sentence-transformers keeps it there
                length = _read_json(folder / "tokenizer_config.json").get("model_max_length")
        if length is not None and int(length) < 1e9:      # 1e30 means that none was set
            settings["max_length"] = int(length)
    except Exception as error:      # whatever strange values raise
        raise ModelFolderError(
            f"{folder}: modules.json, sentence_bert_config.json or 1_Pooling/config.json is "
            f"not understood here ({error!r:.200}); expected max_seq_length and one of the "
            f"modes {', '.join(POOLING_KEYS)}. Mend or remove them, and pass pooling= and "
            "max_length= instead.") from error
    if unknown:
        raise ModelFolderError(
            f"{folder}: modules.json asks for {', '.join(unknown)}, which would be left out "
            f"here and change every embedding. Expected only {', '.join(SIAMESE_PARTS)}.")
    return settings
