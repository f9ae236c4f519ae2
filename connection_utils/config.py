"""The settings of a training, and recipes: named settings that worked well."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from connection_utils.ground.numbers import check_number

# The names in losses.LOSSES, bert.POOLINGS and speed.precision. They are repeated here so that
# --help need not import torch, which takes seconds.
LOSS_NAMES = ("cosine_mse", "cosent", "multiple_negatives_ranking")
POOLING_NAMES = ("mean", "cls", "max")
PRECISION_NAMES = ("auto", "fp32", "bf16")


def _setting(default: object, meaning: str, decides: bool = True, **limits: float) -> Any:
    """A field, its line in ``finetune --help`` and its `limits`, as `check_number` has them.

    `decides`: it changes the weights.
    """
    return field(default=default,
                 metadata={"help": meaning, "decides": decides, "limits": limits})


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that determines a training run, apart from the model and the data.

    The last two settings have no effect on the weights: with them a killed run can continue.
    ValueError for a value that cannot work.
    """

    epochs: int = _setting(1, "how often each pair is seen", low=1)
    batch_size: int = _setting(16, "pairs per batch", low=1)
    bucket: int = _setting(1, "sort pairs by length within so many batches; 1: only shuffle",
                           low=1)
    learning_rate: float = _setting(5e-5, "the highest, at the end of the warm-up",
                                    above=0, below=1)
    warmup_ratio: float = _setting(0.1, "fraction of the steps; then linear decay to 0",
                                   low=0, high=1)
    weight_decay: float = _setting(0.01, "of AdamW; not for biases and LayerNorm", low=0)
    max_grad_norm: float = _setting(1.0, "longer gradients are scaled down to this norm",
                                    above=0)
    loss: str = _setting("cosine_mse", "one of " + ", ".join(LOSS_NAMES))
    evaluations_per_epoch: int = _setting(4, "on the dev pairs; the best weights are kept",
                                          low=1)
    freeze_embeddings: bool = _setting(False, "do not train the embedding tables")
    frozen_layers: int = _setting(0, "lowest layers not to train (nor the embeddings then)",
                                  low=0)
    train_share: float = _setting(1.0, "fraction of the training pairs to use, at random",
                                  above=0, high=1)
    average_from: float = _setting(1.0, "average the weights after this fraction of the steps",
                                   low=0, high=1)
    start_share: float = _setting(0.0, "mix in this fraction of the starting weights",
                                  low=0, below=1)
    seed: int = _setting(12, "for the order of the pairs, dropout, and the split of one file",
                         low=0, high=2**32 - 1)
    precision: str = _setting("auto", "of matrix products: fp32, bf16 (GPUs from Ampere on, "
                              "CPUs with AMX or AVX-512-BF16), auto (bf16 on such a GPU)")
    checkpoint_every: int = _setting(0, "steps between two checkpoints; 0: none", False, low=0)
    resume: bool = _setting(False, "continue from the latest checkpoint", False)

    def __post_init__(self) -> None:
        for setting in fields(self):
            if setting.type in (int, float):
                check_number(setting.name, getattr(self, setting.name), setting.type,
                             **setting.metadata["limits"])
        for name, names in (("loss", LOSS_NAMES), ("precision", PRECISION_NAMES)):
            if (value := getattr(self, name)) not in names:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(names)}")


def deciding(config: TrainingConfig) -> dict[str, object]:
    """The settings that have an effect on the trained weights, by name."""
    return {setting.name: asdict(config)[setting.name] for setting in fields(config)
            if setting.metadata["decides"]}


# Measured on few pairs and on many: benchmarks/results/sweep_recipes.jsonl
RECIPES = {
    "post": TrainingConfig(),                       # the study post's; notebook 03 uses it
    "fast": TrainingConfig(loss="cosent", epochs=1, frozen_layers=2, learning_rate=8e-5,
                           evaluations_per_epoch=1),
    "best": TrainingConfig(loss="cosent", epochs=2, freeze_embeddings=True,
                           evaluations_per_epoch=1, average_from=0.75),
}
