"""From the untouched model to its teachers: every model of notebook 11 scores the same pairs.

    python benchmarks/ladder.py

The models are those that `teacher.py train` and `sweep.py distilled` kept under runs/.
`RECIPE-soup` is the mean of a recipe's models, `RECIPE-halfway` that of the soup and the
untouched model. ladder.parquet gets the score of each dev and test pair by each model, in the
order of the files: numbers alone. ladder.json gets re-ranking, what the models do on other
kinds of texts, and speed: `pairs_per_second` is in float32 for the small siamese models and in
bfloat16 for the teachers, `bf16_pairs_per_second` is that of the small ones in bfloat16. A
model that is in both files is not scored again. This script reads test once for each model;
everything was chosen on dev before.
"""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from measuring import RESULTS, commit, keep, parser
from sweep import contrasts, helpdesk_right
from teacher import TEACHER, TEACHERS, cosines, read_both
from torch.optim.swa_utils import AveragedModel

from connection_utils import (
    ConnectionBert,
    documentation_pairs,
    mean_reciprocal_rank,
    read_splits,
)
from connection_utils.ground.paths import ROOT
from connection_utils.ground.whole_files import write_whole
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

STUDENTS = ROOT / "runs" / "students"
SCORES, FACTS = RESULTS / "ladder.parquet", RESULTS / "ladder.json"
CANDIDATES = 20                      # the nearest texts, which a cross-encoder sorts again
SAME = 0.8                           # the score from which a pair's texts answer each other


def soup(folders: list[Path]) -> ConnectionBert:
    """The mean of the models' weights (model soup: arXiv 2203.05482, uniform).

    With the starting model as often as all others together, the soup is halfway between both
    (WiSE-FT with a coefficient of 0.5: arXiv 2109.01903).
    """
    mean = AveragedModel(ConnectionBert.from_local(folders[0], device="cpu"))
    for folder in folders:
        mean.update_parameters(ConnectionBert.from_local(folder, device="cpu"))
    return mean.module


def by_cosine(model: ConnectionBert, pairs: pd.DataFrame) -> np.ndarray:
    """The cosine of each pair: (pairs,)."""
    return model.similarity(pairs["sentence1"], pairs["sentence2"])


def reranked(model: ConnectionBert, cross, pairs: pd.DataFrame) -> dict[str, object]:
    """Where the partner of a text comes in a search, and after sorting what was found again.

    Searched are the distinct texts of `pairs`; asked is sentence1 of each pair whose score is
    at least SAME. `reranked` is sorted by the cross-encoder's scores; `both` by their sum with
    the cosines, each divided by its standard deviation. The share of partners that come first,
    and the mean reciprocal rank, × 100; a partner beyond the CANDIDATES nearest counts 0.
    """
    texts = pd.unique(pairs[["sentence1", "sentence2"]].to_numpy().ravel())
    asked = pairs[(pairs["score"] >= SAME) & (pairs["sentence1"] != pairs["sentence2"])]
    vectors = model.encode([*texts], normalize=True)
    place = {text: row for row, text in enumerate(texts)}
    queries = asked["sentence1"].map(place).to_numpy()
    found = vectors[queries] @ vectors.T
    found[np.arange(len(queries)), queries] = -2                     # not the query itself
    nearest = np.argsort(-found, axis=1)[:, :CANDIDATES]
    started = time.perf_counter()
    scores = read_both(cross, pd.DataFrame({
        "sentence1": texts[np.repeat(queries, CANDIDATES)],
        "sentence2": texts[nearest.ravel()]})).reshape(nearest.shape)
    seconds = time.perf_counter() - started
    partner = asked["sentence2"].map(place).to_numpy()[:, None]
    result = {"queries": len(queries), "texts": len(texts), "candidates": CANDIDATES,
              "seconds_per_query": seconds / len(queries)}
    cosine = np.take_along_axis(found, nearest, axis=1)
    for name, by in (("search", cosine), ("reranked", scores),
                     ("both", cosine / cosine.std() + scores / scores.std())):
        hit = np.take_along_axis(nearest, np.argsort(-by, axis=1), axis=1) == partner
        reciprocal = np.where(hit.any(axis=1), 1 / (1 + hit.argmax(axis=1)), 0)
        result[name] = {"first": 100 * hit[:, 0].mean(), "mrr": 100 * reciprocal.mean()}
    return result


def main() -> None:
    """Score every model; write both files."""
    output = parser(__doc__).parse_args().output or FACTS
    from sentence_transformers import CrossEncoder, SentenceTransformer

    splits = read_splits(ROOT / DEFAULT_DATA)
    judged = pd.concat([splits["dev"], splits["test"]], keys=["dev", "test"])
    table = output.with_suffix(".parquet")
    scores = (pd.read_parquet(table) if table.exists()
              else pd.DataFrame(index=judged.index.set_names(["split", "row"])))
    facts = json.loads(output.read_text())["models"] if output.exists() else {}

    def score(name: str, model, scorer, *more) -> None:
        """A column of scores by `scorer(model, judged)`, and what each of `more` finds."""
        started = time.perf_counter()
        scores[name] = scorer(model, judged)
        facts[name] = {"pairs_per_second": len(judged) / (time.perf_counter() - started),
                       "commit": commit()}
        for each in more:
            facts[name] |= each(model)
        print(name, flush=True)

    def elsewhere(model: ConnectionBert) -> dict[str, object]:
        return {"elsewhere_mrr": 100 * mean_reciprocal_rank(model, documentation_pairs()),
                "helpdesk_right": helpdesk_right(model), "contrasts": contrasts(model)}

    def speed(model: ConnectionBert) -> dict[str, object]:
        """In bfloat16, as the teachers' is. That of all models of the same size."""
        started = time.perf_counter()
        model.similarity(judged["sentence1"], judged["sentence2"], precision="bf16")
        return {"bf16_pairs_per_second": len(judged) / (time.perf_counter() - started)}

    def reranks(cross) -> dict[str, object]:
        best = ConnectionBert.from_local(STUDENTS / "best-1", device="cpu")
        return {"rerank": reranked(best, cross, splits["dev"])}

    by_recipe = {}
    for folder in sorted(STUDENTS.glob("*-[0-9]")):
        by_recipe.setdefault(folder.name.rpartition("-")[0], []).append(folder)
    siamese = {"untouched": [ROOT / DEFAULT_MODEL]}
    for recipe, folders in by_recipe.items():
        siamese |= {folder.name: [folder] for folder in folders}
        if len(folders) > 1:
            siamese |= {f"{recipe}-soup": folders,
                        f"{recipe}-halfway": folders + len(folders) * [ROOT / DEFAULT_MODEL]}
    for name, folders in siamese.items():
        if name not in facts:
            more = (elsewhere, speed) if name == "untouched" else (elsewhere,)
            score(name, soup(folders), by_cosine, *more)
    for name, folder in {"untouched": TEACHER, "cosent": TEACHERS / "cosent"}.items():
        if f"teacher-{name}" not in facts:
            score(f"teacher-{name}", SentenceTransformer(str(folder), device="cpu"), cosines)
    for name in ("own", "cross"):
        if f"teacher-{name}" not in facts:
            score(f"teacher-{name}", CrossEncoder(str(TEACHERS / name), device="cpu"),
                  read_both, reranks)

    scores.attrs = {"command": "python benchmarks/ladder.py"}
    with write_whole(table) as scratch:
        scores.astype("float32").round(5).to_parquet(scratch, compression="zstd")
    keep(output, "ladder.py", models=facts)


if __name__ == "__main__":
    main()
