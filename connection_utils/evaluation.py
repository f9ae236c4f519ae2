"""How good the cosines are: correlation, search, a threshold, and a check for collapse."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from connection_utils.bert import ConnectionBert
from connection_utils.ground.numbers import check_number

# A collapsed model gives all texts nearly the same vector. Random unpaired texts should be far
# from each other: above this mean cosine the model is called collapsed.
COLLAPSE_MEAN = 0.8
SAME = 1e-6           # cosines that differ by less are equal but for rounding


class ConstantPredictionError(ValueError):
    """All cosines, or all scores, are the same number, so no correlation exists."""


def spearman(scores: np.ndarray, cosines: np.ndarray) -> float:
    """Spearman's rank correlation, -1..1 (papers print it times 100).

    It is 1 if the cosines have the same order as the scores: it compares ranks, not values. The
    usual measure for the STS benchmark, sentence pairs with human scores from 0 to 5
    (Sentence-BERT, arXiv 1908.10084, section 4.1). Raises ConstantPredictionError where it
    would be NaN.
    """
    _refuse_constant(scores, cosines)
    return float(stats.spearmanr(scores, cosines).statistic)


def bootstrap_interval(scores: np.ndarray, cosines: np.ndarray, statistic=spearman,
                       resamples: int = 1000, seed: int = 12) -> tuple[float, float]:
    """95 % bootstrap interval of `statistic`.

    Pairs are resampled with replacement; the ends are the 2.5th and the 97.5th percentile of
    the resampled values. `cosines` may have several columns, if `statistic` takes them.
    """
    check_number("resamples", resamples, int, 1)
    check_number("seed", seed, int, 0)
    scores, cosines = np.asarray(scores), np.asarray(cosines)
    statistic(scores, cosines)                # raises if there is nothing to correlate
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows = rng.integers(len(scores), size=len(scores))
        try:
            drawn.append(statistic(scores[rows], cosines[rows]))
        except ConstantPredictionError:       # with few pairs a resample may be one pair
            continue
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def gain_interval(scores: np.ndarray, before: np.ndarray, after: np.ndarray,
                  resamples: int = 1000, seed: int = 12) -> tuple[float, float, float]:
    """The gain in Spearman from `before` to `after`, and its 95 % interval: (gain, low, high).

    `before` and `after` are cosines of the same pairs, (n,) each, by two models. Each resample
    has the same pairs for both (a paired bootstrap): a pair that is hard for one model is often
    hard for the other, so the interval is narrower than the two models' own intervals.
    """
    def gain(scores: np.ndarray, both: np.ndarray) -> float:
        return spearman(scores, both[:, 1]) - spearman(scores, both[:, 0])

    both = np.stack([before, after], axis=1)                    # (n, 2)
    low, high = bootstrap_interval(scores, both, gain, resamples, seed)
    return gain(np.asarray(scores), both), low, high


def choose_threshold(connected: np.ndarray, cosines: np.ndarray) -> float:
    """The threshold with the highest F1; pairs at or above it are called connected.

    `connected` is the truth (bool). F1 is the harmonic mean of precision and recall. Choose on
    dev, then judge once on test with `judge_threshold`: a cosine is not a probability, and 0.5
    means nothing by itself. The result is halfway between two pairs' cosines.
    """
    connected = np.asarray(connected, dtype=bool)
    cosines = np.asarray(cosines, dtype=np.float64)    # halfway between two float32
    if connected.all() or not connected.any():
        raise ValueError(f"{connected.sum()} of {len(connected)} pairs are connected; "
                         "expected some of both kinds")
    from sklearn.metrics import precision_recall_curve  # training does not need it

    precision, recall, thresholds = precision_recall_curve(connected, cosines)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = thresholds[np.argmax(f1[:-1])]                 # the last point has no threshold
    next_lower = max(cosines[cosines < best], default=best)
    return float((best + next_lower) / 2)


def judge_threshold(connected: np.ndarray, cosines: np.ndarray, threshold: float
                    ) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and the four counts of the confusion matrix."""
    from sklearn.metrics import confusion_matrix

    check_number("threshold", threshold, float)
    said = np.asarray(cosines, dtype=np.float64) >= threshold
    tn, fp, fn, tp = confusion_matrix(connected, said, labels=[False, True]).ravel().tolist()
    return {
        "accuracy": (tp + tn) / len(said),
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else 0.0,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
        "true_positive": tp, "false_positive": fp, "false_negative": fn, "true_negative": tn,
    }


def mean_reciprocal_rank(model: ConnectionBert, pairs: pd.DataFrame) -> float:
    """Mean reciprocal rank (MRR), 0..1: how high each first sentence ranks its own partner.

    For pairs that are all connected and have no scores. For each first sentence all second
    sentences are ranked by cosine: 1 if its own always comes first, 1/2 if it always comes
    second. With one correct answer per row, scikit-learn's average precision is the same.
    """
    from sklearn.metrics import label_ranking_average_precision_score

    first, second = (model.encode(pairs[side], normalize=True)
                     for side in ("sentence1", "sentence2"))             # (rows, hidden)
    return float(label_ranking_average_precision_score(np.eye(len(pairs)), first @ second.T))


@dataclass(frozen=True)
class CollapseCheck:
    """Cosines of random unpaired texts, (n,), and what they mean."""

    cosines: np.ndarray

    @property
    def collapsed(self) -> bool:
        """True if even unpaired texts have high cosines: the model tells nothing apart."""
        return float(self.cosines.mean()) > COLLAPSE_MEAN

    def __str__(self) -> str:
        state = ("COLLAPSED: texts that have nothing to do with each other score alike. If "
                 "training did it, lower the learning rate; an untrained BERT may start so"
                 if self.collapsed else "not collapsed")
        return f"random unpaired texts: mean cosine {self.cosines.mean():.2f} ({state})"


def check_collapse(model: ConnectionBert, pairs: pd.DataFrame, sample: int = 1000,
                   seed: int = 12) -> CollapseCheck:
    """Score each of `sample` first sentences against another row's second sentence.

    A collapsed model gives every pair nearly the same cosine. The loss may still be low, if
    most pairs are connected or the loss only ranks; this check finds it all the same.
    """
    return CollapseCheck(model.similarity(*unpaired_texts(pairs, sample, seed)))


def unpaired_texts(pairs: pd.DataFrame, sample: int = 1000, seed: int = 12
                   ) -> tuple[np.ndarray, np.ndarray]:
    """First sentences, each with another row's second sentence; (n,) each, n <= sample."""
    check_number("sample", sample, int, 1)
    check_number("seed", seed, int, 0)
    if len(pairs) < 2:
        raise ValueError(f"{len(pairs)} pair; expected at least 2, to form unpaired texts")
    rows = np.random.default_rng(seed).permutation(len(pairs))
    return (pairs["sentence1"].to_numpy()[rows[:sample]],
            pairs["sentence2"].to_numpy()[np.roll(rows, 1)[:sample]])


def _refuse_constant(scores: np.ndarray, cosines: np.ndarray) -> None:
    for name, values in (("scores", scores), ("cosines", cosines)):
        values = np.asarray(values)
        if not np.isfinite(values).all():
            raise ValueError(f"{(~np.isfinite(values)).sum()} of the {len(values)} {name} "
                             "are not finite; the training has diverged, or the file is faulty")
        if len(values) < 2 or np.ptp(values) < SAME:
            remedy = ("The model has collapsed; if training did it, lower the learning rate."
                      if name == "cosines" else "Expected pairs with different scores.")
            raise ConstantPredictionError(
                f"all {len(values)} {name} are {values[:1]}: nothing can be ranked. {remedy}")
