"""What each process of a training does in test_processes.py; torchrun starts it.

It trains as the jobs in a JSON file say, and writes what it saw beside it, a file for each
job and process.
"""

import hashlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pandas as pd

from connection_utils import ConnectionBert, ConnectionDataset, TrainingConfig, train
from connection_utils.long_runs.processes import joined
from connection_utils.long_runs.processes import rank as process_rank


class Watched(ConnectionDataset):
    """Notes which pairs are asked for."""

    asked: list[int]

    def __getitem__(self, index: int) -> dict:
        self.asked.append(index)
        return super().__getitem__(index)


def train_one(path: Path, job: dict) -> None:
    """Train as `job` says, and tell."""
    rank, wrote = process_rank(), []
    model = ConnectionBert.from_local(job["model"], device="cpu")
    pairs = pd.read_json(job["pairs"], lines=True)
    if rank == job.get("other_pairs"):
        pairs = pairs[::-1]
    train_set, stop = Watched(pairs, model.tokenizer), threading.Event()
    train_set.asked = []

    def look(history) -> None:
        if len(history.step_losses) == job.get("at_step") and rank == job["rank"]:
            stop.set() if job["then"] == "stop" else os.kill(os.getpid(), signal.SIGKILL)

    def note(event: str, values: tuple) -> None:
        if event in ("os.rename", "os.remove", "os.mkdir") or (
                event == "open" and values[1] and set(values[1]) & set("wxa+")):
            if str(values[0]).startswith(job["checkpoints"]):
                wrote.append(str(values[0]))

    if job.get("checkpoints"):
        sys.addaudithook(note)
    history = train(model, train_set, pairs, TrainingConfig(**job["config"]), on_step=look,
                    on_evaluation=lambda record: print("evaluated", flush=True), stop=stop,
                    checkpoints=job.get("checkpoints"))
    written = list(wrote)
    weights = hashlib.sha256(b"".join(tensor.numpy().tobytes()
                                      for tensor in model.state_dict().values()))
    path.write_text(json.dumps({
        "losses": history.step_losses, "dev": [r["dev_spearman"] for r in history.evaluations],
        "cosines": history.cosines[-1].tolist(), "pairs": history.pairs,
        "asked": train_set.asked, "wrote": written, "weights": weights.hexdigest()}))


def main() -> None:
    """Train one job after the other."""
    path = Path(sys.argv[1])
    with joined():
        for number, job in enumerate(json.loads(path.read_text())):
            train_one(path.with_name(f"seen-{number}-{process_rank()}.json"), job)


if __name__ == "__main__":
    main()
