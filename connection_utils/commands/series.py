"""Run the numbered notebooks of the series, from the first to the last.

    python -m connection_utils series fetch      put the default model and data in place
    python -m connection_utils series run        the main job; what `make run` starts
    python -m connection_utils series sweep      notebook 03 with several values of a parameter

run and sweep take a file of pairs as it is, if its columns and its scale are found. Otherwise
--columns, --scale, --encoding and --drop-bad-rows state how to read it. The notebooks then get
a copy of the pairs, cut into train, dev and test, in runs/pairs/.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from functools import cache, partial
from pathlib import Path

from connection_utils.commands import add_reading_options, ending, new_parser, reading_options
from connection_utils.config import TrainingConfig
from connection_utils.ground.paths import as_path, missing_model, runs_folder, shown
from connection_utils.ground.whole_files import write_whole
from connection_utils.workshop.assets import DATA, MODEL, fetch_assets

CORE = ("01_load_local_bert", "02_build_connection_dataset", "03_train_siamese_cosine",
        "04_similarity_distributions")


def fetch(_: argparse.Namespace) -> None:
    """Put the default model and data in place."""
    fetch_assets(MODEL, DATA)


def run(chosen: argparse.Namespace) -> None:
    """Execute notebooks 01 to 04 into ``runs/notebooks/`` and print a short table.

    A notebook whose executed copy was made from the same notebook, module, model, data
    and parameters is not run again.
    """
    from connection_utils.workshop import notebooks

    epochs = {} if chosen.epochs is None else {"epochs": chosen.epochs}
    TrainingConfig(**epochs)           # a ValueError comes before torch, which takes seconds
    given = _ready(chosen, chosen.model, chosen.data) | epochs
    output = _trained(given)
    copies = runs_folder() / "notebooks" / output.name
    todo = [name for name in CORE
            if not notebooks.in_place(copies / f"{name}.ipynb", name, given)]
    if CORE[2] in todo or not (output / "threshold.json").is_file():
        todo = [name for name in CORE if name in {*todo, *CORE[2:]}]  # 04 judges 03's model
    if CORE[2] in todo:
        print("Notebook 03 trains the model, which takes most of the time.", flush=True)
    for name in CORE:
        if name in todo:
            notebooks.execute_copy(name, given, copies)
        else:
            print(f"{name}: in place in {shown(copies)}")
    _print_table(output, copies)


def sweep(chosen: argparse.Namespace) -> None:
    """Execute notebook 03 once for each value of one of its parameters; print a table.

    The copies go to ``runs/sweeps/``, one folder for each value; a value that is in place
    there is not run again. The table shows dev scores: test is not for choosing. ValueError,
    before anything runs, for a value that is not of the parameter's type.
    """
    parameter, known = chosen.parameter, _parameters()
    if parameter not in known:
        raise ValueError(f"notebook 03 has no parameter {parameter!r}; expected one of "
                         f"{', '.join(known)}")
    ready = cache(partial(_ready, chosen))             # the same pairs are read once
    todo = []
    for text in chosen.values:
        given = {"model_dir": chosen.model, "data": chosen.data}
        try:
            given[parameter] = type(known[parameter])(text)
        except ValueError:
            raise ValueError(f"{parameter} is {text}; expected a value such as "
                             f"{known[parameter]!r}") from None
        checked = ready(given["model_dir"], given["data"])
        given = checked | given | {"data": checked["data"]}
        todo.append((given, _trained(given)))
    from connection_utils.use.runs import read_run
    from connection_utils.workshop import notebooks

    rows = []
    for given, output in todo:
        copies = runs_folder() / "sweeps" / output.name
        if not (notebooks.in_place(copies / f"{CORE[2]}.ipynb", CORE[2], given)
                and (output / "training.json").is_file()):
            print(f"{parameter} = {given[parameter]}", flush=True)
            notebooks.execute_copy(CORE[2], given, copies)
        evaluations = read_run(output)["evaluations"]
        best = max(evaluations, key=lambda each: each["dev_spearman"])
        rows.append(f"{given[parameter]!s:>14}  {100 * best['dev_spearman']:18.2f}  "
                    f"{evaluations[-1]['seconds']:7.0f}  {shown(copies)}"
                    + "  (kept the starting model)" * (best["step"] == 0))
    print(f"\n{parameter:>14}  dev Spearman × 100  seconds  the notebook", *rows, sep="\n")


def _parameters() -> dict[str, object]:
    """The parameters of notebook 03, with their defaults."""
    from connection_utils.workshop import notebooks

    return notebooks.parameters_of(notebooks.NOTEBOOKS / f"{CORE[2]}.ipynb")


def _ready(chosen: argparse.Namespace, model: str, data: str) -> dict[str, object]:
    """Check the model and the pairs before any notebook runs; returns what notebooks are given.

    This is ``model_dir``, ``data``, and the pooling and max_length that the folder states. The
    default model and data are put in place, and how much of the texts the model cannot read is
    printed. If options state how to read the pairs, these are written as splits to a new folder
    below ``runs/pairs/``: the notebooks themselves take no such options. ValueError for what is
    missing or cannot be used.
    """
    fetch_assets(*(asset for asset, wanted in ((MODEL, model), (DATA, data))
                   if as_path(wanted) == Path(asset.folder)))
    if missing := missing_model(model):
        raise ValueError(missing)
    from connection_utils.pair_files.faults import as_options
    from connection_utils.pair_files.reading import read_splits

    reading = reading_options(chosen)
    try:
        splits = read_splits(data, tell=lambda line: print(as_options(line)), **reading)
    except ValueError as error:
        message = as_options(str(error))
        if message != str(error):            # an option may help
            message += "\nWith make, pass these options in READ, as READ='--scale 0 4'."
        raise ValueError(message) from None
    from connection_utils.dataset import ConnectionDataset
    from connection_utils.model_folder.check import check_model_dir
    from connection_utils.model_folder.files import load_tokenizer

    report = check_model_dir(model)
    report.raise_if_broken()
    given = {"model_dir": model, "data": data, **report.settings}
    settings = _parameters() | given
    print(f"{shown(model)}: {settings['pooling']} pooling, max_length {settings['max_length']}")
    texts = ConnectionDataset(splits["train"], load_tokenizer(model), settings["max_length"])
    print(f"training texts: {texts.unread}")
    if not reading:
        return given
    path = as_path(data)
    mark = hashlib.sha256(repr([path.absolute(), reading]).encode()).hexdigest()[:6]
    folder = runs_folder() / "pairs" / f"{path.stem}-{mark}"
    for name, pairs in splits.items():
        with write_whole(folder / f"{name}.parquet") as scratch:
            pairs.to_parquet(scratch, index=False)
    print(f"{shown(path)}: read as stated into {shown(folder)}")
    return given | {"data": shown(folder)}


def _trained(given: dict) -> Path:
    """The folder of the model that notebook 03 trains with the parameters `given`."""
    parameters = _parameters() | given
    config = TrainingConfig(**{setting.name: parameters[setting.name]
                               for setting in fields(TrainingConfig)
                               if setting.name in parameters})
    from connection_utils.use.runs import run_folder, run_settings

    return run_folder(run_settings(parameters["model_dir"], parameters["data"],
                                   parameters["pooling"], parameters["max_length"], config))


def _print_table(output: Path, copies: Path) -> None:
    from connection_utils.use.runs import read_run

    record = read_run(output)
    threshold = json.loads((output / "threshold.json").read_text())
    low, high = record["test_spearman_interval"]
    print(f"""
test Spearman × 100   {100 * record['test_spearman_before']:.2f} before, \
{100 * record['test_spearman_after']:.2f} after fine-tuning \
(95 % interval {100 * low:.2f} to {100 * high:.2f})
threshold             connected from cosine {threshold['threshold']:.2f} on \
(chosen on dev; right for {100 * threshold['test']['accuracy']:.1f} % of the test pairs)
the model             {shown(output)}
the notebooks         {shown(copies)} (the gain's interval is in section 6 of 03)
next                  `make lab` opens the notebooks in JupyterLab""")


def main(arguments: list[str] | None = None) -> None:
    """Run the verb that is asked for; see ``--help``."""
    options = new_parser("series", __doc__)
    verbs = options.add_subparsers(required=True)

    def verb(do: Callable, what: str) -> argparse.ArgumentParser:
        parser = verbs.add_parser(do.__name__, help=what, description=what, allow_abbrev=False)
        parser.set_defaults(do=do)
        return parser

    verb(fetch, "put the default model and data in place")
    runner = verb(run, "execute notebooks 01 to 04 under runs/")
    runner.add_argument("--epochs", type=int, help="epochs of training (default: 03's own)")
    sweeper = verb(sweep, "run notebook 03 with several values of a parameter")
    sweeper.add_argument("parameter", help="a name in 03's parameters, such as learning_rate")
    sweeper.add_argument("values", nargs="+", help="such as 2e-5 5e-5 1e-4")
    for each in (runner, sweeper):
        each.add_argument("--model", default=MODEL.folder, help="local model folder")
        each.add_argument("--data", default=DATA.folder,
                          help="file of pairs, or folder with train, dev and test files")
        add_reading_options(each)
    chosen = options.parse_args(arguments)
    # an asset's, a notebook's, a file's
    with ending(RuntimeError, ValueError, OSError):
        chosen.do(chosen)
