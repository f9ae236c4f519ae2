"""The figure style, and the figures of notebooks and panels."""

import base64
import io
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from connection_utils.ground.paths import ROOT, being_checked

# Okabe and Ito's colours, which colour-blind readers can distinguish
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
BEFORE, AFTER = BLUE, RED          # the same two colours in every figure
HANGUL = ("Noto Sans CJK KR", "Malgun Gothic", "Apple SD Gothic Neo", "NanumGothic")
LINES = ("-", "--", "-.", ":", (0, (5, 1)))
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
    """Set the series' figure style for this process; Hangul is drawn if a font for it exists."""
    known = {font.name for font in font_manager.fontManager.ttflist}
    plt.style.use(Path(__file__).with_suffix(".mplstyle"))
    plt.rcParams["font.family"] = ["DejaVu Sans", *(name for name in HANGUL if name in known)]


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
                       marks: bool = False) -> None:
    """Smoothed densities of the cosines, one line per band of the human score.

    With `marks`, a dot on each line at the band's mean cosine, and a triangle on the axis at
    its mean score.
    """
    grid = np.linspace(-0.3, 1.0, 400)
    bands = band_of(scores)
    colors = plt.get_cmap("viridis")(np.linspace(0.8, 0.0, len(bands.categories)))
    for name, color, line in zip(bands.categories, colors, LINES):
        here = np.asarray(cosines)[bands == name]
        if len(here) > 2 and np.ptp(here) > 0:
            density = gaussian_kde(here)
            ax.plot(grid, density(grid), color=color, ls=line, label=name)
            if marks:
                ax.plot(here.mean(), density(here.mean()), "o", color=color)
                ax.plot(scores[bands == name].mean(), 0, "^", color=color, clip_on=False)
    ax.set(xlabel="cosine of the two texts", ylabel="density", xlim=(-0.3, 1.0), ylim=(0, None))


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
            ax.fill_between(grid, density, where=wrong, color=color, alpha=0.25, lw=0,
                            label="missed" if kind else "false alarms")
    ax.axvline(threshold, color=BLACK, lw=1.2)
    ax.set(xlabel="cosine of the two texts", ylabel="density × share of pairs",
           xlim=(-0.3, 1.0), ylim=(0, None))
    if len(ax.lines) > 1:                  # the line at the threshold has no label
        ax.legend(loc="upper left")


def draw_batch(ax: Axes, attention_mask: np.ndarray) -> None:
    """A batch as the rectangle that it is: tokens dark, padding light, a row for each text."""
    texts, width = attention_mask.shape
    ax.imshow(attention_mask, cmap="Blues", vmin=-0.1, vmax=1.3, aspect="auto",
              extent=(0, width, texts, 0))
    ax.axhline(texts / 2, color=RED, lw=1.2)
    for place, name in ((0.25, "first\nsentences"), (0.75, "second\nsentences")):
        ax.text(width + 0.5, place * texts, name, va="center", fontsize=8)
    ax.set(xlabel="tokens", ylabel="texts of the batch", yticks=[0, texts // 2, texts])
    ax.grid(visible=False)


def draw_shares(ax: Axes, cosines: dict[str, np.ndarray]) -> None:
    """Histograms of several kinds of cosines, each as shares of its own number."""
    for (name, values), color, hatch in zip(cosines.items(), (BLUE, RED), ("", "//")):
        ax.hist(np.clip(values, -0.3, 1.0), bins=np.linspace(-0.3, 1.0, 27), weights=np.full(
            len(values), 1 / len(values)), color=color, alpha=0.5, hatch=hatch, label=name)
    ax.set(xlabel="cosine of the two texts", ylabel="share of the pairs", xlim=(-0.3, 1.0))
