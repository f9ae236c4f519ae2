"""The card of a trained model: its README.md, from what the run recorded and nothing else.

The text is model_card.md beside this file, filled in. It begins with the lines of YAML that
model hubs read; huggingface_hub formats them, and nothing is sent or asked.
"""

import inspect
import re
from pathlib import Path

from huggingface_hub import ModelCardData

from connection_utils.bert import POOLINGS
from connection_utils.ground.paths import as_path
from connection_utils.workshop.assets import DATA, DEFAULT_DATA, DEFAULT_MODEL

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"        # what hubs call the default model
SHOWN_APART = {"base_model", "data", "pairs", "config", "evaluations", "test_spearman_before",
               "test_spearman_after", "test_spearman_interval"}     # the rest is the recipe

CARD = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")


def model_card(name: str, record: dict, threshold: dict | None = None) -> str:
    """The card's text: YAML between two lines of dashes, then Markdown.

    `record` is the content of training.json, `threshold` that of threshold.json. Names in them
    may contain any character.
    """
    standard, benchmark = record["base_model"] == DEFAULT_MODEL, record["data"] == DEFAULT_DATA
    base = HUB_NAME if standard else as_path(record["base_model"]).name
    metadata = ModelCardData(
        language="en" if benchmark else None, library_name="sentence-transformers",
        pipeline_tag="sentence-similarity", base_model=_plain(base),
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", "bert"])
    pooling = POOLINGS[record["pooling"]]
    recipe = record["config"] | {fact: value for fact, value in record.items()
                                 if fact not in SHOWN_APART}
    return CARD.format(
        metadata=metadata.to_yaml() + "\n", name=_prose(name), base=_prose(base),
        pooling=record["pooling"], source=inspect.getsource(pooling),
        function=pooling.__name__, max_length=record["max_length"],
        data=DATA.title if benchmark else _prose(as_path(record["data"]).name),
        pairs=", ".join(f"{_prose(split)} {count:,}" for split, count in
                        record.get("pairs", {}).items()) or "not recorded",
        recipe=_table("setting | value", recipe),
        scores=_table("pairs | Spearman × 100", _scores(record)),
        threshold=_threshold(threshold) if threshold else "None is recorded: choose one on "
        "pairs that have scores before you decide with a cosine.",
        language="that of the pairs, English" if benchmark else
        "that of the pairs, which the run did not record",
        base_licence="Apache-2.0" if standard else "not recorded",
        data_licence="scores CC BY-SA 4.0, texts of many sources, some for research only"
        if benchmark else "not recorded")


def _scores(record: dict) -> dict[str, str]:
    """The scores that were recorded: a run of the panel, or one without a step, has no test."""
    rows = {}
    if record["evaluations"]:
        best = max(record["evaluations"], key=lambda each: each["dev_spearman"])
        where = (f"at epoch {best['epoch']:.2f}: these weights" if best["step"] else
                 "kept the starting model: no evaluation in training was higher")
        rows[f"dev, {where}"] = f"{100 * best['dev_spearman']:.2f}"
    for when in ("before", "after"):
        if f"test_spearman_{when}" in record:
            rows[f"test, {when} fine-tuning"] = f"{100 * record[f'test_spearman_{when}']:.2f}"
    if "test_spearman_interval" in record:
        low, high = record["test_spearman_interval"]
        rows["test, after: 95 % interval"] = f"{100 * low:.2f} to {100 * high:.2f}"
    return rows or {"none": "not recorded"}


def _threshold(record: dict) -> str:
    facts = {name: value for name, value in record.items() if name not in ("threshold", "test")}
    facts |= {f"test: {name}": f"{value:.3f}" if isinstance(value, float) else value
              for name, value in record.get("test", {}).items()}
    meant = record.get("connected_from")
    return (f"From cosine {record['threshold']:.4f} on, say connected"
            + f" (a score of {_prose(meant)} or more, of 0 to 1)" * (meant is not None)
            + ".\nIt is right for these weights and for pairs such as those it was chosen on; "
            "for others, choose\nanew on some that have scores.\n\n"
            + _table("fact | value", facts))


def _table(head: str, rows: dict) -> str:
    return "\n".join([f"| {head} |", "|---|---|", *(
        f"| {_prose(name)} | {_prose(value)} |" for name, value in rows.items())])


def _plain(value: object) -> str:
    """`value` in one line, without characters that steer a screen or that no file can hold."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(value).split()))


def _prose(value: object) -> str:
    """`value` so that Markdown shows each character as it is, in a line or in a table."""
    return re.sub(r"([\\`*{}\[\]<>#!|&~$]|(?<!\w)_|_(?!\w))", r"\\\1", _plain(value))
