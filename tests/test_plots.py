"""The figures draw the numbers they are given."""

import base64
import runpy
import threading
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from connection_utils import draw_siamese, draw_text_path, plots
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig
from connection_utils.ground.paths import ROOT
from connection_utils.panels.training_panel import draw_run
from connection_utils.training import History
from connection_utils.workshop.assets import DEFAULT_MODEL

PICTURES = runpy.run_path(str(ROOT / "site" / "execute.py"))["PICTURES"]


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
    for marks in (False, True):
        _, ax = plt.subplots()
        plots.draw_distributions(ax, scores, cosines, marks)
        curves = [line for line in ax.lines if len(line.get_xdata()) > 1]
        peaks = {line.get_label(): line.get_xdata()[line.get_ydata().argmax()]
                 for line in curves}
        assert peaks == pytest.approx({"0.0–0.2": 0.2, "0.8–1.0": 0.7}, abs=0.05)
        points = [(line.get_marker(), line.get_xdata()[0]) for line in ax.lines
                  if line not in curves]
        assert [marker for marker, _ in points] == ["o", "^"] * 2 * marks
        assert [x for _, x in points] == pytest.approx([0.2, 0.1, 0.7, 0.9][:4 * marks],
                                                       abs=0.02)


def test_a_band_of_few_or_equal_cosines_is_left_out_not_an_error():
    _, ax = plt.subplots()
    plots.draw_distributions(ax, pd.Series([0.1, 0.1, 0.9, 0.9, 0.9]),
                             np.array([0.1, 0.2, 0.5, 0.5, 0.5]))
    assert not ax.lines


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


# png_of, draw_run

SCORES = pd.Series(np.tile([0.1, 0.3, 0.5, 0.7, 0.9], 20))


def cosines_around(shift: float, noise: float, seed: int = 1) -> np.ndarray:
    """Cosines that follow `SCORES` with some noise, moved by `shift`."""
    chance = np.random.default_rng(seed)
    return 0.4 * SCORES.to_numpy() + shift + chance.normal(0, noise, len(SCORES))


def run_of(done: int, evaluated: list[int]) -> History:
    """A run of 100 planned steps, of which `done` are over."""
    return History(
        TrainingConfig(), steps=100, step_losses=[1 / step for step in range(1, done + 1)],
        evaluations=[{"step": step, "dev_spearman": step / 100} for step in evaluated],
        cosines=[torch.from_numpy(cosines_around(0.4, 0.02)) for _ in evaluated])


def test_a_picture_needs_no_pyplot_and_any_thread_may_ask(monkeypatch):
    """Pyplot's figures belong to the main thread, and an open one would be shown twice."""
    def refuse(*_, **__):
        raise AssertionError("pyplot was asked")

    for name in ("figure", "subplots", "gcf", "gca", "switch_backend", "new_figure_manager"):
        monkeypatch.setattr(plt, name, refuse)
    pictures = []

    def work():
        figure = Figure(figsize=(8.4, 2.6), dpi=100)
        draw_run(figure, run_of(40, [0, 25]), SCORES)
        pictures.append(plots.png_of(figure))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(60)
    picture, = pictures
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(picture[16:20]) == 840 and int.from_bytes(picture[20:24]) == 260
    assert not plt.get_fignums()
    work()
    assert pictures == [picture, picture]


@pytest.mark.filterwarnings("error")
def test_a_run_without_a_step_draws_three_named_empty_panels():
    figure = Figure()
    draw_run(figure, History(TrainingConfig()), SCORES)
    loss, quality, spread = figure.axes
    assert [ax.get_title("left") or ax.get_title() for ax in figure.axes] == [
        "training loss", "dev Spearman × 100", "dev cosines by human score"]
    assert not any(len(line.get_xdata()) for line in (*loss.lines, *quality.lines))
    assert not spread.lines and plots.png_of(figure)


def test_a_run_that_has_just_begun_draws_its_losses_and_where_it_started():
    figure = Figure()
    draw_run(figure, run_of(40, [0]), SCORES)
    loss, quality, spread = figure.axes
    each, mean = loss.lines
    assert list(each.get_xdata()) == list(range(1, 41))
    assert list(each.get_ydata()) == [1 / step for step in range(1, 41)]
    assert mean.get_ydata()[-1] == pytest.approx(np.mean([1 / step for step in range(16, 41)]))
    assert mean.get_ydata()[:2] == pytest.approx([1, 0.75])
    dashed, reached = quality.lines
    assert list(dashed.get_ydata()) == [0, 0]
    assert (list(reached.get_xdata()), list(reached.get_ydata())) == ([0], [0])
    assert loss.get_xlim() == quality.get_xlim() == (0, 100)   # the steps that are planned
    assert len(spread.lines) == 5                              # those before training


def test_a_run_with_evaluations_draws_them_and_the_last_ones_cosines():
    for steps in ([0, 25, 50], [25, 50]):          # a start that cannot be scored has none
        figure = Figure()
        draw_run(figure, run_of(60, steps), SCORES)
        _, quality, spread = figure.axes
        reached = quality.lines[-1]
        assert dict(zip(reached.get_xdata(), reached.get_ydata())) == {n: n for n in steps}
        assert len(quality.lines) == len(steps) - 1
        peaks = [line.get_xdata()[line.get_ydata().argmax()] for line in spread.lines]
        assert peaks == pytest.approx([0.44, 0.52, 0.60, 0.68, 0.76], abs=0.03)
        assert [text.get_text() for text in spread.get_legend().texts] == list(
            plots.band_of(SCORES).categories)


@pytest.mark.filterwarnings("error")
def test_a_collapsed_runs_cosines_are_drawn_without_a_warning():
    """A warning would stand on stderr, under the panel, in a thread's name."""
    history = run_of(60, [25])
    history.cosines = [torch.full((len(SCORES),), 0.99)]
    figure = Figure()
    draw_run(figure, history, SCORES)
    assert plots.png_of(figure) and not figure.axes[2].lines


# html_table

def test_a_table_in_a_widget_is_escaped_and_leaves_out_what_is_not_known():
    html = plots.html_table(pd.DataFrame({"a": ["<b>bold"], "b": [float("nan")]}), index=False)
    assert "<td>&lt;b&gt;bold</td>" in html and "<td></td>" in html and "<th>0</th>" not in html


# draw_threshold

def test_the_threshold_is_a_line_and_what_it_gets_wrong_is_shaded():
    chance = np.random.default_rng(1)
    connected = np.repeat([True, False], [100, 300])
    cosines = np.concatenate([chance.normal(0.7, 0.1, 100), chance.normal(0.2, 0.1, 300)])
    for threshold in (0.25, 0.45, 0.65):
        _, ax = plt.subplots()
        plots.draw_threshold(ax, connected, cosines, threshold)
        lines = {line.get_label(): line for line in ax.lines}
        assert list(ax.lines[-1].get_xdata()) == [threshold, threshold]
        areas = {name: np.trapezoid(lines[name].get_ydata(), lines[name].get_xdata())
                 for name in ("connected", "not connected")}
        assert areas == pytest.approx({"connected": 0.25, "not connected": 0.75}, abs=0.01)
        others, ours = ax.collections                          # the shaded areas
        edges = {shade: np.concatenate([path.vertices[:, 0] for path in shade.get_paths()])
                 for shade in (others, ours)}
        grid = 1.3 / 399
        assert edges[ours].max() == pytest.approx(threshold, abs=grid)
        assert edges[ours].min() == pytest.approx(-0.3) and edges[others].max() == 1
        assert edges[others].min() == pytest.approx(threshold, abs=grid)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("threshold", [-0.3, 1.0])
def test_a_threshold_at_either_end_is_drawn(threshold):
    _, ax = plt.subplots()
    plots.draw_threshold(ax, SCORES > 0.5, cosines_around(0, 0.1), threshold)
    assert list(ax.lines[-1].get_xdata()) == [threshold, threshold]
    assert plots.png_of(ax.figure)


@pytest.mark.filterwarnings("error")
def test_a_threshold_is_drawn_even_where_all_pairs_are_of_a_kind():
    _, ax = plt.subplots()
    plots.draw_threshold(ax, np.full(len(SCORES), True), cosines_around(0, 0.1), 0.3)
    assert ax.lines[0].get_label() == "connected" and len(ax.lines) == 2


# The diagrams of notebooks 01 to 04

@pytest.fixture(scope="module")
def model():
    return ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


def test_the_way_of_a_text_shows_its_tokens_its_mask_and_their_mean(model):
    ax, = draw_text_path(model, "Siamese cats", width=7).axes
    shown = texts_of(ax)
    assert shown[:7] == ["[CLS]", "siam", "##ese", "cats", "[SEP]", "[PAD]", "[PAD]"]
    assert shown[16:23] == ["1"] * 5 + ["0"] * 2
    *vectors, mean = [image.get_array()[:, 0] for image in ax.images]
    assert len(vectors) == 7
    np.testing.assert_allclose(mean, np.mean(vectors[:5], axis=0), atol=1e-6)
    np.testing.assert_allclose(mean, model.encode(["Siamese cats"])[0, :16], atol=1e-5)


def test_the_siamese_model_is_drawn_with_its_own_numbers(model):
    pair = pd.Series({"sentence1": "A cat sleeps.", "sentence2": "A dog barks.", "score": 0.25})
    ax, = draw_siamese(model, pair).axes
    cosine, = model.similarity([pair["sentence1"]], [pair["sentence2"]])
    shown = " ".join(texts_of(ax))
    assert f"cos(u, v) = {cosine:.3f}" in shown and "token vectors (6, 384)" in shown
    assert f"= {(cosine - 0.25) ** 2:.3f}" in shown


def test_a_batch_is_drawn_as_its_mask():
    _, ax = plt.subplots()
    mask = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
    plots.draw_batch(ax, mask)
    np.testing.assert_array_equal(ax.images[0].get_array(), mask)
    assert ax.lines[0].get_ydata()[0] == 2                     # between first and second texts


def test_shares_add_up_to_one_for_each_kind():
    _, ax = plt.subplots()
    plots.draw_shares(ax, {"few": np.array([0.1, 1.0000001]), "many": np.linspace(-0.5, 1, 50)})
    heights = [sum(bar.get_height() for bar in bars) for bars in ax.containers]
    assert heights == pytest.approx([1, 1])


@pytest.mark.parametrize(("name", "picture"), PICTURES.items())
def test_the_readme_shows_the_first_figures_of_03_and_04(name, picture):
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4)
    first = next(output.data["image/png"] for cell in notebook.cells
                 for output in cell.get("outputs", []) if "image/png" in output.get("data", {}))
    assert (ROOT / "notebooks" / picture).read_bytes() == base64.b64decode(first)
    assert f"](notebooks/{picture})" in (ROOT / "README.md").read_text()


def test_hangul_is_drawn_with_a_font_that_the_machine_has(monkeypatch):
    """A family that is missing would print a line on stderr for every text."""
    there = [SimpleNamespace(name=name) for name in ("DejaVu Sans", "NanumGothic")]
    monkeypatch.setattr(plots.font_manager.fontManager, "ttflist", there)
    with plt.rc_context():
        plots.use_style()
        assert plt.rcParams["font.family"] == ["DejaVu Sans", "NanumGothic"]
