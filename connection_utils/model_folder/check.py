"""Can a model be loaded from this folder? Answered before anything is built from it.

Most faults of a model folder load without an error, or with an error that names another
cause. Each check looks for some of them and reports what to do.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from connection_utils.ground.paths import as_path, missing_model, shown
from connection_utils.model_folder import files
from connection_utils.model_folder.files import ModelFolderError

BODY = ("embeddings.", "encoder.")    # anything else is a head, and not needed here

# The entries of config.json that shape a BERT. Others are ignored: they can ask for another
# precision, for quantisation or for an attention kernel from elsewhere.
TAKEN = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
         "intermediate_size", "max_position_embeddings", "type_vocab_size", "hidden_act",
         "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range",
         "layer_norm_eps", "pad_token_id")

# Entries that would make another model of the folder, and the values accepted for them.
ACCEPTED = {
    "model_type": ("bert",),
    "auto_map": (),                   # Python code that comes with the model
    "is_decoder": (),                 # a token would not see those after it
    "padding_side": ("right",),       # the position of a token would depend on the batch
    **dict.fromkeys(("tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"), ()),
    "tokenizer_class": ("BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast",
                        "TokenizersBackend"),         # transformers writes each for a BERT
    "type": ("WordPiece",),           # of the vocabulary in tokenizer.json
}

# The file that is missing; what may be there in its place, and what to do with that.
INSTEAD = {
    "config.json": {"bert_config.json": "rename it to config.json"},
    "model.safetensors": {
        "adapter_config.json": "an adapter changes another model: merge them (peft's "
                               "merge_and_unload) and save the whole",
        "*.index.json": "weights in several files: load them with transformers and call "
                        'save_pretrained(folder, max_shard_size="100GB")',
        "*.ckpt.index": "TensorFlow weights cannot be read: get the model's PyTorch weights"},
}

# Texts that tokenizers read differently: capitals, accents, scripts, widths, signs.
SAMPLES = ["The CAT Sat", "Café NAÏVE straße İ", "고양이가 잔다", "中文字 カタカナ が",
           "ไทย हिन्दी עִברית", "ＡＢＣ １２ ﬁ", "zero\u200bwidth\u00ad\ufeff", "😀 👩\u200d💻",
           "a.b,c!? don't x² €5", "\t12 3.4\n"]

# The share of whole words that may be read as others. In the default model's vocabulary it is
# 1 of 23,695; with the wrong setting, nearly all words of a language or all with an accent.
LOST = 0.05


@dataclass
class ModelReport:
    """What `check_model_dir` found. ``print(report)`` shows it as a table."""

    folder: Path
    files: str = ""                        # a table: file, what it is, bytes
    facts: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)      # each makes the folder unusable
    settings: dict[str, object] = field(default_factory=dict)   # pooling, max_length, if stated
    tokenizer: PreTrainedTokenizerFast | None = field(default=None, repr=False)
    bert: BertModel | None = field(default=None, repr=False)    # with float32 weights

    @property
    def ok(self) -> bool:
        """True if a model can be loaded from the folder."""
        return not self.problems

    def raise_if_broken(self) -> None:
        """Raise ModelFolderError with every problem found, if there is one."""
        if self.problems:
            raise ModelFolderError("\n- ".join(
                [f"{shown(self.folder)} cannot be used as a BERT folder:", *self.problems]))

    def __str__(self) -> str:
        return "\n".join([
            f"model folder   {shown(self.folder)}",
            *(["", self.files, ""] if self.files else []),
            *(f"{name:<14} {value}" for name, value in self.facts.items()),
            *(f"PROBLEM        {problem}" for problem in self.problems),
            f"verdict        {'ready to load' if self.ok else 'cannot be loaded'}"])


def check_model_dir(folder: str | Path) -> ModelReport:
    """Look at a local BERT folder and report whether a model loads from it, and if not, why.

    No code from the folder is ever run (a pickle is only opened with ``weights_only=True``),
    no network is tried and nothing is written. Either slash may separate the path's parts.
    """
    path = as_path(folder).absolute()
    if missing := missing_model(path):
        return ModelReport(path, problems=[missing])
    report = ModelReport(path, _table_of_files(path))
    for names, needed, check in CHECKS:
        try:
            if any((path / name).exists() for name in names):
                check(path, report)
            elif needed:
                found = ", ".join(f"{each.name} -> {each.readlink()}" if each.is_symlink()
                                  else each.name for each in sorted(path.iterdir()))
                others = INSTEAD.get(names[0], {})
                do = next((f"{other}: {others[other]}" for other in others
                           if any(path.glob(other))),
                          "Copy the file itself into it, not a link")
                report.problems.append(f"{' or '.join(names)} is missing; the folder contains "
                                       f"{found or 'no files'}. {do}.")
        except ModelFolderError as error:
            report.problems.append(str(error))
        except Exception as error:      # a strange file can make a library raise anything
            found = " ".join(str(error).split())
            report.problems.append(
                f"{' or '.join(names)} cannot be used ({found:.300}). Copy it again.")
    return report


def _table_of_files(folder: Path) -> str:
    """A row per file: its name, what it is, and its size in bytes."""
    table = pd.DataFrame(
        [(path.name, files.KNOWN_FILES.get(path.name, "not used here"),
          f"{path.stat().st_size:,}") for path in sorted(folder.iterdir()) if path.is_file()],
        columns=["file", "what it is", "bytes"])
    left = {name: f"{{:<{table[name].str.len().max()}}}".format for name in table.columns[:2]}
    return table.to_string(index=False, formatters=left, justify="left")


# The checks: each adds to the report, and raises where it cannot continue.

def _check_config(folder: Path, report: ModelReport) -> None:
    values = files.read_json(folder, "config.json")
    _check_entries("config.json", values)
    config = BertConfig(**{name: values[name] for name in TAKEN if name in values})
    with torch.device("meta"):           # no memory yet; raises if the sizes do not fit
        report.bert = BertModel(config, add_pooling_layer=False)
    report.facts["architecture"] = (
        f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, "
        f"{config.num_attention_heads} heads, feed-forward {config.intermediate_size}, "
        f"at most {config.max_position_embeddings} tokens")


def _check_entries(name: str, values: dict) -> None:
    for key, accepted in ACCEPTED.items():
        if values.get(key) and values[key] not in accepted:
            raise ModelFolderError(
                f"{name}: {key} is {str(values[key])!r:.60}, expected "
                f"{' or '.join(accepted) or 'no such entry'}. Take a BERT with a WordPiece "
                "vocabulary that does not need it: code in a folder is never run here, and "
                "without the entry the embeddings would differ from other libraries'.")


def _check_vocabulary(folder: Path, report: ModelReport) -> None:
    vocab = files.read_vocab_txt(folder / "vocab.txt")
    settings = files.read_json(folder, "tokenizer_config.json")
    _check_entries("tokenizer_config.json", settings)
    _check_entries("tokenizer.json", files.read_json(folder, "tokenizer.json").get("model", {}))
    if report.bert is None:              # AutoTokenizer reads config.json, too
        return
    name = settings.get("tokenizer_class") or "BertTokenizer"
    if not (folder / "tokenizer.json").exists() and not name.startswith("BertTokenizer"):
        raise ModelFolderError(f"tokenizer_config.json: tokenizer_class {name} needs "
                               "tokenizer.json, which is missing. Copy that file, too.")
    tokenizer = report.tokenizer = files.load_tokenizer(folder)
    ids = tokenizer.get_vocab()           # added tokens, too; those of white space are trimmed
    size = len(tokenizer)
    rows = report.bert.config.vocab_size
    report.facts["vocabulary"] = f"{size:,} tokens"
    problems = {
        f"vocab.txt ({len(vocab):,} tokens) and tokenizer.json ({size:,}) disagree: they "
        "belong to different models. Keep those of one model.":
            any(ids.get(token) != line for line, token in enumerate(vocab) if token.strip()),
        # some models have a few rows more than tokens, as multiples of 8 or 64 are faster
        f"the tokenizer has {size:,} tokens, the embedding table of config.json {rows:,} rows. "
        "Take the whole vocabulary, weights and config.json from the same model."
        + f' If it is whole, confirm it with {{"whole_vocabulary": {size}}} in '
          "tokenizer_config.json." * (size < rows):
            size > rows or (size < max(rows - 1000, 0.9 * rows)
                            and settings.get("whole_vocabulary") != size),
        "tokenizer.json has other rules than those that AutoTokenizer follows in this folder. "
        'With {"tokenizer_class": "PreTrainedTokenizerFast"} in tokenizer_config.json it '
        "follows tokenizer.json.":
            (folder / "tokenizer.json").exists() and _reads(tokenizer.backend_tokenizer)
            != _reads(Tokenizer.from_file(str(folder / "tokenizer.json"))),
        f"the tokenizer reads an empty text as {tokenizer('').tokens()}, expected [CLS] and "
        "[SEP], and a [PAD] token. Take the tokenizer of a BERT.":
            tokenizer("").tokens() != ["[CLS]", "[SEP]"] or tokenizer.pad_token_id is None,
    }
    report.problems += [problem for problem, found in problems.items() if found]
    if not report.problems and (lost := _lost(tokenizer)) > LOST:
        left = {name: _lost(files.load_tokenizer(folder, **{name: False}))
                for name in ("strip_accents", "do_lower_case", "tokenize_chinese_chars")}
        best = min(left, key=left.get)
        raise ModelFolderError(
            f"The tokenizer does not suit its vocabulary: {100 * lost:.0f} % of the whole "
            "words in it are read as other tokens. "
            + (f"Set {best} to false in tokenizer_config.json." if left[best] <= LOST else
               "Take the model's own tokenizer files; a WordPiece vocabulary is expected."))


def _reads(tokenizer: Tokenizer) -> list[tuple]:
    """What it makes of each of SAMPLES: the normalised text, the ids and their places."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [(tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text,
             read.ids, read.offsets)
            for text, read in zip(SAMPLES, tokenizer.encode_batch(SAMPLES))]


def _lost(tokenizer: PreTrainedTokenizerFast) -> float:
    """The share of the vocabulary's whole words that, as texts, become other tokens.

    Of a large vocabulary every few words are tried.
    """
    words = sorted(word for word in tokenizer.get_vocab()
                   if word.strip() and not re.fullmatch(r"##.+|[\[<].+[\]>]", word))
    words = words[::1 + len(words) // 5000]
    read = tokenizer.backend_tokenizer.encode_batch(words, add_special_tokens=False)
    return sum(each.tokens != [word] for each, word in zip(read, words)) / max(1, len(words))


def _check_weights(folder: Path, report: ModelReport) -> None:
    path = next(folder / name for name in files.WEIGHTS if (folder / name).exists())
    found = files.read_tensors(path)
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in found.values()})
    report.facts["weights"] = f"{path.name}, {', '.join(kinds)}"
    if report.bert is None:
        return
    report.facts["parameters"] = f"{report.bert.num_parameters():,}"
    if heads := sorted({name.split(".")[0] for name in found if not name.startswith(BODY)}):
        report.facts["note"] = (f"{path.name} also holds {' and '.join(heads)} weights; they "
                                "are not needed here")
    try:       # assign: nothing is copied
        report.bert.load_state_dict({name: tensor for name, tensor in found.items()
                                     if name.startswith(BODY)}, assign=True)
    except RuntimeError as error:        # names what is missing, surplus or of another shape
        raise ModelFolderError(
            f"{path.name} does not fit config.json. Take both from the same model, and weights "
            f"that are not quantised. {' '.join(str(error).split()):.400}") from error
    if strange := [name for name, tensor in report.bert.state_dict().items()
                   if not tensor.isfinite().all()]:
        raise ModelFolderError(
            f"{path.name}: {strange[0]} contains NaN or infinity, and {len(strange) - 1} other "
            "tensors do. That training went wrong; take weights from before that.")
    report.bert.float()


def _check_settings(folder: Path, report: ModelReport) -> None:
    if report.problems:
        return
    report.settings = files.read_siamese_settings(
        folder, report.bert.config.max_position_embeddings)
    settings = files.read_json(folder, "sentence_bert_config.json")
    _check_entries("sentence_bert_config.json", settings)
    if settings.get("do_lower_case") and report.tokenizer(SAMPLES).input_ids != (
            report.tokenizer(list(map(str.lower, SAMPLES))).input_ids):
        raise ModelFolderError("sentence_bert_config.json: do_lower_case is true, but the "
                               "tokenizer keeps capitals. State it in tokenizer_config.json.")


# The files that a check looks at, whether one of them must exist, and the check itself.
CHECKS = (
    (("config.json",), True, _check_config),
    (("vocab.txt", "tokenizer.json"), True, _check_vocabulary),
    (files.WEIGHTS, True, _check_weights),
    (("modules.json", "sentence_bert_config.json", "1_Pooling"), False, _check_settings),
)
