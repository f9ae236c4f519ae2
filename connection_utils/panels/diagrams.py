"""The diagrams of notebooks 01 and 03: a text's way through BERT, and the siamese model."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from connection_utils.bert import ConnectionBert
from connection_utils.plots import BLACK, BLUE, RED


def draw_text_path(model: ConnectionBert, text: str, width: int) -> Figure:
    """The way of `text` through `model`: word pieces, ids, mask, token vectors, embedding.

    The text is padded to `width` tokens. Of each vector the first 16 numbers are shown as
    colours, blue below zero and red above.
    """
    batch = model.tokenizer(text, padding="max_length", max_length=width, truncation=True,
                            return_tensors="pt").to(model.device)
    vectors = model.bert(batch["input_ids"], batch["attention_mask"]).last_hidden_state[0]
    ids, mask = batch["input_ids"][0].cpu(), batch["attention_mask"][0].cpu()    # (tokens,)
    rows = {"word pieces": model.tokenizer.convert_ids_to_tokens(ids),
            "token ids": ids.tolist(), "attention mask": mask.tolist()}
    figure, ax = plt.subplots(figsize=(8.0, 3.2))
    write = partial(ax.text, va="center", fontsize=8)
    for y, (name, values) in zip((4.6, 3.9, 3.2), rows.items()):
        for x, value in enumerate(values):
            color, edge = (BLACK, BLUE) if mask[x] else ("0.6", "0.8")
            write(x, y, value, ha="center", fontsize=7, color=color,
                  bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": edge})
        write(-0.8, y, name, ha="right")
    shown = vectors[:, :16].detach().cpu().numpy()                       # (tokens, 16)
    mean = shown[mask.bool().numpy()].mean(axis=0)                       # (16,)
    colors = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1, "aspect": "auto"}
    for x, vector in enumerate(shown):
        ax.imshow(vector[:, None], extent=(x - 0.3, x + 0.3, 0.4, 2.6), **colors,
                  alpha=1.0 if mask[x] else 0.25)
    ax.imshow(mean[:, None], extent=(width + 1.2, width + 1.8, 0.4, 2.6), **colors)
    ax.annotate("", (width + 1.1, 1.5), (width - 0.6, 1.5), arrowprops={"arrowstyle": "->"})
    write(width + 0.2, 1.7, "mean", ha="center")
    write(-0.8, 1.5, f"token vectors\n(16 of {vectors.shape[1]}\nnumbers each)", ha="right")
    write(width + 1.5, 2.85, "embedding", ha="center")
    ax.set(xlim=(-3.2, width + 2.2), ylim=(0.3, 5.0))
    ax.axis("off")
    return figure


def draw_siamese(model: ConnectionBert, pair: pd.Series) -> Figure:
    """The siamese model with the shapes, the cosine and the loss of a `pair` with its score."""
    texts = [pair["sentence1"], pair["sentence2"]]
    u, v = model.encode(texts)                                           # (hidden,) each
    cosine = float(u @ v / np.sqrt((u @ u) * (v @ v)))
    figure, ax = plt.subplots(figsize=(6.0, 4.2))
    write = partial(ax.text, ha="center", va="center", fontsize=8)
    box = {"boxstyle": "round,pad=0.4", "fc": "white", "ec": BLUE, "lw": 1.2}
    for x, name, text, ids in zip((0.22, 0.78), "uv", texts, model.tokenize(texts)):
        steps = [f"“{text}”", f"{len(ids)} token ids", "BERT",
                 f"token vectors ({len(ids)}, {len(u)})", f"{model.pooling} pooling",
                 f"{name}  ({len(u)},)"]
        for place, step in enumerate(steps):
            y = 0.95 - 0.135 * place
            write(x, y, step, bbox=box if place in (2, 4) else None)
            end = (x, y - 0.095) if place < 5 else (0.5 + 0.2 * (x - 0.5), 0.18)
            ax.annotate("", end, (x, y - 0.04), arrowprops={"arrowstyle": "->"})
    ax.plot([0.29, 0.71], [0.68, 0.68], color=RED, ls="--", lw=1)
    write(0.5, 0.71, "same weights", color=RED)
    write(0.5, 0.14, f"cos(u, v) = {cosine:.3f}", fontsize=9, bbox={**box, "ec": RED})
    write(0.5, 0.03, f"human score {pair['score']:.3f}   →   loss ({cosine:.3f} − "
          f"{pair['score']:.3f})² = {(cosine - pair['score']) ** 2:.3f}", fontsize=9)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    return figure
