"""The settings of a training, and those that have proved well, by name."""

from dataclasses import asdict, dataclass, field, fields

# What losses.py and bert.py know by name. Both import torch, which takes seconds: a command
# line says before that what it expects.
LOSS_NAMES = ("cosine_mse", "cosent", "multiple_negatives_ranking")
POOLING_NAMES = ("mean", "cls", "max")

ASIDE = {"decides": False}             # what makes no difference to the weights


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides a training run, apart from the model and the data.

    The last two decide nothing: they say how it survives being killed.
    """

    epochs: int = 1
    batch_size: int = 16               # pairs
    gradient_accumulation_steps: int = 1   # so many batches make one step: less memory each
    bucket: int = 1                    # 1: shuffled; more: so many sorted by length together
    learning_rate: float = 5e-5        # at the end of the warm-up
    warmup_ratio: float = 0.1          # share of the steps; then down to 0 in a line
    weight_decay: float = 0.01         # AdamW; not on biases and LayerNorm
    max_grad_norm: float = 1.0
    loss: str = "cosine_mse"           # a name in losses.LOSSES
    evaluations_per_epoch: int = 4     # dev Spearman; the best weights are kept
    freeze_embeddings: bool = False    # the embedding tables stay as they are
    frozen_layers: int = 0             # so many of the lowest layers, and the embeddings
    train_share: float = 1.0           # of the training pairs, drawn by the seed
    average_from: float = 1.0          # from this share of the steps on, keep mean weights
    start_share: float = 0.0           # of what is kept: so much is the starting weights
    seed: int = 12                     # order of the pairs, and dropout
    checkpoint_every: int = field(default=0, metadata=ASIDE)     # steps; 0: never
    resume: bool = field(default=False, metadata=ASIDE)          # go on from a checkpoint

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
    """The settings that decide which weights come out; the others are left out."""
    return {setting.name: asdict(config)[setting.name] for setting in fields(config)
            if setting.metadata.get("decides", True)}


# What each was measured to bring, on few pairs and on many: benchmarks/results/sweep_recipes.jsonl
RECIPES = {
    "post": TrainingConfig(),                       # the original post's; notebook 03 trains it
    "fast": TrainingConfig(loss="cosent", epochs=1, frozen_layers=2, learning_rate=8e-5,
                           evaluations_per_epoch=1),
    "best": TrainingConfig(loss="cosent", epochs=2, freeze_embeddings=True,
                           evaluations_per_epoch=1, average_from=0.75),
}
HOLDS_FROM = {"post": 150, "fast": 150, "best": 150}     # training pairs: fewer were not tried


def recipe_doubt(recipe: str, pairs: int) -> str | None:
    """What to tell who trains `recipe` on so few `pairs`; None if it was measured to help."""
    if pairs >= HOLDS_FROM[recipe]:
        return None
    return (f"recipe {recipe} was measured on {HOLDS_FROM[recipe]:,} training pairs and more; "
            f"these are {pairs:,}. It may bring nothing: read the gain on dev, and its interval.")
