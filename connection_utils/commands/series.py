"""Run the numbered notebooks of the series, from the first to the last.

    python -m connection_utils series fetch      put the default model and data in place
    python -m connection_utils series run        the main job; what `make run` starts
    python -m connection_utils series sweep      notebook 03 with several values of a parameter
    python -m connection_utils series execute    re-execute and save the committed outputs
"""

import argparse
import base64
import json
import sys
import time
from dataclasses import fields
from pathlib import Path

from connection_utils.commands import new_parser
from connection_utils.config import TrainingConfig
from connection_utils.ground.paths import as_path, missing_model, runs_folder, shown
from connection_utils.ground.whole_files import write_whole
from connection_utils.workshop.assets import (
    DATA,
    DEFAULT_DATA,
    DEFAULT_MODEL,
    MODEL,
    AssetError,
    fetch_assets,
)

CORE = ("01_load_local_bert", "02_build_connection_dataset", "03_train_siamese_cosine",
        "04_similarity_distributions")
OTHER_CELLS_SECONDS = 80       # reading, drawing, four kernels starting: on 2 CPU cores


def run(model: str, data: str, epochs: int | None) -> None:
    """Execute notebooks 01 to 04 into ``runs/notebooks/`` and print a short table.

    A notebook whose executed copy was made from the same notebook, module, model, data
    and parameters is not run again.
    """
    from connection_utils.workshop import notebooks

    _fetch_or_refuse(model, data)
    wanted = {"model_dir": model, "data": data, "epochs": epochs}
    given = {name: value for name, value in wanted.items() if value is not None}
    settings = notebooks.parameters_of(notebooks.NOTEBOOKS / f"{CORE[2]}.ipynb") | given
    output, config = _trained(settings)
    copies = runs_folder() / "notebooks" / output.name
    fingerprint = notebooks.fingerprint_of(model, data)
    todo = [name for name in CORE
            if not notebooks.in_place(copies / f"{name}.ipynb", name, given, fingerprint)]
    if CORE[2] in todo or not (output / "threshold.json").is_file():
        todo = [name for name in CORE if name in {*todo, *CORE[2:]}]  # 04 judges 03's model
    if CORE[2] in todo:
        _tell_duration(settings, config)
    for name in CORE:
        if name in todo:
            notebooks.execute_copy(name, given, fingerprint, copies)
        else:
            print(f"{name}: in place in {shown(copies)}")
    _print_table(output, copies)


def sweep(parameter: str, values: list[str], model: str, data: str) -> None:
    """Execute notebook 03 once for each value of one of its parameters; print a table.

    The copies go to ``runs/sweeps/``, a folder a value; a value that is in place there is
    not run again. What is tabled is dev: test is not for choosing.
    """
    from connection_utils.workshop import notebooks

    _fetch_or_refuse(model, data)
    known = notebooks.parameters_of(notebooks.NOTEBOOKS / f"{CORE[2]}.ipynb")
    if parameter not in known:
        raise ValueError(f"notebook 03 has no parameter {parameter!r}; expected one of "
                         f"{', '.join(known)}")
    try:
        chosen = [type(known[parameter])(text) for text in values]
    except ValueError:
        raise ValueError(f"{parameter} is {' '.join(values)}; expected values such as "
                         f"{known[parameter]!r}") from None
    from connection_utils.use.runs import read_run

    fingerprint, rows = notebooks.fingerprint_of(model, data), []
    for value in chosen:
        given = {"model_dir": model, "data": data, parameter: value}
        output, _ = _trained(known | given)
        copies = runs_folder() / "sweeps" / output.name
        if not (notebooks.in_place(copies / f"{CORE[2]}.ipynb", CORE[2], given, fingerprint)
                and (output / "training.json").is_file()):
            print(f"{parameter} = {value}", flush=True)
            notebooks.execute_copy(CORE[2], given, fingerprint, copies)
        evaluations = read_run(output)["evaluations"]
        best = max(evaluations, key=lambda each: each["dev_spearman"])
        rows.append(f"{value!s:>14}  {100 * best['dev_spearman']:18.2f}  "
                    f"{evaluations[-1]['seconds']:7.0f}  {shown(copies)}"
                    + "  (kept the starting model)" * (best["step"] == 0))
    print(f"\n{parameter:>14}  dev Spearman × 100  seconds  the notebook", *rows, sep="\n")


def _fetch_or_refuse(model: str, data: str) -> None:
    """Put the default model and data in place, if wanted; ValueError for what is not there."""
    fetch_assets(*(asset for asset, wanted in ((MODEL, model), (DATA, data))
                   if as_path(wanted) == Path(asset.folder)))
    if missing := missing_model(model):
        raise ValueError(missing)
    if not as_path(data).exists():
        from connection_utils.pair_files.reading import read_splits

        read_splits(data)                      # which says what was expected


def save_outputs(only: str | None) -> None:
    """Re-execute the committed notebooks as a check would, and save what they print."""
    import nbformat

    from connection_utils.workshop import notebooks

    paths = [path for path in sorted(notebooks.NOTEBOOKS.glob("**/*.ipynb"))
             if ".ipynb_checkpoints" not in path.parts and path.name.startswith(only or "")]
    if not paths:
        sys.exit(f"no notebook under notebooks/ begins with {only!r}; expected 01, 02, …")
    for path in paths:
        notebooks.execute(nbformat.read(path, as_version=4), path.stem, path, checking=True)
        if path.stem == CORE[3]:
            _save_readme_picture(path)


def _save_readme_picture(path: Path) -> None:
    """The README shows the first figure of notebook 04."""
    import nbformat

    from connection_utils.workshop import notebooks

    outputs = (output for cell in nbformat.read(path, as_version=4).cells
               for output in cell.get("outputs", []))
    picture = next(o.data["image/png"] for o in outputs if "image/png" in o.get("data", {}))
    with write_whole(notebooks.NOTEBOOKS / "similarity_distributions.png") as scratch:
        scratch.write_bytes(base64.b64decode(picture))


def _trained(parameters: dict) -> tuple[Path, TrainingConfig]:
    config = TrainingConfig(**{field.name: parameters[field.name]
                               for field in fields(TrainingConfig)
                               if field.name in parameters})
    from connection_utils.use.runs import run_folder, run_settings

    settings = run_settings(parameters["model_dir"], parameters["data"],
                            parameters["pooling"], parameters["max_length"], config)
    return run_folder(settings), config


def _tell_duration(settings: dict, config: TrainingConfig) -> None:
    """Time some steps on this machine, and say how long the series will take."""
    from connection_utils.bert import ConnectionBert
    from connection_utils.dataset import ConnectionDataset, connection_loader
    from connection_utils.losses import LOSSES
    from connection_utils.pair_files.reading import read_splits
    from connection_utils.training import build_optimizer, build_schedule, training_step

    model = ConnectionBert.from_local(settings["model_dir"], settings["pooling"],
                                      settings["max_length"])
    splits = read_splits(settings["data"], config.seed)
    loader = connection_loader(
        ConnectionDataset(splits["train"], model.tokenizer, model.max_length),
        config.batch_size)
    steps = config.epochs * len(loader)
    optimizer = build_optimizer(model.train(), config)
    schedule = build_schedule(optimizer, steps, config)
    measured = 0
    for measured, batch in enumerate(loader, start=1):
        if measured == 2:                      # the first step is slower than all others
            started = time.perf_counter()
        training_step(model, batch, LOSSES[config.loss], optimizer, schedule, 1.0)
        if measured == 12:
            break
    steps += 40                                # 03 takes 20 by hand, and 20 to compare
    training = (time.perf_counter() - started) / (measured - 1) * steps if measured > 1 else 0
    sample = splits["dev"].head(128)
    started = time.perf_counter()
    model.similarity(sample["sentence1"], sample["sentence2"])
    pairs = (config.epochs * config.evaluations_per_epoch + 3) * len(splits["dev"]) \
        + 7 * len(splits["test"])
    scoring = (time.perf_counter() - started) / len(sample) * pairs
    minutes = max(1, round((training + scoring + OTHER_CELLS_SECONDS) / 60))
    epochs = f"{config.epochs} epoch" + "s" * (config.epochs > 1)
    print(f"{len(splits['train']):,} training pairs × {epochs} on {model.device}: this "
          f"will take about {minutes} min", flush=True)


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
the notebooks         {shown(copies)}""")


def main(arguments: list[str] | None = None) -> None:
    options = new_parser("series", __doc__)
    verbs = options.add_subparsers(dest="verb", required=True)
    verbs.add_parser("fetch", help="put the default model and data in place",
                     allow_abbrev=False)
    runner = verbs.add_parser("run", help="execute notebooks 01 to 04 under runs/",
                              allow_abbrev=False)
    runner.add_argument("--model", default=DEFAULT_MODEL, help="local model folder")
    runner.add_argument("--data", default=DEFAULT_DATA, help="folder of splits, or one CSV")
    runner.add_argument("--epochs", type=int, help="epochs of training (default: 03's own)")
    sweeper = verbs.add_parser("sweep", help="notebook 03 with several values of a parameter",
                               allow_abbrev=False)
    sweeper.add_argument("parameter", help="a name in 03's first cells, as learning_rate")
    sweeper.add_argument("values", nargs="+", help="such as 2e-5 5e-5 1e-4")
    sweeper.add_argument("--model", default=DEFAULT_MODEL, help="local model folder")
    sweeper.add_argument("--data", default=DEFAULT_DATA, help="folder of splits, or one CSV")
    saver = verbs.add_parser("execute", help="save the committed notebooks' outputs anew",
                             allow_abbrev=False)
    saver.add_argument("--only", metavar="NN", help="just this notebook, as 03")
    chosen = options.parse_args(arguments)
    try:
        if chosen.verb == "fetch":
            fetch_assets(MODEL, DATA)
        else:
            _execute(chosen)
    except (AssetError, ValueError, OSError) as error:
        sys.exit(f"{error}")


def _execute(chosen: argparse.Namespace) -> None:
    from connection_utils.pair_files.faults import ConnectionDataError
    from connection_utils.workshop.notebooks import NotebookFailed

    try:
        if chosen.verb == "run":
            run(chosen.model, chosen.data, chosen.epochs)
        elif chosen.verb == "sweep":
            sweep(chosen.parameter, chosen.values, chosen.model, chosen.data)
        else:
            save_outputs(chosen.only)
    except NotebookFailed as error:
        sys.exit(f"{error}")
    except ConnectionDataError as error:
        sys.exit(f"{error}\nThe notebooks take common column names and scales, and whole rows: "
                 "rename the columns\nto sentence1, sentence2 and score, or state what is meant "
                 "to the command line\npython -m connection_utils finetune (--columns, --scale, "
                 "--drop-bad-rows).")
