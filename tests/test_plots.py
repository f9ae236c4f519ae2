"""The figures draw the numbers they are given."""

import base64

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from connection_utils import plots
from connection_utils.workspace import ROOT


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def test_bands_hold_their_lower_edge_and_the_last_holds_one():
    bands = plots.band_of(pd.Series([0.0, 0.19, 0.2, 0.6, 0.8, 1.0]))
    assert list(bands) == ["0.0–0.2", "0.0–0.2", "0.2–0.4", "0.6–0.8", "0.8–1.0", "0.8–1.0"]
    assert bands.ordered and len(bands.categories) == 5


def test_distributions_draw_a_line_a_band_that_peaks_where_the_cosines_are():
    chance = np.random.default_rng(1)
    scores = pd.Series(np.repeat([0.1, 0.9], 200))
    cosines = np.concatenate([chance.normal(0.2, 0.05, 200), chance.normal(0.7, 0.05, 200)])
    _, ax = plt.subplots()
    plots.draw_distributions(ax, scores, cosines, unpaired=chance.normal(0, 0.1, 100))
    peaks = {line.get_label(): line.get_xdata()[line.get_ydata().argmax()]
             for line in ax.lines}
    assert peaks == pytest.approx({"0.0–0.2": 0.2, "0.8–1.0": 0.7}, abs=0.05)
    assert "unpaired" in ax.get_legend_handles_labels()[1]


def test_a_band_of_few_or_equal_cosines_is_left_out_not_an_error():
    _, ax = plt.subplots()
    plots.draw_distributions(ax, pd.Series([0.1, 0.1, 0.9, 0.9, 0.9]),
                             np.array([0.1, 0.2, 0.5, 0.5, 0.5]))
    assert not ax.lines


def test_history_draws_loss_and_spearman_over_the_epochs():
    history = pd.DataFrame({"epoch": [0.5, 1.0], "loss": [0.03, 0.02],
                            "dev_spearman": [0.8, 0.9]})
    _, (left, right) = plt.subplots(1, 2)
    plots.draw_history((left, right), history, start=0.7)
    assert left.lines[0].get_ydata().tolist() == [0.03, 0.02]
    assert right.lines[0].get_ydata().tolist() == pytest.approx([80, 90])
    assert list(right.lines[1].get_ydata()) == pytest.approx([70, 70])


def test_show_displays_the_picture_with_its_alt_text_and_closes_it(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display",
                        lambda *data, **options: shown.append((data[0], options)))
    figure, _ = plt.subplots()
    plots.show(figure, "what it shows")
    (data, options), = shown
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == options["metadata"]["image/png"]["alt"] == "what it shows"
    assert not plt.get_fignums()


def test_the_readme_shows_the_figure_of_notebook_04():
    notebook = nbformat.read(ROOT / "notebooks/04_similarity_distributions.ipynb", 4)
    first = next(output.data["image/png"] for cell in notebook.cells
                 for output in cell.get("outputs", []) if "image/png" in output.get("data", {}))
    picture = "notebooks/similarity_distributions.png"
    assert (ROOT / picture).read_bytes() == base64.b64decode(first)
    assert f"]({picture})" in (ROOT / "README.md").read_text()
