"""The one figure style, and the figures that more than one place draws."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

# Okabe and Ito's colours, told apart with any kind of colour vision
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
BEFORE, AFTER = BLUE, RED          # the same two colours in every figure
LINES = ("-", "--", "-.", ":", (0, (5, 1)))
WIDTH, HEIGHT = 5.0, 3.0           # inches
BANDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)      # of the human score; STS: 0-1, 1-2, …, 4-5


def use_style() -> None:
    """Set the series' figure style for this process."""
    plt.rcParams.update({
        "figure.figsize": (WIDTH, HEIGHT), "figure.dpi": 200, "figure.constrained_layout.use":
        True, "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False,
        "lines.linewidth": 1.6, "lines.markersize": 4,
        "axes.prop_cycle": plt.cycler(color=[BLUE, RED, GREEN, ORANGE, PURPLE, SKY]),
    })


def show(figure: Figure, alt: str) -> None:
    """Display `figure` in a notebook, with `alt` for those who cannot see it, and close it.

    `alt` is also the output's plain text, which a check compares; pixels it does not.
    """
    from IPython.display import display

    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    plt.close(figure)
    display({"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": alt},
            raw=True,
            metadata={"image/png": {"alt": alt, "width": int(100 * figure.get_figwidth())}})


def band_of(scores: pd.Series) -> pd.Categorical:
    """The fifth of 0..1 that each score lies in, as "0.0–0.2" … "0.8–1.0" (ordered)."""
    names = [f"{low:.1f}–{high:.1f}" for low, high in zip(BANDS, BANDS[1:])]
    codes = np.searchsorted(BANDS, scores, side="right") - 1       # 1.0 belongs to the last
    return pd.Categorical.from_codes(codes.clip(max=len(names) - 1), names, ordered=True)


def draw_distributions(ax: Axes, scores: pd.Series, cosines: np.ndarray,
                       unpaired: np.ndarray | None = None) -> None:
    """Smoothed densities of the cosines, one line a band of the human score.

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


def draw_history(axes: tuple[Axes, Axes], history: pd.DataFrame, start: float | None = None
                 ) -> None:
    """Two panels over the epochs: training loss, and dev Spearman × 100.

    `history` is `History.to_frame()`; `start` the dev Spearman before training.
    """
    left, right = axes
    left.plot(history["epoch"], history["loss"], marker="o", color=BLUE)
    left.set(xlabel="epoch", ylabel="mean training loss", xlim=(0, None), ylim=(0, None))
    right.plot(history["epoch"], 100 * history["dev_spearman"], marker="o", color=RED)
    if start is not None:
        right.axhline(100 * start, color="0.5", ls="--", lw=1)
        right.annotate(f"before training: {100 * start:.2f}", (0, 100 * start), xytext=(2, 3),
                       textcoords="offset points", color="0.35", fontsize=8)
    right.set(xlabel="epoch", ylabel="dev Spearman × 100", xlim=(0, None))
