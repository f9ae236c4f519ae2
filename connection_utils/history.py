"""What happened in a training, step by step and evaluation by evaluation."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from connection_utils.config import TrainingConfig

@dataclass
class History:
    """What happened in training: a record for each evaluation, and every step's loss.

    `steps` are those planned; fewer losses mean that the run was stopped. `seconds` are
    those of the steps, evaluations left out. `dev_cosines` are those of the last
    evaluation, (pairs,).
    """

    config: TrainingConfig
    steps: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)
    pairs: int = 0
    seconds: float = 0.0
    dev_cosines: np.ndarray | None = None

    def to_frame(self) -> pd.DataFrame:
        """A row an evaluation: step, epoch, loss (mean since the last one), dev_spearman,
        seconds (of training, evaluations left out) and pairs_per_s."""
        return pd.DataFrame(self.evaluations).astype({"step": int})

    @property
    def best(self) -> dict[str, float]:
        """The evaluation whose weights were kept: the first with the highest dev Spearman."""
        return max(self.evaluations, key=lambda record: record["dev_spearman"])
