"""The card of a trained model: its README.md, from what the run recorded and nothing else.

Above the text stand the lines of YAML that model hubs read. huggingface_hub writes them;
nothing is sent or asked.
"""

import inspect
import re

from huggingface_hub import EvalResult, ModelCardData

from connection_utils.bert import POOLINGS
from connection_utils.ground.paths import as_path
from connection_utils.ground.whole_files import sealed
from connection_utils.workshop.assets import DATA, DEFAULT_DATA, DEFAULT_MODEL

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"        # what hubs call the default model
SHOWN_APART = {"base_model", "data", "pairs", "config", "evaluations", "test_spearman_before",
               "test_spearman_after", "test_spearman_interval"}     # the rest is the recipe

CARD = '''---
{metadata}---

# {name}

{base},
fine-tuned as a siamese model on pairs of texts with scores. Both texts of a pair go through
the same BERT, its token vectors are pooled ({pooling}) to u and v, and the cosine of u and v,
from -1 to 1, says how connected the texts are.

This card was written from what the run recorded; training.json beside it holds all of it.

## Load it

With connection_utils, which trained it:

```python
from connection_utils import ConnectionBert

model = ConnectionBert.from_local("path/to/this/folder")
cosines = model.similarity(["A man plays a flute."], ["Someone plays an instrument."])
```

With sentence-transformers:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
u, v = model.encode(["A man plays a flute.", "Someone plays an instrument."])
cosines = model.similarity(u, v)
```

With transformers, and the pooling by hand:

```python
import torch
from transformers import AutoTokenizer, BertModel

{source}
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
bert = BertModel.from_pretrained("path/to/this/folder", add_pooling_layer=False).eval()
batch = tokenizer(["A man plays a flute.", "Someone plays an instrument."], padding=True,
                  truncation=True, max_length={max_length}, return_tensors="pt")
with torch.no_grad():
    hidden = bert(**batch).last_hidden_state      # (2, tokens, hidden)
u, v = {function}(hidden, batch["attention_mask"])
cosines = torch.cosine_similarity(u, v, dim=0)
```

## Data

{data}. Pairs: {pairs}.

## Recipe

{recipe}

## Scores

{scores}

Spearman compares the order of the cosines with that of the pairs' scores. The weights were
chosen on dev, so only test says what to expect. The interval is for other test pairs of the
same kind; another seed is another run.

## Threshold

{threshold}

## Limits

- A text is cut to {max_length} tokens, the two at its ends among them.
- A cosine is not a probability, and 0.5 means nothing by itself.
- Language: {language}.
- Texts of another kind than these pairs were not measured in this run, and fine-tuning may
  lose there what the base model knew. Score some of your own before you rely on it.

## Licence

The base model's: {base_licence}. The pairs': {data_licence}.

'''


def model_card(name: str, record: dict, threshold: dict | None = None) -> str:
    """The card's text: YAML between two lines of dashes, then Markdown.

    `record` is what stands in training.json, `threshold` what notebook 04 writes to
    threshold.json. Names in them may hold any sign. The last line is a seal (see
    `files.sealed`), so that a card which a person has changed is never written over.
    """
    standard = record["base_model"] == DEFAULT_MODEL
    benchmark = record["data"] == DEFAULT_DATA
    base = HUB_NAME if standard else _plain(as_path(record["base_model"]).name)
    results = [EvalResult(
        task_type="semantic-similarity", task_name="Semantic Similarity", dataset_type="stsb",
        dataset_name=DATA.title, dataset_split="test", metric_type="spearman_cosine",
        metric_name="Spearman Cosine", metric_value=record["test_spearman_after"],
    )] if benchmark and "test_spearman_after" in record else None
    metadata = ModelCardData(
        language="en" if benchmark else None, library_name="sentence-transformers",
        pipeline_tag="sentence-similarity", base_model=base, eval_results=results,
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", "bert"],
        model_name=_plain(name) if results else None)      # wanted for results alone
    pooling = POOLINGS[record["pooling"]]
    recipe = record["config"] | {fact: value for fact, value in record.items()
                                 if fact not in SHOWN_APART}
    return sealed(CARD.format(
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
        if benchmark else "not recorded"))


def _scores(record: dict) -> dict[str, str]:
    """Those that there are: a run that was stopped, or one in a panel, has no test."""
    scores = {}
    if record["evaluations"]:
        best = max(record["evaluations"], key=lambda each: each["dev_spearman"])
        where = (f"at epoch {best['epoch']:.2f}: these weights" if best["step"] else
                 "kept the starting model: no evaluation in training was higher")
        scores[f"dev, {where}"] = best["dev_spearman"]
    for when in ("before", "after"):
        if f"test_spearman_{when}" in record:
            scores[f"test, {when} fine-tuning"] = record[f"test_spearman_{when}"]
    shown = {name: f"{100 * score:.2f}" for name, score in scores.items()}
    if "test_spearman_interval" in record:
        low, high = record["test_spearman_interval"]
        shown["test, after: 95 % interval"] = f"{100 * low:.2f} to {100 * high:.2f}"
    return shown or {"none": "not recorded"}


def _threshold(record: dict) -> str:
    verdict = {f"test: {name}": f"{value:.3f}" if isinstance(value, float) else value
               for name, value in record.get("test", {}).items()}
    how = {name: value for name, value in record.items() if name not in ("threshold", "test")}
    meant = record.get("connected_from")
    return (f"From cosine {record['threshold']:.4f} on, say connected"
            + f" (a score of {_prose(meant)} or more, of 0 to 1)" * (meant is not None)
            + ".\nIt is right for these weights and for pairs such as those it was chosen on; "
            "for others, choose\nanew on some that have scores.\n\n"
            + _table("fact | value", how | verdict))


def _table(head: str, rows: dict) -> str:
    return "\n".join([f"| {head} |", "|---|---|", *(
        f"| {_prose(name)} | {_prose(value)} |" for name, value in rows.items())])


def _plain(value: object) -> str:
    """`value` in one line, without signs that steer a screen or that no file can hold."""
    line = " ".join(str(value).split())[:200]
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _prose(value: object) -> str:
    """`value` so that Markdown shows each sign of it as it is, in a line or in a table."""
    return re.sub(r"([\\`*{}\[\]<>#!|&~$]|(?<!\w)_|_(?!\w))", r"\\\1", _plain(value))
