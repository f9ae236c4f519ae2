"""What happened in a training, step by step and evaluation by evaluation."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from connection_utils.config import TrainingConfig

@dataclass
class History:
    """What happened in training: a record for each evaluation, and every step's loss.

    The first record is that of step 0, the starting model: its `loss` and `pairs_per_s` are
    None. `steps` are those planned; fewer losses mean that the run was stopped. `seconds` are
    those of the steps, evaluations left out. The cosines of the dev pairs, (pairs,) each, are
    kept of three evaluations: the last, the first (step 0), and the best of those after it.
    Without `keep_start` the starting model is shown, but never the best.
    """

    config: TrainingConfig
    steps: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)
    pairs: int = 0
    seconds: float = 0.0
    dev_cosines: np.ndarray | None = None
    start_cosines: np.ndarray | None = None
    trained_cosines: np.ndarray | None = None
    keep_start: bool = True

    def add(self, epoch: float, dev_spearman: float) -> dict[str, float]:
        """Append the record of an evaluation, that of `dev_cosines`, and return it."""
        losses = self.step_losses[self.evaluations[-1]["step"] if self.evaluations else 0:]
        trained = [each["dev_spearman"] for each in self.evaluations if each["step"]]
        record = {"step": len(self.step_losses), "epoch": epoch,
                  "loss": sum(losses) / len(losses) if losses else None,
                  "dev_spearman": dev_spearman, "seconds": self.seconds,
                  "pairs_per_s": self.pairs / self.seconds if losses else None}
        self.evaluations.append(record)
        if not losses:
            self.start_cosines = self.dev_cosines
        elif dev_spearman > max(trained, default=-np.inf):
            self.trained_cosines = self.dev_cosines
        return record

    def to_frame(self) -> pd.DataFrame:
        """A row for each evaluation: step, epoch, loss (mean since the last one),
        dev_spearman, seconds (of training, evaluations left out) and pairs_per_s."""
        columns = {"step": int, "epoch": float, "loss": float, "dev_spearman": float,
                   "seconds": float, "pairs_per_s": float}
        return pd.DataFrame(self.evaluations, columns=[*columns]).astype(columns)

    @property
    def best(self) -> dict[str, float]:
        """The evaluation whose weights were kept: the first with the highest dev Spearman.

        That is step 0, the starting model, if no evaluation after it is higher.
        """
        trained = [record for record in self.evaluations if record["step"]]
        return max(self.evaluations if self.keep_start or not trained else trained,
                   key=lambda record: record["dev_spearman"])

    @property
    def kept_start(self) -> bool:
        """True if no evaluation beat the starting model, whose weights were then kept."""
        return bool(self.evaluations) and self.best["step"] == 0
