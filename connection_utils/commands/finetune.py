"""Fine-tune a local BERT on pairs of texts, as notebook 03 does.

    python -m connection_utils finetune
    python -m connection_utils finetune --model transformers/bert/bert-base-uncased \\
        --data my_pairs.csv --epochs 1 --output runs/my_model

The model and the data are read from disk; no model hub is ever asked. The test pairs are
scored before and after training. The output is another local model folder: the weights of
the best dev evaluation (the starting weights, if no evaluation was better), the tokenizer,
and training.json with the settings, the history and the scores. sentence-transformers
loads it, too.

Which recipe? On 150 to 5,725 pairs of the STS benchmark and on 330 pairs of a help desk,
best gained the most, and it lost with no seed (averaged over draws of the dev pairs). It
takes twice as long as post. fast takes 0.7 times as long as post, and gained less on the
help desk's pairs. Nothing was measured below 150 training pairs; the command warns then.

With --checkpoint-every, a killed run loses little: the same command with --resume
continues from the last checkpoint and ends with the same weights. The checkpoints are in
OUTPUT-checkpoints and are removed once the model is saved.

Several processes, one for each GPU or each machine, can train the same model:

    torchrun --nproc-per-node 2 -m connection_utils finetune ...

--batch-size is then the batch of all processes together, so the result is that of one
process, except for dropout and rounding. Notebook 10 shows when it is worth it.
"""

import argparse
import sys
from contextlib import ExitStack, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from connection_utils.commands import (
    READING,
    add_reading_options,
    ending,
    new_parser,
    reading_options,
)
from connection_utils.config import POOLING_NAMES, RECIPES, TrainingConfig
from connection_utils.ground.paths import as_path, missing_model, shown
from connection_utils.ground.whole_files import clear_leftovers, only_writer
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

FEWEST_PAIRS = 150                   # training pairs: the recipes were not tried on fewer


def parser() -> argparse.ArgumentParser:
    """The options. A setting of `TrainingConfig` that is not given is None: see `chosen`."""
    options = new_parser("finetune", __doc__, usage="%(prog)s [options]")
    group = options.add_argument_group("pairs")
    group.add_argument("--data", default=DEFAULT_DATA, metavar="PATH",
                       help="file of pairs, or folder with train, dev and test files "
                            "(default: %(default)s)")
    add_reading_options(group)
    group = options.add_argument_group("model")
    group.add_argument("--model", default=DEFAULT_MODEL, metavar="FOLDER",
                       help="local model folder to start from (default: %(default)s)")
    group.add_argument("--pooling", choices=POOLING_NAMES,
                       help="of the token vectors (default: as saved, otherwise mean)")
    group.add_argument("--max-length", type=int, metavar="TOKENS",
                       help="longer texts are cut (default: as saved, otherwise 128)")
    group.add_argument("--device", help="cpu, cuda, cuda:1, mps, … (default: the best)")
    group.add_argument("--output", metavar="FOLDER",
                       help="where to save the model (default: a folder under runs/)")
    group = options.add_argument_group("training")
    group.add_argument("--recipe", choices=RECIPES,
                       help="the defaults of the following options: post is what the original "
                            "post did, fast is CoSENT with the two lowest layers frozen, best "
                            "is CoSENT with frozen embeddings and the last weights averaged "
                            f"(default: post for {DEFAULT_DATA}, best for other data)")
    for setting in fields(TrainingConfig):
        defaults = {name: getattr(config, setting.name) for name, config in RECIPES.items()}
        default = (defaults["post"] if len({*defaults.values()}) == 1 else
                   ", ".join(f"{name} {value}" for name, value in defaults.items()))
        kind = {"action": argparse.BooleanOptionalAction} if setting.type is bool else {
            "type": setting.type, "metavar": {int: "N", float: "X", str: "NAME"}[setting.type]}
        group.add_argument("--" + setting.name.replace("_", "-"), **kind,
                           help=f"{setting.metadata['help']} (default: {default})")
    return options


def chosen(options: argparse.Namespace) -> tuple[str, TrainingConfig]:
    """The name of the recipe, and its settings changed by the options that were given."""
    recipe = options.recipe or (
        "post" if Path(options.data) == Path(DEFAULT_DATA) else "best")
    given = {setting.name: value for setting in fields(TrainingConfig)
             if (value := getattr(options, setting.name)) is not None}
    return recipe, replace(RECIPES[recipe], **given)


def main(arguments: list[str] | None = None) -> None:
    """Run the whole job; see ``--help``. What a reader can mend ends in one message."""
    options = parser().parse_args(arguments)
    with ending(ValueError):
        recipe, config = chosen(options)
    if missing := missing_model(options.model):
        sys.exit(missing)
    # Only now is torch imported, which takes seconds: a wrong option is reported before.
    from connection_utils.long_runs import processes
    from connection_utils.pair_files.faults import as_options

    def worded(error: str) -> str | int:                 # all processes have the same error
        return as_options(error) if processes.is_main() else 1

    with (processes.joined(),
          ending(MemoryError),          # of this process, perhaps of no other
          ending(ValueError, FloatingPointError, OSError, worded=worded),
          ExitStack() as held):
        _finetune(options, recipe, config, held)


def _finetune(options: argparse.Namespace, recipe: str, config: TrainingConfig,
              held: ExitStack) -> None:
    """The job; `held` keeps the lock of the output."""
    from connection_utils.bert import ConnectionBert
    from connection_utils.dataset import ConnectionDataset
    from connection_utils.evaluation import bootstrap_interval, spearman
    from connection_utils.long_runs import processes
    from connection_utils.long_runs.checkpoint import remove_checkpoints
    from connection_utils.pair_files.faults import as_options
    from connection_utils.pair_files.reading import read_splits
    from connection_utils.speed.precision import bf16_gain, has_bf16, resolved
    from connection_utils.training import train
    from connection_utils.use.runs import read_run, run_folder, run_settings, save_run

    say = partial(print, flush=True) if processes.is_main() else lambda line: None
    reading = reading_options(options)
    splits = processes.in_all(lambda: read_splits(
        options.data, config.seed, tell=lambda line: say(as_options(line)), **reading))
    model = processes.in_all(lambda: ConnectionBert.from_local(
        options.model, options.pooling, options.max_length, options.device))
    settings = run_settings(options.model, options.data, model.pooling, model.max_length,
                            config) | reading
    output = as_path(options.output or run_folder(settings)).resolve()
    checkpoints = output.with_name(f"{output.name}-checkpoints")

    def is_done() -> bool:
        held.enter_context(only_writer(output))
        clear_leftovers(output)
        ConnectionBert.check_output(output)       # FileExistsError if it must not be replaced
        with suppress(FileNotFoundError, ValueError):         # no run there, or another one
            return config.resume and not checkpoints.exists() and bool(
                read_run(output, dict.fromkeys(READING) | settings))
        return False

    if processes.from_main(is_done):
        say(f"{shown(output)} contains the model of these settings: nothing to do")
        return
    test = splits["test"]
    pairs = {name: len(rows) for name, rows in splits.items()}
    say(f"model   {shown(options.model)} on {model.device}"
        + f", in each of {processes.count()} processes" * (processes.count() > 1)
        + f"; {model.pooling} pooling, max_length {model.max_length}")
    say(f"recipe  {recipe}")
    processes.in_all(lambda: resolved(config.precision, model.device))     # or all refuse it
    if (config.precision == "auto" and model.device.type == "cpu" and processes.is_main()
            and has_bf16(model.device) and (gain := bf16_gain()) > 1):
        say(f"speed   --precision bf16 would multiply matrices {gain:.1f} times as fast on this "
            "CPU; a whole training step gains less")
    say("pairs   " + ", ".join(f"{name} {count:,}" for name, count in pairs.items()))
    if (few := round(config.train_share * pairs["train"])) < FEWEST_PAIRS:
        say(f"doubt   recipe {recipe} was measured on {FEWEST_PAIRS} training pairs and more; "
            f"these are {few}. The training may bring no gain: look at the gain on dev and its "
            "interval.")
    train_set = ConnectionDataset(splits["train"], model.tokenizer, model.max_length)
    if not train_set.unread.is_much:             # or train() reports it
        say(f"texts   {train_set.unread}")
    score_test = partial(processes.divided, model.similarity, test["sentence1"],
                         test["sentence2"])
    before = spearman(test["score"], score_test())
    say(f"before  test Spearman {100 * before:.2f}")
    history = train(
        model, train_set, splits["dev"], config, on_evaluation=_print_evaluation, tell=say,
        checkpoints=checkpoints if config.checkpoint_every or config.resume else None)
    cosines = score_test()
    after = spearman(test["score"], cosines)
    interval = bootstrap_interval(test["score"], cosines)
    try:
        processes.from_main(lambda: save_run(
            output, model, history, settings, pairs=pairs, test_spearman_before=before,
            test_spearman_after=after, test_spearman_interval=[*interval]))
    except OSError as error:
        kept = (" The checkpoints are kept, too: solve this and run the same command with "
                f"--resume ({shown(checkpoints)}).")
        raise OSError(f"{error}{kept * any(checkpoints.glob('step-*.pt'))}") from None
    processes.from_main(lambda: remove_checkpoints(checkpoints))
    if not history.kept_start:
        gain, low, high = (100 * each for each in history.gain(splits["dev"]["score"]))
        say(f"gain    dev Spearman {gain:+.2f} (95 % interval {low:+.2f} to {high:+.2f})")
    low, high = (100 * each for each in interval)
    say(f"after   test Spearman {100 * after:.2f} (95 % interval {low:.2f} to {high:.2f})")
    say(f"saved   {shown(output)}")


def _print_evaluation(record: dict[str, float]) -> None:
    loss, speed = ("", "") if record["loss"] is None else (
        f"loss {record['loss']:.4f}  ", f"  {record['pairs_per_s']:.0f} pairs/s")
    print(f"epoch {record['epoch']:.2f}  {loss}dev Spearman "
          f"{100 * record['dev_spearman']:.2f}{speed}", flush=True)
