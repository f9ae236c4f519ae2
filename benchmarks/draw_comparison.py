"""Draw what compare_sentence_transformers.py found as one figure.

    python benchmarks/draw_comparison.py FILE_IN_RESULTS

The figure goes beside `results/`, as comparison.png: bars are medians over the turns, lines
from the lowest to the highest turn.
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
        ("theirs_by_length", "… batches by length", THEIRS),
        ("ours", "this series", OURS),
        ("ours_by_length", "… batches by length ", OURS),     # a name of its own: the space
        ("ours_frozen", "… lowest layer frozen", OURS),
        ("ours_options", "… CoSENT, 2 layers frozen", OURS))),
    ("encoding, sentences/s", "sentences_per_s", (
        ("encode_theirs", "sentence-transformers", THEIRS),
        ("encode_ours", "this series", OURS),
        ("encode_ours_onnx", "… onnxruntime", OURS),
        ("encode_ours_int8", "… onnxruntime int8", OURS))),
    ("seconds: Spearman", "seconds", (
        ("quality_theirs", "their recipe, 4 epochs", THEIRS),
        ("quality_ours", "recipe fast, 1 epoch", OURS))),
)


def draw(record: dict) -> plt.Figure:
    """Three panels of bars: training, encoding, time to quality."""
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.3))
    for ax, (title, key, bars) in zip(axes, PANELS, strict=True):
        for task, name, color in reversed(bars):
            values = [turn[task][key] for turn in record["turns"]]
            middle = statistics.median(values)
            ax.barh(name, middle, color=color, height=0.6,
                    xerr=[[middle - min(values)], [max(values) - middle]],
                    error_kw={"lw": 1, "capsize": 2})
            said = f" {middle:,.0f}"
            if key == "seconds":
                quality = statistics.median(turn[task]["test_spearman"]
                                            for turn in record["turns"])
                said = f" {middle:,.0f} s: {quality:.2f}"
            ax.annotate(said, (max(values), name), va="center", fontsize=8, xytext=(3, 0),
                        textcoords="offset points")
        ax.set_title(title)
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.35)
        ax.set_xlim(0, None)
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
