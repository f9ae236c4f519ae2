"""The knobs of a training as widgets, and what they say as a `TrainingConfig`."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from html import escape

import ipywidgets as w

from connection_utils.bert import POOLINGS
from connection_utils.config import TrainingConfig
from connection_utils.ground.paths import ROOT
from connection_utils.losses import LOSSES
from connection_utils.model_folder.check import check_model_dir

BATCH_SIZES = (4, 8, 16, 32, 64, 128)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_KNOB = {"layout": w.Layout(width="350px"), "style": {"description_width": "95px"}}
_COPY = ('<button class="jupyter-button widget-button" onclick="getSelection()'
         '.selectAllChildren(this.nextElementSibling); document.execCommand(\'copy\'); '
         'this.textContent = \'Copied\'">Copy as code</button>')


class Knobs:
    """A widget for each setting worth turning, in `box`; the same as code in `code_box`.

    They start at `settings`, as `run_settings` makes them. Raises ModelFolderError if the
    base model's folder is broken.
    """

    def __init__(self, settings: dict) -> None:
        start = TrainingConfig(**settings["config"])
        layers = check_model_dir(ROOT / settings["base_model"]).config.num_hidden_layers
        frozen = [(False, 0), (True, 0), *((False, n) for n in range(1, layers))]
        rates = sorted({-6, -2, math.floor(math.log10(start.learning_rate)),
                        math.ceil(math.log10(start.learning_rate))})
        self._start = start
        self.learning_rate = w.FloatLogSlider(start.learning_rate, min=rates[0],
                                              max=rates[-1], step=0.1, readout_format=".1e",
                                              **_KNOB)
        self.epochs = w.IntSlider(start.epochs, min=1, max=max(10, start.epochs), **_KNOB)
        self.batch_size = _choice(BATCH_SIZES, start.batch_size)
        self.train_share = _choice(SHARES, start.train_share, "{:.0%}".format)
        self.loss = w.Dropdown(options=list(LOSSES), value=start.loss, **_KNOB)
        self.pooling = w.Dropdown(options=list(POOLINGS), value=settings["pooling"], **_KNOB)
        self.frozen = w.Dropdown(
            options=[(frozen_name(*option), option) for option in frozen],
            value=(start.freeze_embeddings and not start.frozen_layers, start.frozen_layers),
            **_KNOB)
        self._all = {name: knob for name, knob in vars(self).items()
                     if isinstance(knob, w.Widget)}
        self.code_box = w.HTML()
        for name, knob in self._all.items():
            knob.description = name.replace("_", " ")
            knob.observe(self._show_code, "value")
        self._show_code()
        columns = list(self._all.values())
        self.box = w.HBox([w.VBox(columns[:4]), w.VBox(columns[4:])])

    @property
    def config(self) -> TrainingConfig:
        """What the knobs say; what they do not decide is as `settings` had it.

        A smaller share of the pairs means fewer evaluations in an epoch, or these would
        take most of the time.
        """
        embeddings, layers = self.frozen.value
        rate = self.learning_rate.value
        if rate != self._start.learning_rate:
            rate = float(f"{rate:.1e}")                    # 10 ** -4.2 is 6.3e-5 to a reader
        smaller = min(1.0, self.train_share.value / self._start.train_share)
        return replace(
            self._start, epochs=self.epochs.value, batch_size=self.batch_size.value,
            learning_rate=rate, loss=self.loss.value,
            freeze_embeddings=embeddings, frozen_layers=layers,
            train_share=self.train_share.value, evaluations_per_epoch=max(
                1, round(smaller * self._start.evaluations_per_epoch)))

    @property
    def code(self) -> str:
        """What the knobs say as a cell; settings at their defaults are left out."""
        default = asdict(TrainingConfig())
        said = "".join(f"    {name}={value!r},\n" for name, value in asdict(self.config).items()
                       if value != default[name])
        said = f"\n{said}" if said else ""
        return f"pooling = {self.pooling.value!r}\nconfig = TrainingConfig({said})"

    def disable(self, disabled: bool) -> None:
        """Lock the knobs, or let them be turned again."""
        for knob in self._all.values():
            knob.disabled = disabled

    def _show_code(self, _: object = None) -> None:
        self.code_box.value = f"{_COPY}<pre>{escape(self.code)}</pre>"


def frozen_name(embeddings: bool, layers: int) -> str:
    """What a run leaves as it is: "nothing", "embeddings", "embeddings, 2 layers"."""
    return (f"embeddings, {layers} layer{'s' * (layers > 1)}" if layers else
            "embeddings" if embeddings else "nothing")


def _choice(options: tuple, value: float, name: Callable[[float], str] = str
            ) -> w.SelectionSlider:
    """A slider over `options`, and over `value` if it is none of them."""
    return w.SelectionSlider(options=[(name(o), o) for o in sorted({*options, value})],
                             value=value, **_KNOB)
