"""Which test catches which fault? One fault at a time is planted in a copy of the project.

    python benchmarks/planted_faults.py --output benchmarks/results/planted_faults.json

Each fault is one changed place in the module, the Makefile or a notebook. The tests of its
subject then run on the copy until the first one fails: that test caught it. A fault that no
test catches is a hole in the suite. ``--pytest`` passes options on, such as ``-m 'not slow'``.
Two faults are tried at a time, with one thread each. A call that was killed continues where it
stopped, as long as the commit is the same.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from measuring import RESULTS, ROOT, commit, keep, parser

LOCAL = ("transformers/bert", "data/stsb")       # not in git; linked into each copy


class Fault(NamedTuple):
    """A place in a file, what it becomes, and the tests that should notice."""

    subject: str
    file: str
    old: str
    new: str
    tests: str


def _faults(subject: str, tests: str, *places: tuple[str, str, str]) -> list[Fault]:
    return [Fault(subject, f"connection_utils/{file}" if file.endswith(".py") else file, old,
                  new, tests)
            for file, old, new in places]


FAULTS = [
    *_faults(
        "loading", "tests/test_doctor.py tests/test_broken_folders.py tests/test_bert.py",
        ("model_folder/check.py", "report.bert.float()", "pass"),
        ("model_folder/check.py", "assign=True)", "assign=True, strict=False)"),
        ("model_folder/check.py", "max(rows - 1000, 0.9 * rows)", "0"),
        ("model_folder/files.py", '.replace("LayerNorm.gamma", "LayerNorm.weight")', "")),
    *_faults(
        "pooling", "tests/test_bert.py",
        ("bert.py", "return (hidden * mask).sum(dim=1) / mask.sum(dim=1)",
         "return hidden.mean(dim=1)"),
        ("bert.py", "hidden.masked_fill(padding, -torch.inf).amax", "hidden.amax"),
        ("bert.py", "return hidden[:, 0]", "return hidden[:, 1]")),
    *_faults(
        "tokens", "tests/test_bert.py tests/test_dataset.py tests/test_packing.py",
        ("encoding.py", "truncation=True,", "truncation=False,"),
        ("encoding.py", "embeddings[rows] = (F",
         "embeddings[start:start + len(rows)] = (F"),
        ("encoding.py", "padding_value=pad_token_id", "padding_value=1"),
        ("speed/packing.py", "position_ids=F.pad(places % tokens, spare)[None]",
         "position_ids=F.pad(0 * places, spare)[None]")),
    *_faults(
        "dataset and batches", "tests/test_dataset.py",
        ("dataset.py", "for item in items], dtype=torch.float32)",
         "for item in items], dtype=torch.float64)"),
        ("dataset.py", "1_000_003 * self.seed + self.epoch", "1_000_003 * self.seed"),
        ("dataset.py", "if not -1 <= score <= 1]", "if not -9 <= score <= 9]"),
        ("dataset.py", "batch = order[i * self.batch_size:",
         "batch = order[i * self.batch_size + 1:")),
    *_faults(
        "losses", "tests/test_losses.py",
        ("losses.py", "F.mse_loss(", "F.l1_loss("),
        ("losses.py", "score[:, None] < score[None, :]]", "score[:, None] <= score[None, :]]"),
        ("losses.py", "positive = score >= 0.8", "positive = score > 0.8")),
    *_faults(
        "training", "tests/test_training.py",
        ("training.py", "if record is history.best:", "if True:"),
        ("training.py", "nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)", "pass"),
        ("training.py", "    optimizer.zero_grad()\n", ""),
        ("training.py", "torch.manual_seed(config.seed + processes.rank())", "torch.seed()"),
        ("training.py", "        model.eval()\n        _TRAINING", "        _TRAINING")),
    *_faults(
        "schedule", "tests/test_training.py",
        ("training.py", "math.ceil(config.warmup_ratio * steps)", "0"),
        ("training.py", '"weight_decay": 0.0}', '"weight_decay": config.weight_decay}'),
        ("training.py", "if embeddings or layers:", "if embeddings:")),
    *_faults(
        "checkpoints", "tests/test_checkpoint.py",
        ("long_runs/checkpoint.py", "if parts.testzip() is not None:", "if False:"),
        ("long_runs/checkpoint.py", "torch.set_rng_state(on_cpu)", "pass"),
        ("long_runs/checkpoint.py", "weights_only=True", "weights_only=False"),
        ("long_runs/checkpoint.py", "_paths(self.folder)[:-KEPT]:",
         "_paths(self.folder)[:-1]:")),
    *_faults(
        "reading", "tests/test_reading.py tests/test_formats.py",
        ("pair_files/columns.py", "(numbers - low) / (high - low)", "numbers / high"),
        ("pair_files/columns.py", "(numbers >= low)", "(numbers > low)"),
        ("pair_files/columns.py", "not free and _BLANK.fullmatch(cell)", "False"),
        ("pair_files/reading.py", "key=lambda fault: fault[0])", "key=lambda fault: 0)")),
    *_faults(
        "splits", "tests/test_splitting.py",
        ("pair_files/splitting.py", ".str.strip().str.lower().str.replace(",
         ".str.strip().str.replace("),
        ("pair_files/splitting.py", "~keys.isin(later)", "keys.isin(later)"),
        ("pair_files/splitting.py", "groups=groups)]", "groups=np.arange(len(pairs)))]")),
    *_faults(
        "scoring", "tests/test_score.py",
        ("use/file_scoring.py", "if not paths[-1].exists():", "if True:"),
        ("use/file_scoring.py", "sorted([*chunk.cells.index, *chunk.broken]))",
         "sorted([*chunk.cells.index, *chunk.broken])[::-1])"),
        ("use/file_scoring.py", "scorer.identity()])", "0])")),
    *_faults(
        "evaluation", "tests/test_evaluation.py",
        ("evaluation.py", "stats.spearmanr(", "stats.pearsonr("),
        ("evaluation.py", "np.percentile(drawn, [2.5, 97.5])", "np.percentile(drawn, [5, 95])"),
        ("evaluation.py", "np.roll(rows, 1)", "np.roll(rows, 0)"),
        ("evaluation.py", "COLLAPSE_MEAN = 0.8", "COLLAPSE_MEAN = 1.0")),
    *_faults(
        "panels", "tests/test_panels.py",
        ("panels/threshold_panel.py", "if cosine >= self.threshold.value",
         "if cosine < self.threshold.value"),
        ("panels/training_panel.py", "            TrainingPanel._stopping.set()\n", ""),
        ("panels/knobs.py", "if value != default[name])", "if value == default[name])")),
    *_faults(
        "model card", "tests/test_model_card.py",
        ("use/model_card.py", "{100 * record[f'test_spearman_{when}']:.2f}",
         "{100 * record['test_spearman_before']:.2f}"),
        ("use/model_card.py", 'max_length=record["max_length"]', "max_length=128"),
        ("use/runs.py", "    if changed:\n", "    if False:\n")),
    *_faults(
        "series and Makefile", "tests/test_setup.py tests/test_assets.py",
        ("Makefile", " $(if $(EPOCHS),--epochs $(EPOCHS))", ""),
        ("requirements.lock", "torch==2.13.0", "torch>=2.13.0"),
        ("workshop/assets.py", "if (found := sha256_of(path)) != expected:", "if False:")),
    *_faults(
        "series and Makefile", "tests/test_series.py -k 'stale or widgets'",
        ("commands/series.py", "todo = [name for name in CORE if name in {*todo, *CORE[2:]}]",
         "todo = list(todo)"),
        ("workshop/notebooks.py", "        notebook.metadata[\"made_from\"] = made\n", "")),
    *_faults(
        "notebooks' outputs", "--nbval notebooks/02_build_connection_dataset.ipynb",
        ("notebooks/02_build_connection_dataset.ipynb", "5749 -> 5725", "5749 -> 5726"),
        ("pair_files/splitting.py", ".sum(axis=1) > 1]", ".sum(axis=1) > 2]")),
    *_faults(
        "notebooks' outputs", "tests/test_notebooks.py",
        ("notebooks/01_load_local_bert.ipynb", '"name": "stdout"', '"name": "stderr"')),
]


def caught_by(fault: Fault, options: list[str]) -> str | None:
    """The first test that fails on a copy with this fault; None if all pass."""
    with tempfile.TemporaryDirectory(prefix="fault-") as name:
        copy = Path(name)
        files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others",
                                "--exclude-standard"], cwd=ROOT, capture_output=True,
                               text=True, check=True).stdout.split("\0")
        for file in filter(None, files):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, copy / file)
        for folder in LOCAL:
            (copy / folder).symlink_to(ROOT / folder)
        path = copy / fault.file
        text = path.read_text(encoding="utf-8")
        if fault.old not in text:
            sys.exit(f"{fault.file} no longer holds {fault.old!r}: mend the list of faults")
        path.write_text(text.replace(fault.old, fault.new, 1), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-rfE", "-p",
             "no:cacheprovider", *shlex.split(fault.tests), *options],
            cwd=copy, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": name, "OMP_NUM_THREADS": "1"})
        if done.returncode == 0:
            return None
        first = re.search(r"^(?:FAILED|ERROR) ([^\n]*?)(?: - |$)", done.stdout, re.MULTILINE)
        if done.returncode != 1 or first is None:
            sys.exit(f"{fault}: pytest could not run:\n{done.stdout[-2000:]}{done.stderr}")
        return first[1]


def main() -> None:
    """Plant, run, keep after each fault, print."""
    options = parser(__doc__)
    options.add_argument("--pytest", default="", metavar="OPTIONS", help="passed on to pytest")
    options.add_argument("--jobs", type=int, default=2, help="faults tried at a time")
    chosen = options.parse_args()
    output = chosen.output or RESULTS / "planted_faults.json"
    command = " ".join(["planted_faults.py", *[f"--pytest {shlex.quote(chosen.pytest)}"]
                        * bool(chosen.pytest)])
    kept = json.loads(output.read_text()) if output.exists() else {}
    known = {(each["file"], each["old"], each["new"]): each["caught_by"]
             for each in kept.get("faults", [])
             if kept["command"].endswith(command) and kept.get("commit") == commit()}
    table = [{**fault._asdict(), "caught_by": known[fault[1:4]]}
             for fault in FAULTS if fault[1:4] in known]
    left = [fault for fault in FAULTS if fault[1:4] not in known]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        for fault, test in zip(left, pool.map(
                lambda each: caught_by(each, shlex.split(chosen.pytest)), left)):
            table.append({**fault._asdict(), "caught_by": test})
            print(f"{fault.subject:20} {fault.file}: {fault.old.strip()[:40]!r}  {test}",
                  flush=True)
            caught = sum(each["caught_by"] is not None for each in table)
            keep(output, command, caught=caught, planted=len(table), faults=table)
    print(f"{sum(each['caught_by'] is not None for each in table)} of {len(FAULTS)} faults "
          "are caught")


if __name__ == "__main__":
    main()
