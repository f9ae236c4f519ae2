"""The files of a local model folder: which there are, how they are read and written.

A BERT folder has three parts: the architecture, the vocabulary and the weights. A siamese
BERT has two settings more, pooling and max_length. They are kept where sentence-transformers
keeps them, so that each library loads what the other has saved.
"""

import json
import re
from codecs import BOM_UTF8
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerFast, logging

logging.disable_progress_bar()      # a bar on stderr for every load and save
logging.set_verbosity_error()       # what matters is checked by check.py

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
    "threshold.json": "decision threshold",
    "README.md": "model card",
}
SAVED_FILES = frozenset({"1_Pooling", *KNOWN_FILES} - {"pytorch_model.bin"})
SIAMESE_PARTS = (["Transformer", "Pooling"],
                 ["Transformer", "Pooling", "Normalize"])     # a cosine needs no Normalize
POOLING_KEYS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token",
                "max": "pooling_mode_max_tokens"}


def read_json(folder: Path, name: str) -> dict | list:
    """The file's content, {} if there is no such file; ModelFolderError if it is not JSON."""
    path = folder / name
    try:
        return json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except ValueError as error:          # with line and column
        raise ModelFolderError(f"{name} is not valid JSON ({error}). Copy it again.") from None


# The vocabulary

def load_tokenizer(folder: str | Path, **settings: object) -> PreTrainedTokenizerFast:
    """The folder's tokenizer, as ``AutoTokenizer`` reads it; no hub is contacted.

    `settings` override those in ``tokenizer_config.json``, such as ``do_lower_case``.
    """
    folder = Path(folder)
    config = BertConfig(                  # or all of config.json would be followed
        tokenizer_class=read_json(folder, "config.json").get("tokenizer_class"))
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True,
                                              **settings)
    tokenizer.backend_tokenizer.no_padding()      # some files pad all texts to 128 tokens
    tokenizer.backend_tokenizer.no_truncation()   # max_length is passed at each call
    return tokenizer


def read_vocab_txt(path: Path) -> list[str]:
    """The tokens of ``vocab.txt`` in order, none if there is no such file.

    Raises ModelFolderError, with the line, for a vocabulary that BERT cannot use.
    """
    if not path.exists():
        return []
    lines: dict[str, int] = {}           # token -> its line
    # split at \n only: splitlines also splits at U+2028 or U+0085, which can be tokens
    for line, raw in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        raw = raw.removesuffix(b"\r")
        token = raw.decode("utf-8", errors="replace")
        found = ("a byte order mark (BOM), which makes [PAD] an unknown token"
                 if line == 1 and raw.startswith(BOM_UTF8) else
                 f"{raw!r} is not UTF-8" if token.encode() != raw else
                 "the line is empty" if not token else
                 f"{token!r} is already on line {lines[token]}" if token in lines else None)
        if found:
            raise ModelFolderError(
                f"vocab.txt, line {line}, column 1: {found}. Expected one new token per line, "
                "because the line number is its id. Copy the file again, unchanged.")
        lines[token] = line
    if absent := [token for token in SPECIAL_TOKENS if token not in lines]:
        raise ModelFolderError(
            f"vocab.txt has {len(lines):,} lines and lacks {', '.join(absent)}. Expected a "
            "BERT WordPiece vocabulary. Copy it from where the weights come from.")
    return list(lines)


# The weights

def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, by the names that ``BertModel`` uses today.

    A pickle is only opened with ``weights_only=True``, which runs no code in it. Raises
    ModelFolderError if the file is a Git LFS pointer, damaged, or more than tensors.
    """
    size = path.stat().st_size
    if size < 1000 and path.read_bytes().startswith(b"version https://git-lfs"):
        raise ModelFolderError(
            f"{path.name} is a Git LFS pointer of {size} bytes, not the weights. In the "
            "repository it came from run `git lfs pull`, or download the file itself.")
    try:
        tensors = (load_file(path) if path.suffix == ".safetensors" else
                   torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:        # damaged files raise many kinds
        if code := re.search(r"GLOBAL (\S+)", str(error)):      # from the unpickler
            raise ModelFolderError(
                f"{path.name} is a pickle that contains more than tensors ({code[1]}), so it "
                "was not opened: it could run code on this machine. Never load it with "
                "weights_only=False. Get model.safetensors of the same model.") from error
        raise ModelFolderError(
            f"{path.name} ({size:,} bytes) is damaged, incomplete or in another format. Copy "
            "it again and compare its size with the source.") from error
    if not isinstance(tensors, dict) or not all(
            isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ModelFolderError(
            f"{path.name} is not a state dict (names to tensors). Save the model with "
            "save_pretrained, or torch.save(model.state_dict(), …).")
    # Old checkpoints have the prefix bert. and call LayerNorm's parameters gamma and beta;
    # DataParallel adds module. Some contain position_ids, which only count from 0.
    return {name.removeprefix("module.").removeprefix("bert.")
                .replace("LayerNorm.gamma", "LayerNorm.weight")
                .replace("LayerNorm.beta", "LayerNorm.bias"): tensor
            for name, tensor in tensors.items() if not name.endswith("position_ids")}


# The settings of a siamese BERT

def replaceable_names(folder: str | Path) -> frozenset[str]:
    """The names that `save` may replace in `folder`: ours, if it is a model that we saved."""
    return SAVED_FILES if (Path(folder) / "modules.json").exists() else frozenset()


def write_siamese_settings(folder: Path, pooling: str, max_length: int,
                           hidden_size: int) -> None:
    """Write the files from which sentence-transformers reads the pooling and max_length."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    module = "sentence_transformers.models."
    contents = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{module}Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{module}Pooling"}],
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden_size,
            **{key: name == pooling for name, key in POOLING_KEYS.items()},
            "pooling_mode_mean_sqrt_len_tokens": False},
    }
    for name, values in contents.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_siamese_settings(folder: Path, longest: int) -> dict[str, object]:
    """``pooling`` and ``max_length`` of a folder of sentence-transformers, {} of another.

    `longest` is the model's number of positions. Raises ModelFolderError if
    sentence-transformers would compute other embeddings from the folder.
    """
    parts = read_json(folder, "modules.json")
    stated = read_json(folder, "sentence_bert_config.json")
    if not parts:
        for name in ("sentence_bert_config.json", "1_Pooling"):
            if (folder / name).exists():
                raise ModelFolderError(
                    f"modules.json is missing, and without it {name} has no effect in "
                    f"sentence-transformers. Copy modules.json, too, or remove {name}.")
        return {}
    kinds = [part["type"].rsplit(".", 1)[-1] for part in parts]
    if kinds not in SIAMESE_PARTS:
        raise ModelFolderError(
            f"modules.json asks for {', '.join(kinds)}; expected Transformer, Pooling and "
            "perhaps Normalize. Any other part would change every embedding.")
    if inner := parts[0].get("path"):
        raise ModelFolderError(
            f"modules.json expects the BERT in {inner}, an old layout. Move the files of "
            f'{inner} into the folder itself, and change that "path" in modules.json to "".')
    prompts = read_json(folder, "config_sentence_transformers.json")
    if prompt := (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name")):
        raise ModelFolderError(
            "config_sentence_transformers.json: default_prompt_name puts the prompt "
            f"{prompt!r:.60} in front of every text. Prompts are not supported. Change "
            "default_prompt_name to null, and put the prompt into your texts yourself.")
    pooling = f"{parts[1].get('path') or '1_Pooling'}/config.json"
    return {"pooling": _read_pooling(folder, pooling),
            "max_length": _read_length(folder, stated, longest)}


def _read_pooling(folder: Path, name: str) -> str:
    values = read_json(folder, name)
    modes = values.get("pooling_mode") or [          # a name or names, since version 6
        key for key, chosen in values.items() if key.startswith("pooling_mode_") and chosen]
    for ours, key in POOLING_KEYS.items():
        if modes in (ours, [ours], [key]):
            return ours
    raise ModelFolderError(
        f"{name}: the pooling is {modes or 'missing'}, expected exactly one of "
        f"{', '.join(POOLING_KEYS)}; several cannot be concatenated here. Take another model, "
        "or remove modules.json and 1_Pooling and choose a pooling yourself.")


def _read_length(folder: Path, stated: dict, longest: int) -> int:
    """The length to which texts are cut; since version 6 the tokenizer's settings have it."""
    name, key = "sentence_bert_config.json", "max_seq_length"
    if (length := stated.get(key)) is None:
        name, key = "tokenizer_config.json", "model_max_length"
        length = read_json(folder, name).get(key, longest)
    if not isinstance(length, int | float) or not length >= 3:
        raise ModelFolderError(f"{name}: {key} is {length!r}, expected a number from 3 (with "
                               f"[CLS] and [SEP]) to {longest}. Correct it.")
    return int(min(length, longest))       # 1e30 means that none was set
