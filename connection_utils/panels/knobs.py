"""The knobs of a training as widgets, and their settings as a `TrainingConfig`."""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from html import escape

import ipywidgets as w

from connection_utils.config import LOSS_NAMES, POOLING_NAMES, TrainingConfig
from connection_utils.ground.paths import ROOT

RATES = (1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_COPY = ('<button class="jupyter-button widget-button" onclick="getSelection()'
         '.selectAllChildren(this.nextElementSibling); document.execCommand(\'copy\'); '
         'this.textContent = \'Copied\'">Copy as code</button>')


class Knobs:
    """A widget for each setting worth turning, in `box`; the same as code in `code_box`.

    They start at `settings`, as `run_settings` returns them. Each has the name of its setting:
    ``knobs.epochs.value``. Of the base model only ``config.json`` is read: FileNotFoundError if
    there is none.
    """

    def __init__(self, settings: dict) -> None:
        self._start = start = TrainingConfig(**settings["config"])
        architecture = (ROOT / settings["base_model"] / "config.json").read_text("utf-8")
        self.learning_rate = _knob(w.SelectionSlider, RATES, start.learning_rate, "{:g}")
        self.epochs = _knob(w.SelectionSlider, range(1, 11), start.epochs)
        self.batch_size = _knob(w.SelectionSlider, (4, 8, 16, 32, 64, 128), start.batch_size)
        self.train_share = _knob(w.SelectionSlider, SHARES, start.train_share, "{:.0%}")
        self.loss = _knob(w.Dropdown, LOSS_NAMES, start.loss)
        self.pooling = _knob(w.Dropdown, POOLING_NAMES, settings["pooling"])
        self.freeze_embeddings = _knob(w.Dropdown, (False, True), start.freeze_embeddings)
        self.frozen_layers = _knob(w.Dropdown, range(
            json.loads(architecture)["num_hidden_layers"]), start.frozen_layers)
        self.all = {name: knob for name, knob in vars(self).items()
                    if isinstance(knob, w.Widget)}
        self.code_box = w.HTML()
        for name, knob in self.all.items():
            knob.description = name.replace("_", " ")
            knob.observe(self._show_code, "value")
        self._show_code()
        columns = list(self.all.values())
        self.box = w.HBox([w.VBox(columns[:4]), w.VBox(columns[4:])])

    @property
    def config(self) -> TrainingConfig:
        """The knobs' settings; those without a knob are as `settings` had them."""
        return replace(self._start, **{name: knob.value for name, knob in self.all.items()
                                       if name != "pooling"})

    @property
    def code(self) -> str:
        """The knobs' settings as a cell; those at their defaults are left out."""
        default = asdict(TrainingConfig())
        lines = "".join(f"    {name}={value!r},\n" for name, value
                        in asdict(self.config).items() if value != default[name])
        lines = f"\n{lines}" if lines else ""
        return f"pooling = {self.pooling.value!r}\nconfig = TrainingConfig({lines})"

    def _show_code(self, _: object = None) -> None:
        self.code_box.value = f"{_COPY}<pre>{escape(self.code)}</pre>"


def _knob(kind: type[w.Widget], values: Iterable, start: object, shown: str = "{}") -> w.Widget:
    """A knob that offers `values` in order, and `start` if it is none of them."""
    values = list(values)
    if start not in values:
        values = sorted([*values, start])
    return kind(options=[(shown.format(value), value) for value in values], value=start,
                layout=w.Layout(width="370px"), style={"description_width": "130px"})
