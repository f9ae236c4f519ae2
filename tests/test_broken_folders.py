"""A model folder that cannot be used is refused: the file is named, and what is wrong with it.

BROKEN holds what happens by accident. HOSTILE holds what somebody made who means harm: those
folders are loaded in a process of their own, which is watched.
"""

import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import zipfile
from collections import OrderedDict
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
    put,
    refusal,
    remove,
    rename,
    set_config,
    set_tokenizer,
)
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer

from connection_utils import ModelFolderError, check_model_dir

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:53aa\nsize 90868376\n"
PROXY = "<!DOCTYPE html><html><body>403 Forbidden by your proxy</body></html>"


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


def another_order(folder: Path) -> None:
    """vocab.txt and tokenizer.json hold the same words with other ids."""
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    change_vocab(lambda tokens: tokens[:5] + tokens[:4:-1])(folder)


def dangling(folder: Path) -> None:
    """model.safetensors is a link that leads nowhere."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/gone/model.safetensors")


def without(name: str) -> Spoil:
    return tensors(lambda t: {key: value for key, value in t.items() if key != name})


NO_WEIGHTS = ("expected model.safetensors or pytorch_model.bin",)
DENSE = "encoder.layer.0.intermediate.dense.weight"

# what it is -> (how to make it, then words of the refusal)
BROKEN: dict[str, tuple] = {
    # vocab.txt
    "no vocabulary": (remove("vocab.txt"), "vocab.txt is missing", "[UNK]"),
    **{f"no {token}": (change_vocab(lambda tokens, gone=token.encode(): [
        each for each in tokens if each != gone]), "vocab.txt", f"lacks {token}")
       for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")},
    "a byte order mark": (change("vocab.txt", lambda content: b"\xef\xbb\xbf" + content),
                          "vocab.txt, line 1, column 1", "UTF-8 without BOM"),
    "a token twice": (change_vocab(lambda tokens: [*tokens[:9], tokens[6], *tokens[10:]]),
                      "vocab.txt, line 10", "line 7"),
    "not UTF-8": (change_vocab(lambda tokens: [*tokens[:6], b"caf\xe9", *tokens[7:]]),
                  "vocab.txt, line 7", "0xe9"),
    "two tokens too many": (change_vocab(lambda tokens: [*tokens, b"one", b"more"]),
                            "tokenizer has", "IndexError"),
    "another order": (another_order, "vocab.txt", "different models"),
    "half a tokenizer.json": (put("tokenizer.json", '{"version": "1.0", "mod'), "tokenizer"),
    # config.json
    "no config.json": (remove("config.json"), "config.json is missing",
                       "model.safetensors, vocab.txt"),
    "no JSON": (put("config.json", '{\n  "model_type": "bert",\n  "hidden_size": \n}'),
                "config.json, line 4, column 1", "JSON"),
    "a list": (put("config.json", "[1, 2]"), "config.json", "expected an object, found list"),
    "another architecture": (set_config(model_type="roberta"), "config.json", "'roberta'",
                             "expected 'bert'"),
    "an odd size": (set_config(hidden_size=33), "config.json"),
    "a number in words": (set_config(num_hidden_layers="two"), "config.json"),
    "no size": (set_config(vocab_size=None), "config.json"),
    # weights that do not fit
    "a layer too few": (set_config(num_hidden_layers=3), "lacks 16 of the 53 tensors",
                        "encoder.layer.2.attention", "random"),
    "a layer too many": (set_config(num_hidden_layers=1), "holds 16 tensors",
                         "encoder.layer.1.attention"),
    **{f"no {name}": (without(name), "lacks 1 of the 37 tensors", name)
       for name in ("embeddings.word_embeddings.weight",
                    "encoder.layer.1.output.LayerNorm.bias")},
    "another shape": (tensors(lambda t: t | {DENSE: torch.zeros(48, 32)}), DENSE, "(48, 32)",
                      "(64, 32)"),
    "whole numbers": (tensors(lambda t: {name: x.to(torch.int8) for name, x in t.items()}),
                      "embeddings.word_embeddings.weight", "torch.int8"),
    # weights that cannot be read
    "no weights": (remove("model.safetensors"), *NO_WEIGHTS),
    **{name: (rename("model.safetensors", name), *NO_WEIGHTS, name)
       for name in ("tf_model.h5", "flax_model.msgpack", "model.onnx",
                    "pytorch_model.bin.index.json")},
    "a link to nowhere": (dangling, "model.safetensors", "link", "/gone/model.safetensors"),
    **{f"{name}, a pointer": (put(name, LFS), name, "Git LFS", "git lfs pull")
       for name in ("model.safetensors", BIN)},
    **{f"{name}, {kind}": (put(name, content), name, "damaged or was not copied whole")
       for name in ("model.safetensors", BIN)
       for kind, content in (("an answer of the proxy", PROXY), ("zeros", b"\0" * 5000),
                             ("JSON", '{"error": "Access to this model is restricted"}'))},
    **{f"safetensors cut at {cut}": (
        change("model.safetensors", lambda content, cut=cut: part(content, cut)),
        "model.safetensors", "damaged or was not copied whole")
       for cut in (0, 1, 8, 100, 0.5, -1)},
    **{f"{kind} cut at {cut}": (to_bin(cut=cut, legacy=kind == "legacy"), BIN,
                                "damaged or was not copied whole")
       for kind in ("zip", "legacy") for cut in (0, 2, 2000, 0.5, -100, -1)},
    **{f"{kind} in a pickle": (to_bin(how), BIN, "is not a state dict")
       for kind, how in (("model", lambda t: {"model": t, "epoch": 3}),
                         ("a list", lambda t: list(t.values())),
                         ("numbers for names", lambda t: dict(enumerate(t.values()))))},
    "a whole module": (to_bin(lambda t: torch.nn.Linear(2, 2)), BIN, "more than tensors"),
}

# With these, there is more than one thing to report.
SEVERAL: dict[str, tuple] = {
    "only special tokens": (change_vocab(lambda tokens: tokens[:5]), "5 special tokens"),
    "an empty line": (change_vocab(lambda tokens: [*tokens[:50], b"", *tokens[50:]]),
                      "vocab.txt, line 51"),
    "nothing": (lambda folder: [path.unlink() for path in folder.iterdir()],
                "config.json is missing (the folder holds no file at all)",
                "vocab.txt is missing", "the weights are missing"),
}


@pytest.mark.parametrize("what", [*BROKEN, *SEVERAL])
def test_a_broken_folder_is_refused_with_the_file_and_the_reason(tiny_folder, what):
    spoil, *words = (BROKEN | SEVERAL)[what]
    spoil(tiny_folder)
    message = refusal(tiny_folder) if what in SEVERAL else only_problem(tiny_folder)
    for word in words:
        assert word in message
    assert "weights_only" not in message or what == "a whole module"   # no way round it


# From somebody who means harm

class Calls:
    """Pickles into a call of `function`."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


class SetsState:
    """Runs code of its own when it is unpickled, though nothing is called by name."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __setstate__(self, state: dict) -> None:
        Path(state["marker"]).touch()


EVIL = {
    "os.system": lambda marker: Calls(os.system, f"touch {marker}"),
    "eval": lambda marker: Calls(eval, f"open({str(marker)!r}, 'w').close()"),
    "exec": lambda marker: Calls(exec, f"open({str(marker)!r}, 'w').close()"),
    "subprocess": lambda marker: Calls(subprocess.check_call, ["touch", str(marker)]),
    "setstate": SetsState,
    "in a list": lambda marker: [torch.ones(2), [Calls(os.system, f"touch {marker}")]],
    "in a dict": lambda marker: {"a": {"b": Calls(os.system, f"touch {marker}")}},
}


BY_HAND = {
    "inst": lambda marker: b"(S'touch %b'\nios\nsystem\n." % bytes(marker),
    "obj": lambda marker: b"(cos\nsystem\nS'touch %b'\no." % bytes(marker),
    "stack_global": lambda marker: b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c%c%b\x85R." % (
        len(bytes(marker)) + 6, b"touch " + bytes(marker)),
}


def write_pickle(path: Path, pickled: bytes, how: str) -> None:
    """Put `pickled` where torch.save has its own: in the zip, the old format, or alone."""
    if how == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/version", "3\n")
    elif how == "legacy":
        serialization = torch.serialization
        start = (serialization.MAGIC_NUMBER, serialization.PROTOCOL_VERSION, {})
        path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in start) + pickled)
    else:
        path.write_bytes(pickled)


def assert_refused_unrun(folder: Path, marker: Path) -> None:
    message = only_problem(folder)
    assert not marker.exists()
    assert "pytorch_model.bin is a pickle that asks for more than tensors" in message
    assert "Never load it with weights_only=False" in message


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("evil", EVIL)
def test_a_malicious_pickle_never_runs(tiny_folder, tmp_path, how, evil):
    marker = tmp_path / "code_ran"
    to_bin(lambda t: t | {"evil": EVIL[evil](marker)}, legacy=how == "legacy")(tiny_folder)
    if how == "bare pickle":
        (tiny_folder / BIN).write_bytes(pickle.dumps({"evil": EVIL[evil](marker)}, protocol=2))
    assert_refused_unrun(tiny_folder, marker)


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("evil", BY_HAND)
def test_a_malicious_pickle_written_by_hand_never_runs(tiny_folder, tmp_path, how, evil):
    marker = tmp_path / "code_ran"
    (tiny_folder / "model.safetensors").unlink()
    write_pickle(tiny_folder / "pytorch_model.bin", BY_HAND[evil](marker), how)
    assert_refused_unrun(tiny_folder, marker)


def compressed(path: Path) -> None:
    """An archive bomb: 200 MB of zeros in 200 kB."""
    torch.save({"a": torch.zeros(50_000_000)}, path)
    with zipfile.ZipFile(path) as stored:
        entries = [(name, stored.read(name)) for name in stored.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def lying_archive(path: Path) -> None:
    """An archive whose directory declares an entry larger than the file."""
    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    content = path.read_bytes()
    entry = content.index(b"PK\1\2", start)
    huge = (4 * 10**9).to_bytes(4, "little")
    path.write_bytes(content[:entry + 20] + huge + huge + content[entry + 28:])


def lying_header(path: Path) -> None:
    """A safetensors file whose header promises 4 TB."""
    header = json.dumps({"embeddings.word_embeddings.weight": {
        "dtype": "F32", "shape": [10**9, 1000], "data_offsets": [0, 4 * 10**12]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4000))


def lying_storage(path: Path) -> None:
    """torch.save's old format with a tensor of 40 GB, of which nothing follows."""
    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> tuple | None:
            if isinstance(thing, Storage):
                return "storage", torch.FloatStorage, "0", "cpu", 10**10, None
            return None

    pickled = io.BytesIO()
    Pickler(pickled, protocol=2).dump({"a": Calls(
        torch._utils._rebuild_tensor_v2, Storage(), 0, (10**10,), (1,), False, OrderedDict())})
    write_pickle(path, pickled.getvalue() + pickle.dumps([], protocol=2), "legacy")


def tuples_of_tuples(levels: int = 30) -> bytes:
    """A dict's key that is a tuple of one tuple twice, and so on: 2**30 to be hashed."""
    doubled = b"".join(b"q%ch%c\x86" % (i, i) for i in range(levels))
    return b"\x80\x02}(X\x01\x00\x00\x00a\x85" + doubled + b"K\x01u."


def weights(write: Callable[[Path], object], name: str = BIN) -> Spoil:
    """Let `write` make the weights file."""
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write(folder / name)
    return spoil


def no_file(name: str, kind: str) -> Spoil:
    """Put something that is no file in the place of `name`."""
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        if kind == "folder":
            (folder / name).mkdir()
        else:
            os.mknod(folder / name, 0o600 | {"named pipe": stat.S_IFIFO,
                                             "socket": stat.S_IFSOCK}[kind])
    return spoil


def grow(name: str, size: int) -> Spoil:
    """Make the file so long; it takes no room on the disk."""
    return lambda folder: os.truncate(folder / name, size)


SIX_GB = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xbc\xa0\x65\x01\x85R."

# what it is -> (how to make it, then words of the refusal)
HOSTILE: dict[str, tuple] = {
    "config.json with code": (set_config(auto_map={"AutoModel": "modeling_evil.Evil"}),
                              "config.json", "auto_map"),
    "config.json with empty code": (set_config(auto_map=None), "config.json", "auto_map"),
    "tokenizer with code": (
        set_tokenizer(auto_map={"AutoTokenizer": ["evil--tokenizer.Evil", None]}),
        "tokenizer_config.json", "auto_map"),
    "another tokenizer": (set_tokenizer(tokenizer_class="BertJapaneseTokenizer"),
                          "tokenizer_config.json", "BertJapaneseTokenizer"),
    "another tokenizer in config.json": (set_config(tokenizer_class="XLMRobertaTokenizer"),
                                         "config.json", "XLMRobertaTokenizer"),
    "a tokenizer of another kind": (
        put("tokenizer.json", json.dumps({"model": {"type": "Unigram", "vocab": []}})),
        "tokenizer.json", "Unigram", "expected 'WordPiece'"),
    "vocabulary without end": (set_tokenizer(vocab="/dev/zero"), "tokenizer_config.json",
                               "'vocab'"),
    "vocabulary without end, second way": (
        put("special_tokens_map.json", json.dumps({"vocab": "/dev/zero"})),
        "special_tokens_map.json", "'vocab'"),
    **{f"{name} of {value}": (set_config(**{name: value}), f"config.json: {name} is {value}",
                              "expected a whole number")
       for name, value in (("num_hidden_layers", 10**9), ("vocab_size", 10**12),
                           ("hidden_size", -32), ("max_position_embeddings", 512.5),
                           ("num_attention_heads", True))},
    "deep config.json": (put("config.json", "[" * 100_000), "config.json", "recursion"),
    "archive bomb": (weights(compressed), BIN, "entries are compressed"),
    "archive that lies": (weights(lying_archive), BIN, "torch.save did not write"),
    "safetensors that lie": (weights(lying_header, "model.safetensors"), "model.safetensors"),
    "old format that lies": (weights(lying_storage), BIN),
    "a tensor of one number": (
        weights(lambda path: torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, path)),
        BIN, "4,000,000,000,000 bytes"),
    "32 bytes for 6 GB": (put(BIN, SIX_GB), BIN, "builtins.bytearray"),
    "tuples of tuples": (put(BIN, tuples_of_tuples()), BIN, "work without end"),
    "a pickle of commands": (
        weights(lambda path: torch.save({"a": Calls(os.system, "touch ran")}, path)),
        BIN, "posix.system"),
    **{f"{name} as a {kind}": (no_file(name, kind), f"{name} is a {kind}", "expected a file")
       for name, kind in (("config.json", "named pipe"), ("vocab.txt", "folder"),
                          ("tokenizer.json", "socket"), ("model.safetensors", "named pipe"))},
    **{f"{name} too large": (grow(name, most + 1), name, f"{most + 1:,} bytes",
                             f"at most {most:,}")
       for name, most in (("config.json", 10**6), ("vocab.txt", 10**8))},
}


WATCHED = """
import json, resource, sys, time
seen, watched = [], ["socket."]
sys.addaudithook(lambda event, _: seen.append(event)
                 if event.startswith(tuple(watched)) else None)
from connection_utils import ConnectionBert, ModelFolderError
ConnectionBert.from_local(sys.argv[1], device="cpu")
watched += ["subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "pickle."]
said = {}
for folder in sys.argv[2:]:
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        ConnectionBert.from_local(folder, device="cpu")
    except ModelFolderError as error:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        said[folder] = str(error), time.monotonic() - start, grown / 1024
print(json.dumps([seen, said]))
"""


@pytest.fixture(scope="module")
def judged(_tiny_template, tmp_path_factory) -> dict[str, tuple[str, float, float]]:
    """What loading each hostile folder said, in how many seconds, and with how many MB more."""
    place = tmp_path_factory.mktemp("hostile")
    for what, (spoil, *_) in HOSTILE.items():
        spoil(Path(shutil.copytree(_tiny_template, place / what)))
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(_tiny_template), *HOSTILE], cwd=place, timeout=200,
        env={**os.environ, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen, said = json.loads(done.stdout.splitlines()[-1])
    assert seen == []                               # no process, no socket, no pickle opened
    assert not (place / "ran").exists()
    return said


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_folder_runs_nothing_asks_no_network_and_takes_little(judged, what):
    message, seconds, megabytes = judged[what]
    for word in HOSTILE[what][1:]:
        assert word in message
    assert seconds < 10
    assert megabytes < 100


def test_an_archive_bomb_is_refused_from_its_directory(tiny_folder, monkeypatch):
    HOSTILE["archive bomb"][0](tiny_folder)
    assert (tiny_folder / BIN).stat().st_size < 10**6
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was read"))
    assert "200," in only_problem(tiny_folder)         # MB that it would have filled


@pytest.mark.parametrize("values", [
    {"num_labels": 10**12, "id2label": None, "label2id": None},
    {"attn_implementation": "evil/kernel"}, {"_attn_implementation": "evil/kernel"},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    {"return_dict": False}, {"dtype": "float16"}, {"torch_dtype": "float16"},
    {"custom": "x" * 1000},
], ids=lambda values: next(iter(values)))
def test_entries_of_config_json_that_shape_no_bert_change_nothing(tiny_folder, values):
    """They could fill the memory, load kernels, quantise, or halve the precision."""
    expected = embeddings(tiny_folder)
    set_config(**values)(tiny_folder)
    model = load(tiny_folder)
    assert np.array_equal(model.encode(TEXTS), expected)
    assert {tensor.dtype for tensor in model.bert.state_dict().values()} == {torch.float32}


def test_a_file_that_may_not_be_read_is_named(tiny_folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "vocab.txt")
    assert only_problem(tiny_folder) == "vocab.txt cannot be read. Mend its permissions."


def test_names_in_a_file_cannot_steer_the_terminal(tiny_folder):
    tensors(lambda t: t | {"encoder.\x1b[2J": torch.ones(1),
                           "\x1b]0;head": torch.ones(1)})(tiny_folder)
    report = check_model_dir(tiny_folder)
    assert "encoder.?[2J" in str(report)
    assert "\x1b" not in str(report)
    with pytest.raises(ModelFolderError) as raised:
        report.raise_if_broken()
    assert "\x1b" not in str(raised.value)
