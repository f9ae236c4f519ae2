"""Draw what compare_sentence_transformers.py found as one figure.

    python benchmarks/draw_comparison.py FILE_IN_RESULTS

The figure goes beside `results/`, as comparison.png: bars and curves are medians over the
turns, the lines on bars go from the lowest to the highest turn.
"""

import argparse
import json
import statistics
from pathlib import Path

import matplotlib.pyplot as plt

from connection_utils import plots
from connection_utils.ground.paths import ROOT, shown
from connection_utils.ground.whole_files import write_whole

PICTURE = ROOT / "benchmarks" / "comparison.png"
THEIRS, OURS = plots.BLUE, plots.RED
PANELS = (
    ("training, pairs/s", "pairs_per_s", (
        ("theirs", "sentence-transformers", THEIRS),
        ("ours", "this series", OURS),
        ("theirs_by_length", "theirs, batches by length", THEIRS),
        ("ours_by_length", "ours, batches by length", OURS),
        ("theirs_bf16", "theirs, bfloat16", THEIRS),
        ("ours_bf16", "ours, bfloat16", OURS))),
    ("encoding, sentences/s", "sentences_per_s", (
        ("encode_theirs", "sentence-transformers", THEIRS),
        ("encode_ours", "this series", OURS),
        ("encode_ours_int8", "ours, onnxruntime int8", OURS))),
)
CURVES = (("theirs", "theirs", THEIRS, "-"), ("ours", "ours", OURS, "-"),
          ("theirs_cosent", "theirs, CoSENT", THEIRS, "--"),
          ("ours_cosent", "ours, CoSENT", OURS, "--"))


def draw(record: dict) -> plt.Figure:
    """Bars of training and encoding, and dev Spearman over the seconds of training."""
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.4))
    for ax, (title, key, bars) in zip(axes, PANELS):
        for task, name, color in reversed(bars):
            values = [turn[task][key] for turn in record["turns"] if task in turn]
            if not values:                   # bfloat16, on a CPU without it
                continue
            middle = statistics.median(values)
            ax.barh(name, middle, color=color, height=0.6,
                    xerr=[[middle - min(values)], [max(values) - middle]],
                    error_kw={"lw": 1, "capsize": 2})
            ax.annotate(f" {middle:,.0f}", (max(values), name), va="center", fontsize=8,
                        xytext=(3, 0), textcoords="offset points")
        ax.set_title(title)
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.35)
        ax.set_xlim(0, None)
    for task, name, color, style in CURVES:
        points = zip(*(turn[task]["curve"] for turn in record["turns"]), strict=True)
        seconds, scores = zip(*([statistics.median(values) for values in zip(*moment)]
                                for moment in points))
        axes[2].plot(seconds, scores, color=color, ls=style, marker="o", label=name)
    axes[2].set(title="dev Spearman × 100", xlabel="seconds of training", xlim=(0, None))
    axes[2].legend(fontsize=7, loc="lower right", handlelength=3.5)
    return figure


def main() -> None:
    """Draw the file that the command line names."""
    options = argparse.ArgumentParser(description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("result", type=Path)
    plots.use_style()
    figure = draw(json.loads(options.parse_args().result.read_text(encoding="utf-8")))
    with write_whole(PICTURE) as scratch:
        scratch.write_bytes(plots.png_of(figure, plots.DPI))
    print(f"written to {shown(PICTURE)}")


if __name__ == "__main__":
    main()
