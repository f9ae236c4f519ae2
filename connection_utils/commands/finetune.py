"""Fine-tune a local BERT on pairs of texts, as notebook 03 does, from a command line.

    python -m connection_utils finetune
    python -m connection_utils finetune --model transformers/bert/bert-base-uncased \\
        --data my_pairs.csv --epochs 1 --output runs/my_model

The model and the data are read from disk; no model hub is ever asked. Before and after
training the test pairs are scored once. The output is one more local model folder: the
weights of the best dev evaluation (those it started from, if no other was better), the
tokenizer, and training.json with the settings, the history and the scores.
sentence-transformers loads it, too.

Which recipe? On 150 to 5,725 pairs of the STS benchmark and on 330 of a help desk, best
gained the most, and lost with no seed (averaged over draws of the dev pairs). It takes
twice as long as post; fast takes 0.7 times as long, and gained less on the help desk's.
Below 150 training pairs nothing was measured, and the command says so.

With --checkpoint-every a run that was killed loses little: the same command with --resume
goes on from the last checkpoint, and ends with the same weights. The checkpoints lie in
OUTPUT-checkpoints and are removed when the model is saved.

Several processes, one for each GPU or each machine, train the same model with

    torchrun --nproc-per-node 2 -m connection_utils finetune ...

--batch-size is then that of all of them together, so the result is that of one process,
but for dropout and rounding. Notebook 09 tells when it is worth it.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from connection_utils.commands import new_parser
from connection_utils.config import (
    LOSS_NAMES,
    POOLING_NAMES,
    RECIPES,
    TrainingConfig,
    recipe_doubt,
)
from connection_utils.ground.paths import missing_model, shown
from connection_utils.ground.whole_files import clear_leftovers
from connection_utils.long_runs import processes
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

if TYPE_CHECKING:
    from pandas import DataFrame

HELP = {
    "epochs": "how often each pair is seen",
    "batch_size": "pairs that go through the model at once",
    "gradient_accumulation_steps": "so many batches make one step: less memory for as many pairs",
    "bucket": "so many batches share pairs sorted by length (1: only shuffled)",
    "learning_rate": "highest learning rate, at the end of the warm-up",
    "warmup_ratio": "share of the steps in which the learning rate rises",
    "weight_decay": "AdamW's weight decay",
    "max_grad_norm": "gradients longer than this are cut to it",
    "loss": "what training makes small",
    "evaluations_per_epoch": "dev evaluations in an epoch; the best weights are kept",
    "freeze_embeddings": "leave the embedding tables as they are",
    "frozen_layers": "leave so many of the lowest layers, and the embeddings, as they are",
    "train_share": "share of the training pairs, drawn by the seed",
    "average_from": "from this share of the steps on, the mean of the weights is kept (1: off)",
    "start_share": "share of the starting weights in what is kept (0: none)",
    "seed": "decides the order of the pairs, dropout and, for one file, the split",
    "checkpoint_every": "write a checkpoint after so many steps (0: never)",
    "resume": "go on from the newest checkpoint, if there is one",
}


def parser(recipe: TrainingConfig = RECIPES["post"]) -> argparse.ArgumentParser:
    """The command line's options: `TrainingConfig`'s fields, with `recipe`'s values, and more."""
    options = new_parser("finetune", __doc__, parents=[_first()])
    options.add_argument("--model", default=DEFAULT_MODEL, metavar="FOLDER",
                         help="local model folder to start from (default: %(default)s)")
    options.add_argument("--columns", nargs="+", metavar="OURS=THEIRS", default=[],
                         help="what the file calls sentence1, sentence2 and score, as "
                              "sentence1=question (default: common names are looked for)")
    options.add_argument("--scale", nargs=2, type=float, metavar=("LOW", "HIGH"),
                         help="the lowest and highest score that are possible (default: found)")
    options.add_argument("--drop-bad-rows", action="store_true",
                         help="go on without them; they are set aside under runs/bad_rows/")
    options.add_argument("--output", metavar="FOLDER",
                         help="where the model goes (default: a folder under runs/ that "
                              "carries the settings)")
    options.add_argument("--pooling", choices=POOLING_NAMES, default="mean",
                         help="how token vectors become one (default: %(default)s)")
    options.add_argument("--max-length", type=int, default=128, metavar="TOKENS",
                         help="longer texts are cut (default: %(default)s)")
    options.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the best)")
    for setting in fields(TrainingConfig):
        kind = {"action": argparse.BooleanOptionalAction} if setting.type is bool else {
            "type": setting.type, "choices": LOSS_NAMES if setting.name == "loss" else None}
        options.add_argument(
            "--" + setting.name.replace("_", "-"), default=getattr(recipe, setting.name),
            **kind,
            help=HELP[setting.name] + " (default: %(default)s)")
    return options


def _first() -> argparse.ArgumentParser:
    """The two options that decide the defaults of others."""
    options = new_parser("finetune", None, add_help=False)
    options.add_argument("--data", default=DEFAULT_DATA, metavar="PATH",
                         help="folder with train, dev and test files, or one file of pairs: "
                              "CSV, TSV, JSON Lines, Parquet or Excel (default: %(default)s)")
    options.add_argument("--recipe", choices=RECIPES,
                         help="where the training options below start: post is the original "
                              "post's and Sentence-BERT's, fast is CoSENT for one epoch with the "
                              "two lowest layers frozen, best is CoSENT for two with frozen "
                              "embeddings, the last weights averaged (default: post, as in "
                              "notebook 03; best if --data is yours)")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the whole job; see ``--help``."""
    first = _first().parse_known_args(arguments)[0]
    recipe = first.recipe or ("post" if Path(first.data) == Path(DEFAULT_DATA) else "best")
    options = parser(RECIPES[recipe]).parse_args(arguments)
    options.recipe = recipe
    with processes.joined():
        _main(options)


def _main(options: argparse.Namespace) -> None:
    from connection_utils.pair_files.columns import stated_columns
    from connection_utils.pair_files.faults import ConnectionDataError

    try:
        config = TrainingConfig(**{f.name: getattr(options, f.name)
                                   for f in fields(TrainingConfig)})
        reading = {"columns": stated_columns(options.columns), "scale": options.scale,
                   "on_bad_rows": "drop" if options.drop_bad_rows else None}
        reading = {name: said for name, said in reading.items() if said}
        splits = processes.in_all(lambda: _read(options, config.seed, **reading))
        # What imports torch takes seconds; most of what can be wrong is told by now.
        from connection_utils.bert import ConnectionBert
        from connection_utils.dataset import ConnectionDataset
        from connection_utils.evaluation import bootstrap_interval, gain_interval, spearman
        from connection_utils.long_runs.checkpoint import remove_checkpoints
        from connection_utils.training import train
        from connection_utils.use.runs import run_folder, run_settings, save_run

        model = processes.in_all(lambda: ConnectionBert.from_local(
            options.model, options.pooling, options.max_length, options.device))
        settings = run_settings(options.model, options.data, options.pooling,
                                options.max_length, config) | reading
        output = Path(options.output or run_folder(settings))
        checkpoints = output.with_name(f"{output.name}-checkpoints")
        done = processes.from_main(lambda: _done(output, checkpoints, config.resume, settings))
    except ConnectionDataError as error:
        _stop(f"{error}\nHere these are --columns, --scale and --drop-bad-rows; see --help.")
    except (ValueError, FileExistsError) as error:     # a folder or an option is wrong
        _stop(f"{error}")
    if done:
        _say(f"{shown(output)} holds the model that these settings make: nothing to do")
        return
    test = splits["test"]
    _say(f"model   {shown(options.model)} on {model.device}"
         + f", in each of {processes.count()} processes" * (processes.count() > 1))
    _say(f"recipe  {options.recipe}")
    _say("pairs   " + ", ".join(f"{name} {len(pairs):,}" for name, pairs in splits.items()))
    if doubt := recipe_doubt(options.recipe, round(config.train_share * len(splits["train"]))):
        _say(f"doubt   {doubt}")
    before = processes.divided(model.similarity, test["sentence1"], test["sentence2"])
    _say(f"before  test Spearman {100 * spearman(test['score'], before):.2f}")

    train_set = ConnectionDataset(splits["train"], model.tokenizer, model.max_length)
    try:
        history = train(
            model, train_set, splits["dev"], config, on_evaluation=_say_evaluation, tell=_say,
            checkpoints=checkpoints if config.checkpoint_every or config.resume else None)
    except MemoryError as error:                       # of this process, perhaps of no other
        sys.exit(f"{error}")
    except (FloatingPointError, ValueError, FileExistsError) as error:
        _stop(f"{error}")
    except KeyboardInterrupt:                          # what it means has been told
        sys.exit(130)

    after = processes.divided(model.similarity, test["sentence1"], test["sentence2"])
    low, high = bootstrap_interval(test["score"], after)
    facts = {"pairs": {name: len(pairs) for name, pairs in splits.items()},
             "test_spearman_before": spearman(test["score"], before),
             "test_spearman_after": spearman(test["score"], after),
             "test_spearman_interval": [low, high]}
    try:
        processes.from_main(lambda: save_run(output, model, history, settings, **facts))
    except OSError as error:
        kept = (f"The checkpoints in {shown(checkpoints)} are still there: mend that, and run "
                "the same command with --resume." if checkpoints.exists() else
                "Mend that and train again; with --checkpoint-every less would be lost.")
        _stop(f"The model could not be saved to {shown(output)}: {error}. {kept}")
    processes.from_main(lambda: remove_checkpoints(checkpoints))
    if history.start_cosines is not None and not history.kept_start:
        gain, *ends = (100 * each for each in gain_interval(
            splits["dev"]["score"], history.start_cosines, history.trained_cosines))
        _say(f"gain    dev Spearman {gain:+.2f} (95 % interval {ends[0]:+.2f} to {ends[1]:+.2f})")
    _say(f"after   test Spearman {100 * facts['test_spearman_after']:.2f} "
         f"(95 % interval {100 * low:.2f} to {100 * high:.2f})")
    _say(f"saved   {shown(output)}")


def _say_evaluation(record: dict[str, float]) -> None:
    trained = "" if record["loss"] is None else f"loss {record['loss']:.4f}  "
    speed = "" if record["loss"] is None else f"  {record['pairs_per_s']:.0f} pairs/s"
    _say(f"epoch {record['epoch']:.2f}  {trained}dev Spearman "
         f"{100 * record['dev_spearman']:.2f}{speed}")


def _read(options: argparse.Namespace, seed: int, **reading: object
          ) -> dict[str, "DataFrame"]:
    """The pairs by split; ValueError if they cannot be used, or if there is no model."""
    if missing := missing_model(options.model):
        raise ValueError(missing)
    from connection_utils.pair_files.reading import read_splits

    return read_splits(options.data, seed, tell=_say, **reading)


def _done(output: Path, checkpoints: Path, resume: bool, settings: dict) -> bool:
    """Whether the model is there already; FileExistsError if it must not be written."""
    from connection_utils.bert import ConnectionBert

    ConnectionBert.check_output(output)
    if resume and not checkpoints.exists() and _finished(output, settings):
        return True
    clear_leftovers(output)
    return False


def _finished(output: Path, settings: dict) -> bool:
    from connection_utils.use.runs import read_run

    try:
        return bool(read_run(output, settings))
    except (FileNotFoundError, ValueError):
        return False


def _say(line: str) -> None:
    """One process speaks for all."""
    if processes.is_main():
        print(line, flush=True)


def _stop(message: str) -> NoReturn:
    """End all processes for a reason that all of them know."""
    sys.exit(message if processes.is_main() else 1)
