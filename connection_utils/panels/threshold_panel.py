"""A panel to choose a threshold by hand, and to try two texts with it (ipywidgets)."""

import ipywidgets as w
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from connection_utils import plots
from connection_utils.bert import ConnectionBert
from connection_utils.evaluation import judge_threshold
from connection_utils.ground.paths import being_checked


class ThresholdPanel:
    """A slider that moves the threshold, and two texts of your own to score with it.

    `connected` (bool) and `cosines`, (pairs,) each, belong to the same pairs. Use dev pairs: if
    a threshold is chosen on test, no pairs are left to judge it.
    """

    def __init__(self, model: ConnectionBert, connected: np.ndarray, cosines: np.ndarray,
                 threshold: float) -> None:
        self.model, self.connected, self.cosines = model, connected, cosines
        self.threshold = w.FloatSlider(threshold, min=-0.3, max=1.0, step=0.01,
                                       description="threshold", readout_format=".2f",
                                       layout=w.Layout(width="520px"))
        texts = {"continuous_update": False, "layout": w.Layout(width="640px")}
        self.sentence1 = w.Text(placeholder="a text", description="sentence 1", **texts)
        self.sentence2 = w.Text(placeholder="another", description="sentence 2", **texts)
        self._image, self._table, self._said = w.Image(format="png"), w.HTML(), w.HTML()
        for knob in (self.threshold, self.sentence1, self.sentence2):
            knob.observe(self._update, "value")
        self._update()
        self.box = w.VBox([self.threshold, w.HBox([self._image, self._table]),
                           self.sentence1, self.sentence2, self._said])

    @property
    def confusion(self) -> pd.DataFrame:
        """How many pairs of each kind the slider's threshold says are connected."""
        verdict = judge_threshold(self.connected, self.cosines, self.threshold.value)
        return pd.DataFrame(
            {"said connected": [verdict["true_positive"], verdict["false_positive"]],
             "said not": [verdict["false_negative"], verdict["true_negative"]]},
            index=["connected", "not connected"])

    def _update(self, _: object = None) -> None:
        verdict = judge_threshold(self.connected, self.cosines, self.threshold.value)
        scores = " · ".join(f"{name} {verdict[name]:.3f}"
                            for name in ("accuracy", "precision", "recall", "f1"))
        self._image.value = plots.png_of(self._figure())
        self._table.value = f"{plots.html_table(self.confusion)}<p>{scores}</p>"
        pair = self.sentence1.value.strip(), self.sentence2.value.strip()
        if not all(pair):
            self._said.value = "Write two texts, and press Enter."
            return
        cosine = float(self.model.similarity(pair[:1], pair[1:])[0])
        said = "connected" if cosine >= self.threshold.value else "not connected"
        self._said.value = f"cosine {cosine:.2f}: <b>{said}</b>"

    def _figure(self) -> Figure:
        figure = Figure(figsize=(5.0, 2.8), dpi=100, layout="none")
        ax = figure.subplots()
        plots.draw_threshold(ax, self.connected, self.cosines, self.threshold.value)
        figure.subplots_adjust(left=0.12, right=0.98, bottom=0.18, top=0.96)
        return figure

    def _ipython_display_(self) -> None:
        if not being_checked():
            display(self.box)
            return
        plots.show(self._figure(), "Densities of the cosines of connected pairs and of the "
                                   "others, with a line at the threshold.")
        display(self.confusion)
