"""What the benchmarks share: a process for each measurement, the machine, a kept result."""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))   # where it is not installed
from connection_utils import ConnectionDataset, LengthBucketedBatches
from connection_utils.ground.paths import ROOT, shown
from connection_utils.ground.whole_files import write_whole

RESULTS = ROOT / "benchmarks" / "results"
CPUINFO = Path("/proc/cpuinfo")       # Linux only, and ARM's has fewer lines than x86's


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring, with the option `--output`."""
    options = argparse.ArgumentParser(description=doc,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, metavar="FILE",
                         help="where the result goes (default: a file in benchmarks/results/)")
    return options


def in_a_process(script: str, *arguments: object, **environment: str) -> dict[str, float]:
    """Run `script` with `arguments` in a fresh process; what it prints last is its result."""
    done = subprocess.run([sys.executable, script, *map(str, arguments)], check=False,
                          capture_output=True, text=True,
                          env=os.environ | {"CONNECTION_CHECK": "quick"} | environment)
    if done.returncode:
        sys.exit(f"{Path(script).name} {' '.join(map(str, arguments))} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def tokens_per_pair(dataset: ConnectionDataset, batch_size: int, seed: int,
                    bucket: int = 1) -> dict[str, float]:
    """Tokens in an epoch over the pairs (exact): the texts' own, and with padding."""
    lengths = dataset.lengths
    own = sum(map(len, dataset.sentence1)) + sum(map(len, dataset.sentence2))
    padded = sum(2 * len(rows) * max(lengths[row] for row in rows)
                 for rows in LengthBucketedBatches(lengths, batch_size, seed, bucket))
    return {"own": own / len(dataset), "padded": padded / len(dataset)}


def machine() -> dict[str, object]:
    """What the numbers were measured on; None for what this system does not say."""
    names = ("torch", "transformers", "sentence-transformers", "accelerate", "onnxruntime",
             "numpy")
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    facts = {name.strip(): value for name, _, value in (
        line.partition(": ") for line in lines)}
    return {"cpu": facts.get("model name") or platform.processor() or platform.machine(),
            "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "vnni": "vnni" in facts["flags"] if "flags" in facts else None,
            "system": platform.platform(), "python": platform.python_version(),
            "versions": {name: _version(name) for name in names}}


def commit() -> str | None:
    """The commit that is measured, "with changes" if files differ from it; None without git.

    A result that was written since then is no change: a sweep writes its file after each run.
    """
    def git(*words: str, check: bool = True) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True,
                              check=check)

    try:
        head = git("rev-parse", "HEAD").stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    changed = git("diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results", check=False)
    return head + (" with changes" if changed.returncode else "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def keep(output: Path, command: str, **found: object) -> None:
    """Write what was found as JSON, with the command, date, commit and machine.

    A number that is not finite (a quality that was never reached) becomes null. What is
    `found` may name another commit: that of a copy without git.
    """
    record = {"command": f"python benchmarks/{command}", "date": f"{date.today()}",
              "commit": commit(), "machine": machine(), **_finite(found)}
    with write_whole(output) as scratch:
        scratch.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n",
                           encoding="utf-8")
    print(f"written to {shown(output)}")


def _finite(found):
    if isinstance(found, dict):
        return {name: _finite(value) for name, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
