"""The settings of a training, and recipes: named settings that worked well."""

from dataclasses import asdict, dataclass, field, fields

# The names in losses.LOSSES and bert.POOLINGS. They are repeated here so that --help need not
# import torch, which takes seconds.
LOSS_NAMES = ("cosine_mse", "cosent", "multiple_negatives_ranking")
POOLING_NAMES = ("mean", "cls", "max")

NO_EFFECT = {"decides": False}         # marks settings that do not change the weights


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that determines a training run, apart from the model and the data.

    The last two settings have no effect on the weights: with them a killed run can continue.
    """

    epochs: int = 1
    batch_size: int = 16               # pairs
    gradient_accumulation_steps: int = 1   # batches per optimizer step
    bucket: int = 1                    # 1: shuffled; n: sorted by length within n batches
    learning_rate: float = 5e-5        # the highest, at the end of the warm-up
    warmup_ratio: float = 0.1          # fraction of the steps; then linear decay to 0
    weight_decay: float = 0.01         # AdamW; not on biases and LayerNorm
    max_grad_norm: float = 1.0
    loss: str = "cosine_mse"           # a name in losses.LOSSES
    evaluations_per_epoch: int = 4     # on the dev pairs; the best weights are kept
    freeze_embeddings: bool = False    # do not train the embedding tables
    frozen_layers: int = 0             # lowest layers not to train (nor the embeddings then)
    train_share: float = 1.0           # fraction of the training pairs to use, at random
    average_from: float = 1.0          # average the weights after this fraction of the steps
    start_share: float = 0.0           # mix this fraction of the starting weights into the kept
    seed: int = 12                     # order of the pairs, and dropout
    checkpoint_every: int = field(default=0, metadata=NO_EFFECT)    # steps; 0: never
    resume: bool = field(default=False, metadata=NO_EFFECT)         # continue from a checkpoint

    def __post_init__(self) -> None:
        if self.loss not in LOSS_NAMES:
            raise ValueError(f"loss is {self.loss!r}; expected one of {', '.join(LOSS_NAMES)}")
        for name, low in (("epochs", 1), ("batch_size", 1), ("bucket", 1),
                          ("gradient_accumulation_steps", 1), ("evaluations_per_epoch", 1),
                          ("frozen_layers", 0), ("checkpoint_every", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {low} or more")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a number "
                             "between 0 and 1, such as 5e-5")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}; expected 0 to 1")
        if not 0 <= self.average_from <= 1:
            raise ValueError(f"average_from is {self.average_from}; expected 0 to 1 (1: the "
                             "weights are not averaged)")
        if not 0 <= self.start_share < 1:
            raise ValueError(f"start_share is {self.start_share}; expected a number from 0 "
                             "(nothing of the starting weights) to below 1")
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share is {self.train_share}; expected a number above 0, "
                             "up to 1 (all pairs)")


def deciding(config: TrainingConfig) -> dict[str, object]:
    """The settings that have an effect on the trained weights, by name."""
    return {setting.name: asdict(config)[setting.name] for setting in fields(config)
            if setting.metadata.get("decides", True)}


# Measured on few pairs and on many: benchmarks/results/sweep_recipes.jsonl
RECIPES = {
    "post": TrainingConfig(),                       # the study post's; notebook 03 uses it
    "fast": TrainingConfig(loss="cosent", epochs=1, frozen_layers=2, learning_rate=8e-5,
                           evaluations_per_epoch=1),
    "best": TrainingConfig(loss="cosent", epochs=2, freeze_embeddings=True,
                           evaluations_per_epoch=1, average_from=0.75),
}
HOLDS_FROM = {"post": 150, "fast": 150, "best": 150}     # fewest training pairs it was tried on


def recipe_doubt(recipe: str, pairs: int) -> str | None:
    """A warning if `recipe` was not tried on so few training `pairs`, otherwise None."""
    if pairs >= HOLDS_FROM[recipe]:
        return None
    return (f"recipe {recipe} was measured on {HOLDS_FROM[recipe]:,} training pairs and more; "
            f"these are {pairs:,}. It may bring nothing: read the gain on dev, and its "
            "interval.")
