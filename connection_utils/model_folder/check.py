"""A verdict on a local model folder before anything is built from it."""

from pathlib import Path

import torch
from transformers import BertModel

from connection_utils.ground.paths import as_path, missing_model
from connection_utils.model_folder.files import (
    WEIGHTS,
    ModelFolderError,
    load_tokenizer,
    read_tensors,
)
from connection_utils.model_folder.report import (
    ModelReport,
    check_files,
    check_tokenizer_settings,
    list_files,
    read_config,
    read_vocab_txt,
)

BODY = ("embeddings.", "encoder.")    # anything else is a head, and not needed here


def check_model_dir(folder: str | Path) -> ModelReport:
    """Look at a local BERT folder and say whether, and why not, a model loads from it.

    No code from the folder is ever run (pickles only through ``weights_only=True``), no
    network is tried, nothing is written, and no file may ask for more memory than its own
    size promises. Either slash may separate the path's parts.
    """
    path = as_path(folder)
    report = ModelReport(path.absolute())
    if missing := missing_model(path):
        report.problems.append(missing)
        return report
    report.files = list_files(path)
    report.problems += check_files(path)
    if not report.ok:
        return report
    report.config = read_config(path, report)
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


def _check_vocabulary(folder: Path, report: ModelReport) -> None:
    vocab_path = folder / "vocab.txt"
    if not vocab_path.is_file() and not (folder / "tokenizer.json").is_file():
        report.problems.append(
            "vocab.txt is missing, and so is tokenizer.json. Without one every word would "
            "silently become [UNK]. Copy vocab.txt (about 230 kB for bert-base-uncased).")
        return
    try:
        vocab = read_vocab_txt(vocab_path) if vocab_path.is_file() else []
        check_tokenizer_settings(folder)
        tokenizer = load_tokenizer(folder)
    except ModelFolderError as error:
        report.problems.append(str(error))
        return
    except Exception as error:    # the tokenizers library raises plain Exception
        report.problems.append(f"the tokenizer cannot be built: {str(error):.300}. Copy "
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
        found = report.tensors = read_tensors(path)
    except ModelFolderError as error:
        report.problems.append(str(error))
        return
    report.facts["weights"] = f"{path.name}, " + ", ".join(
        sorted({str(t.dtype).removeprefix("torch.") for t in found.values()
                if t.is_floating_point()}))
    if report.config is None:
        return
    with torch.device("meta"):
        expected = BertModel(report.config, add_pooling_layer=False).state_dict()
    report.facts["parameters"] = f"{sum(t.numel() for t in expected.values()):,}"
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
    rounded = [name for name in expected
               if name in found and not found[name].is_floating_point()]
    if rounded:
        report.problems.append(
            f"{path.name}: {rounded[0]} holds {found[rounded[0]].dtype}, expected "
            "floating-point numbers: the weights were quantised. Take those that were not.")
    heads = sorted({name.split(".")[0] for name in found if not name.startswith(BODY)})
    if heads:
        report.notes.append(f"{path.name} also holds {' and '.join(heads)} weights; they "
                            "are not needed here")


def _some(names: list[str]) -> str:
    return ", ".join(f"{name:.100}" for name in names[:2]) + (", …" if len(names) > 2 else "")
