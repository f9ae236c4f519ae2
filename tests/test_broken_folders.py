"""A model folder that cannot be used is refused: the file is named, and what is wrong with it.

Each case of the table spoils a good folder in one way, and names words of the refusal.
"""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import (
    BIN,
    TEXTS,
    Spoil,
    change,
    change_vocab,
    embeddings,
    load,
    only_problem,
    part,
    put,
    refusal,
    remove,
    rename,
    set_config,
    set_tokenizer,
    tensors,
    to_bin,
)
from transformers import BertTokenizer

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:53aa\nsize 90868376\n"
PROXY = "<!DOCTYPE html><html><body>403 Forbidden by your proxy</body></html>"


def another_order(folder: Path) -> None:
    """vocab.txt and tokenizer.json contain the same words with other ids."""
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    change_vocab(lambda tokens: tokens[:5] + tokens[:4:-1])(folder)


def dangling(folder: Path) -> None:
    """model.safetensors is a link to a file that does not exist."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/gone/model.safetensors")


def without(name: str) -> Spoil:
    return tensors(lambda t: {key: value for key, value in t.items() if key != name})


def parts(*names: str, paths: tuple[str, ...] = ("", "1_Pooling", "2_More")) -> Spoil:
    """A modules.json with these parts, in the folders `paths`."""
    return put("modules.json", json.dumps(
        [{"name": str(i), "type": f"sentence_transformers.models.{name}", "path": path}
         for i, (name, path) in enumerate(zip(names, paths))]))


def both(*spoils: Spoil) -> Spoil:
    """Several changes, one after another."""
    return lambda folder: [spoil(folder) for spoil in spoils]


def pooling(**values: object) -> Spoil:
    """Write 1_Pooling/config.json with these entries, and modules.json."""
    return both(parts("Transformer", "Pooling"),
                put("1_Pooling/config.json", json.dumps(values)))


def beside_pooling(name: str, **values: object) -> Spoil:
    """A folder of sentence-transformers with this file, too."""
    return both(pooling(pooling_mode="mean"), put(name, json.dumps(values)))


def own_rules(**values: object) -> Spoil:
    """Write tokenizer.json with this normalizer, and leave it to others what to make of it."""
    def spoil(folder: Path) -> None:
        BertTokenizer.from_pretrained(folder).backend_tokenizer.save(
            str(folder / "tokenizer.json"))
        rules = json.loads((folder / "tokenizer.json").read_text())
        put("tokenizer.json", json.dumps(rules | values))(folder)
    return spoil


NO_WEIGHTS = ("model.safetensors or pytorch_model.bin is missing",)
NO_FIT = ("model.safetensors does not fit config.json",)
DAMAGED = "damaged, incomplete or in another format"
DENSE = "encoder.layer.0.intermediate.dense.weight"
ONE = "expected exactly one of mean, cls, max"

# what it is -> (how to make it, then words of the refusal)
BROKEN: dict[str, tuple] = {
    # vocab.txt and tokenizer.json
    "no vocabulary": (remove("vocab.txt"), "vocab.txt or tokenizer.json is missing"),
    **{f"no {token}": (change_vocab(lambda tokens, gone=token.encode(): [
        each for each in tokens if each != gone]), "vocab.txt", f"lacks {token}")
       for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")},
    "a byte order mark": (change("vocab.txt", lambda content: b"\xef\xbb\xbf" + content),
                          "vocab.txt, line 1, column 1", "BOM"),
    "a token twice": (change_vocab(lambda tokens: [*tokens[:9], tokens[6], *tokens[10:]]),
                      "vocab.txt, line 10", "line 7"),
    "an empty line": (change_vocab(lambda tokens: [*tokens[:50], b"", *tokens[50:]]),
                      "vocab.txt, line 51", "empty"),
    "not UTF-8": (change_vocab(lambda tokens: [*tokens[:6], b"caf\xe9", *tokens[7:]]),
                  "vocab.txt, line 7", r"caf\xe9"),
    "only special tokens": (change_vocab(lambda tokens: tokens[:5]), "tokenizer has 5 tokens",
                            "embedding table"),
    "two tokens too many": (change_vocab(lambda tokens: [*tokens, b"one", b"more"]),
                            "tokenizer has", "embedding table"),
    "another order": (another_order, "vocab.txt", "different models"),
    "half a tokenizer.json": (put("tokenizer.json", '{"version": "1.0", "mod'),
                              "tokenizer.json", "JSON", "line 1 column 20"),
    "a tokenizer of another kind": (
        put("tokenizer.json", json.dumps({"model": {"type": "Unigram", "vocab": []}})),
        "tokenizer.json", "Unigram", "WordPiece"),
    "another tokenizer": (set_tokenizer(tokenizer_class="BertJapaneseTokenizer"),
                          "tokenizer_config.json", "BertJapaneseTokenizer"),
    "another tokenizer in config.json": (set_config(tokenizer_class="XLMRobertaTokenizer"),
                                         "config.json", "XLMRobertaTokenizer"),
    "tokenizer.json of another class": (set_tokenizer(tokenizer_class="TokenizersBackend"),
                                        "TokenizersBackend needs tokenizer.json"),
    **{f"rules of its own: {name}": (own_rules(**rules), "tokenizer.json has other rules",
                                     "PreTrainedTokenizerFast")
       for name, rules in {
           "cased": {"normalizer": {"type": "BertNormalizer", "clean_text": True,
                                    "handle_chinese_chars": True, "strip_accents": None,
                                    "lowercase": False}},
           "full-width signs": {"normalizer": {"type": "Sequence", "normalizers": [
               {"type": "NFKC"}, {"type": "Lowercase"}]}},
           "white space only": {"pre_tokenizer": {"type": "WhitespaceSplit"}},
           "no [CLS]": {"post_processor": None}}.items()},
    "no [CLS] at all": (
        both(own_rules(post_processor=None),
             set_tokenizer(tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]")),
        "empty text", "[CLS]"),
    "no [PAD] named": (both(own_rules(), set_tokenizer(
        tokenizer_class="PreTrainedTokenizerFast")), "[PAD]"),
    # config.json
    "no config.json": (remove("config.json"), "config.json is missing",
                       "model.safetensors, vocab.txt"),
    "no JSON": (put("config.json", '{\n  "model_type": "bert",\n  "hidden_size": \n}'),
                "config.json", "line 4 column 1", "JSON"),
    "a list": (put("config.json", "[1, 2]"), "config.json", "list"),
    "another architecture": (set_config(model_type="roberta"), "config.json", "'roberta'",
                             "expected bert"),
    "an odd size": (set_config(hidden_size=33), "config.json", "33"),
    "a number in words": (set_config(num_hidden_layers="two"), "config.json", "two"),
    "no size": (set_config(vocab_size=None), "config.json", "vocab_size"),
    "a decoder": (set_config(is_decoder=True), "config.json: is_decoder"),
    "a size below zero": (set_config(hidden_size=-32), "config.json", "-32"),
    # weights that do not fit
    "a layer too few": (set_config(num_hidden_layers=3), *NO_FIT, "Missing key(s)",
                        "encoder.layer.2.attention"),
    "a layer too many": (set_config(num_hidden_layers=1), *NO_FIT, "Unexpected key(s)",
                         "encoder.layer.1.attention"),
    **{f"no {name}": (without(name), "Missing key(s)", name)
       for name in ("embeddings.word_embeddings.weight",
                    "encoder.layer.1.output.LayerNorm.bias")},
    "another shape": (tensors(lambda t: t | {DENSE: torch.zeros(48, 32)}), DENSE, "[48, 32]",
                      "[64, 32]"),
    "whole numbers": (tensors(lambda t: {name: x.to(torch.int8) for name, x in t.items()}),
                      "embeddings.word_embeddings.weight", "floating point", "quantised"),
    **{f"weights of {value}": (tensors(
        lambda t, value=value: t | {DENSE: torch.full((64, 32), float(value))}),
        DENSE, "NaN or infinity") for value in ("nan", "inf", "-inf")},
    # weights that cannot be read
    "no weights": (remove("model.safetensors"), *NO_WEIGHTS),
    **{name: (rename("model.safetensors", name), *NO_WEIGHTS, name)
       for name in ("tf_model.h5", "flax_model.msgpack", "model.onnx")},
    **{f"{name} instead": (rename("model.safetensors", name), *NO_WEIGHTS, advice)
       for name, advice in {"pytorch_model.bin.index.json": "several files",
                            "model.safetensors.index.json": "several files",
                            "adapter_config.json": "an adapter"}.items()},
    "Google's own weights": (rename("model.safetensors", "bert_model.ckpt.index"),
                             *NO_WEIGHTS, "get the model's PyTorch weights"),
    "config.json of Google's": (rename("config.json", "bert_config.json"),
                                "config.json is missing", "rename it to config.json"),
    "a link to nowhere": (dangling, *NO_WEIGHTS, "link",
                          "model.safetensors -> /gone/model.safetensors"),
    **{f"{name}, a pointer": (put(name, LFS), name, "Git LFS", "git lfs pull")
       for name in ("model.safetensors", BIN)},
    **{f"{name}, {kind}": (put(name, content), name, DAMAGED)
       for name in ("model.safetensors", BIN)
       for kind, content in (("an answer of the proxy", PROXY), ("zeros", b"\0" * 5000),
                             ("JSON", '{"error": "Access to this model is restricted"}'))},
    **{f"safetensors cut at {cut}": (
        change("model.safetensors", lambda content, cut=cut: part(content, cut)),
        "model.safetensors", DAMAGED) for cut in (0, 1, 8, 100, 0.5, -1)},
    **{f"{kind} cut at {cut}": (to_bin(cut=cut, legacy=kind == "legacy"), BIN, DAMAGED)
       for kind in ("zip", "legacy") for cut in (0, 2, 2000, 0.5, -100, -1)},
    **{f"{kind} in a pickle": (to_bin(how), BIN, "is not a state dict")
       for kind, how in (("model", lambda t: {"model": t, "epoch": 3}),
                         ("a list", lambda t: list(t.values())))},
    "numbers for names": (to_bin(lambda t: dict(enumerate(t.values()))), BIN),
    # settings of sentence-transformers
    "modules.json, no JSON": (put("modules.json", "[{"), "modules.json", "line 1 column 3"),
    "modules.json of numbers": (put("modules.json", "[1]"), "modules.json"),
    "a part that we would leave out": (parts("Transformer", "Pooling", "Dense"),
                                       "modules.json", "Pooling, Dense"),
    "no pooling part": (parts("Transformer"), "modules.json asks for Transformer"),
    "an old layout": (parts("Transformer", "Pooling", paths=("0_BERT", "1_Pooling")),
                      "modules.json", "0_BERT", '"path"'),
    "the folder 1_Pooling is missing": (parts("Transformer", "Pooling"),
                                        "1_Pooling/config.json", "missing"),
    **{f"{name} without modules.json": (put(name, "{}"), "modules.json is missing",
                                        name.split("/")[0])
       for name in ("1_Pooling/config.json", "sentence_bert_config.json")},
    "no length": (both(pooling(pooling_mode="mean"), put("sentence_bert_config.json", "[1]")),
                  "sentence_bert_config.json"),
    **{f"a length of {length}": (
        beside_pooling("sentence_bert_config.json", max_seq_length=length),
        "sentence_bert_config.json: max_seq_length", repr(length))
       for length in ("long", 0, -1, 2)},
    "capitals lowered elsewhere": (
        both(beside_pooling("sentence_bert_config.json", do_lower_case=True),
             set_tokenizer(do_lower_case=False)),
        "sentence_bert_config.json: do_lower_case", "tokenizer_config.json"),
    **{f"settings in {name}": (
        beside_pooling("sentence_bert_config.json", **{name: {"do_lower_case": False}}),
        f"sentence_bert_config.json: {name}", "do_lower_case")
       for name in ("tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")},
    "padding on the left": (set_tokenizer(padding_side="left"), "tokenizer_config.json",
                            "padding_side is 'left', expected right"),
    "a prompt": (beside_pooling("config_sentence_transformers.json",
                                prompts={"query": "query: "}, default_prompt_name="query"),
                 "default_prompt_name", "'query: '"),
    "two poolings": (pooling(pooling_mode_mean_tokens=True, pooling_mode_max_tokens=True),
                     "pooling_mode_mean_tokens", "pooling_mode_max_tokens", ONE),
    "two poolings, one not ours": (
        pooling(pooling_mode_lasttoken=True, pooling_mode_cls_token=True),
        "pooling_mode_lasttoken", "pooling_mode_cls_token", ONE),
    "two poolings, by name": (pooling(pooling_mode=["mean", "max"]), "'mean', 'max'", ONE),
    "no pooling": (pooling(pooling_mode_mean_tokens=False), "1_Pooling/config.json", ONE),
    "another pooling": (pooling(pooling_mode="weightedmean"), "weightedmean", ONE),
}

# With these, there is more than one thing to report.
SEVERAL: dict[str, tuple] = {
    "nothing": (lambda folder: [path.unlink() for path in folder.iterdir()],
                "config.json is missing; the folder contains no files",
                "vocab.txt or tokenizer.json is missing", *NO_WEIGHTS),
}


@pytest.mark.parametrize("what", [*BROKEN, *SEVERAL])
def test_a_broken_folder_is_refused_with_the_file_and_the_reason(tiny_folder, what):
    spoil, *words = (BROKEN | SEVERAL)[what]
    spoil(tiny_folder)
    message = refusal(tiny_folder) if what in SEVERAL else only_problem(tiny_folder)
    for word in words:
        assert word in message
    assert "weights_only" not in message                               # no way round it


# Code that comes with a model

class Calls:
    """Pickles into a call of `function`."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


EVIL = {
    "os.system": lambda marker: Calls(os.system, f"touch {marker}"),
    "eval": lambda marker: Calls(eval, f"open({str(marker)!r}, 'w').close()"),
    "in a list": lambda marker: [torch.ones(2), [Calls(os.system, f"touch {marker}")]],
    "a whole module": lambda marker: torch.nn.Linear(2, 2),
}


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("evil", EVIL)
def test_a_malicious_pickle_never_runs(tiny_folder, tmp_path, how, evil):
    marker = tmp_path / "code_ran"
    to_bin(lambda t: t | {"evil": EVIL[evil](marker)}, legacy=how == "legacy")(tiny_folder)
    if how == "bare pickle":
        (tiny_folder / BIN).write_bytes(pickle.dumps({"evil": EVIL[evil](marker)}, protocol=2))
    message = only_problem(tiny_folder)
    assert not marker.exists()
    assert "pytorch_model.bin is a pickle that contains more than tensors" in message
    assert "Never load it with weights_only=False" in message
    assert "model.safetensors" in message


def test_the_malicious_pickle_would_run_if_it_were_unpickled(tmp_path):
    marker = tmp_path / "code_ran"
    pickle.loads(pickle.dumps(EVIL["os.system"](marker)))
    assert marker.exists()


@pytest.mark.parametrize(("spoil", "name"), [
    (set_config(auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}), "config.json"),
    (set_tokenizer(auto_map={"AutoTokenizer": ["evil.Evil", None]}), "tokenizer_config.json"),
])
def test_code_that_a_config_asks_for_never_runs(tiny_folder, tmp_path, spoil, name):
    spoil(tiny_folder)
    (tiny_folder / "evil.py").write_text(f"open({str(tmp_path / 'code_ran')!r}, 'w').close()\n")
    message = only_problem(tiny_folder)
    assert not (tmp_path / "code_ran").exists()
    assert f"{name}: auto_map" in message
    assert "never run" in message


@pytest.mark.parametrize("values", [
    {"num_labels": 10**12, "id2label": None, "label2id": None},
    {"attn_implementation": "evil/kernel"}, {"_attn_implementation": "evil/kernel"},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    {"return_dict": False}, {"dtype": "float16"}, {"torch_dtype": "float16"},
], ids=lambda values: next(iter(values)))
def test_entries_of_config_json_that_shape_no_bert_change_nothing(tiny_folder, values):
    """They could ask for kernels, quantise, mask the future, or halve the precision."""
    expected = embeddings(tiny_folder)
    set_config(**values)(tiny_folder)
    model = load(tiny_folder)
    assert np.array_equal(model.encode(TEXTS), expected)
    assert {tensor.dtype for tensor in model.bert.state_dict().values()} == {torch.float32}
