"""The figure style, and the figures that several notebooks or panels draw."""

import base64
import io
import os
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from connection_utils.ground.paths import ROOT, being_checked

if TYPE_CHECKING:
    from connection_utils.training import History

# Okabe and Ito's colours, which colour-blind readers can distinguish
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
BEFORE, AFTER = BLUE, RED          # the same two colours in every figure
LINES = ("-", "--", "-.", ":", (0, (5, 1)))
WIDTH, HEIGHT = 5.0, 3.0           # inches
DPI = 200                          # of saved figures; a live panel uses half
BANDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)      # of the human score; STS: 0-1, 1-2, …, 4-5


def prepare_notebook() -> None:
    """The first call of every notebook: the same working directory and style everywhere.

    The working directory becomes the repository's root, so that ``data/stsb`` means the
    same in JupyterLab, VS Code, papermill and nbval. While the run is being checked,
    tracebacks are cut to their last line, as the lines above it contain local paths.
    """
    from IPython import get_ipython

    os.chdir(ROOT)
    use_style()
    pd.set_option("display.precision", 2)
    shell = get_ipython()
    if shell is not None and being_checked():
        shell.InteractiveTB.set_mode(mode="Minimal")


def use_style() -> None:
    """Set the series' figure style for this process."""
    plt.rcParams.update({
        "figure.figsize": (WIDTH, HEIGHT), "figure.dpi": DPI, "figure.constrained_layout.use":
        True, "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False,
        "lines.linewidth": 1.6, "lines.markersize": 4,
        "axes.prop_cycle": plt.cycler(color=[BLUE, RED, GREEN, ORANGE, PURPLE, SKY]),
    })


def png_of(figure: Figure, dpi: int | None = None) -> bytes:
    """The picture as a PNG file's content; without pyplot, so safe in any thread."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi or figure.dpi)
    return picture.getvalue()


def html_table(table: pd.DataFrame, index: bool = True) -> str:
    """`table` as HTML that looks inside a widget as it does below a cell."""
    return ('<div class="jp-RenderedHTMLCommon">'
            f'{table.to_html(index=index, border=0, na_rep="", justify="left")}</div>')


def show(figure: Figure, alt: str) -> None:
    """Display `figure` in a notebook, with `alt` for those who cannot see it, and close it.

    `alt` is also the output's plain text: that is what a check compares, not the pixels.
    """
    from IPython.display import display

    picture = png_of(figure, DPI)
    plt.close(figure)
    display({"image/png": base64.b64encode(picture).decode(), "text/plain": alt}, raw=True,
            metadata={"image/png": {"alt": alt, "width": int(100 * figure.get_figwidth())}})


def band_of(scores: pd.Series) -> pd.Categorical:
    """The band of each score, 0.2 wide, as "0.0–0.2" … "0.8–1.0" (ordered)."""
    names = [f"{low:.1f}–{high:.1f}" for low, high in zip(BANDS, BANDS[1:])]
    codes = np.searchsorted(BANDS, scores, side="right") - 1       # 1.0 belongs to the last
    return pd.Categorical.from_codes(codes.clip(max=len(names) - 1), names, ordered=True)


def draw_distributions(ax: Axes, scores: pd.Series, cosines: np.ndarray,
                       unpaired: np.ndarray | None = None) -> None:
    """Smoothed densities of the cosines, one line per band of the human score.

    `unpaired`, if given, are the cosines of random unpaired texts (the collapse check).
    """
    grid = np.linspace(-0.3, 1.0, 400)
    bands = band_of(scores)
    colors = plt.get_cmap("viridis")(np.linspace(0.9, 0.0, len(bands.categories)))
    if unpaired is not None:
        ax.fill_between(grid, gaussian_kde(unpaired)(grid), color="0.85", lw=0,
                        label="unpaired")
    for name, color, line in zip(bands.categories, colors, LINES):
        here = np.asarray(cosines)[bands == name]
        if len(here) > 2 and np.ptp(here) > 0:
            ax.plot(grid, gaussian_kde(here)(grid), color=color, ls=line, label=name)
    ax.set(xlabel="cosine of the two texts", ylabel="density", xlim=(-0.3, 1.0), ylim=(0, None))


def draw_history(axes: tuple[Axes, Axes], history: pd.DataFrame) -> None:
    """Two panels over the epochs: training loss, and dev Spearman × 100.

    `history` is `History.to_frame()`. A dashed line marks the dev Spearman of the starting
    model (step 0).
    """
    left, right = axes
    highest = history["loss"].max()                    # NaN if there is only step 0 so far
    left.plot(history["epoch"], history["loss"], marker="o", color=BLUE)
    left.set(xlabel="epoch", ylabel="mean training loss", xlim=(0, None),
             ylim=(0, 1.1 * highest if highest > 0 else None))
    right.plot(history["epoch"], 100 * history["dev_spearman"], marker="o", color=RED)
    for start in history.loc[history["step"] == 0, "dev_spearman"]:
        right.axhline(100 * start, color="0.5", ls="--", lw=1)
        right.annotate(f"before training: {100 * start:.2f}", (0, 100 * start), xytext=(2, 3),
                       textcoords="offset points", color="0.35", fontsize=8)
    right.set(xlabel="epoch", ylabel="dev Spearman × 100", xlim=(0, None))


def draw_run(figure: Figure, history: "History", dev_scores: pd.Series) -> None:
    """Three panels of a run that may still be in progress, over the planned steps.

    The loss of each step and its running mean; dev Spearman, with a dashed line for the
    starting model (step 0); and the distribution of the latest evaluation's dev cosines.
    """
    loss, quality, spread = figure.subplots(1, 3)
    losses = pd.Series(history.step_losses, index=range(1, len(history.step_losses) + 1),
                       dtype=float)
    loss.plot(losses, color=BLUE, alpha=0.25, lw=0.8)
    loss.plot(losses.rolling(25, min_periods=1).mean(), color=BLUE)
    loss.set(title="training loss", xlabel="step", ylim=(0, None))
    reached = {record["step"]: record["dev_spearman"] for record in history.evaluations}
    if 0 in reached:
        quality.axhline(100 * reached[0], color="0.5", ls="--", lw=1)
    quality.plot(list(reached), [100 * value for value in reached.values()], marker="o",
                 color=RED)
    quality.set(title="dev Spearman × 100", xlabel="step")
    for ax in (loss, quality):
        ax.set_xlim(0, max(history.steps, 1))
    if history.dev_cosines is not None:
        draw_distributions(spread, dev_scores, history.dev_cosines)
        if spread.lines:                   # none if all cosines are alike
            spread.legend(fontsize=7, loc="upper left")
    spread.set(title="dev cosines by human score", xlabel="cosine", ylabel="", yticks=[])


def draw_threshold(ax: Axes, connected: np.ndarray, cosines: np.ndarray, threshold: float
                   ) -> None:
    """Densities of the cosines of connected and other pairs, and a line at `threshold`."""
    grid = np.linspace(-0.3, 1.0, 400)
    for kind, name, color, line in ((False, "not connected", BLUE, "--"),
                                    (True, "connected", RED, "-")):
        here = np.asarray(cosines)[np.asarray(connected, dtype=bool) == kind]
        if len(here) > 2 and np.ptp(here) > 0:
            density = gaussian_kde(here)(grid) * len(here) / len(cosines)
            ax.plot(grid, density, color=color, ls=line, label=name)
            wrong = grid < threshold if kind else grid >= threshold
            ax.fill_between(grid, density, where=wrong, color=color, alpha=0.25, lw=0)
    ax.axvline(threshold, color=BLACK, lw=1.2)
    ax.set(xlabel="cosine of the two texts", ylabel="density × share of pairs",
           xlim=(-0.3, 1.0), ylim=(0, None))
    if len(ax.lines) > 1:                  # the line at the threshold has no label
        ax.legend(loc="upper left")
