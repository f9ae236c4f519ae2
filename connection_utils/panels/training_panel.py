"""A panel for every notebook that trains: turn a knob, train, and watch (ipywidgets).

Where nobody watches (``CONNECTION_CHECK`` is set) the panel shows its static twin: the same
figure and the same table, as they stand.
"""

import threading
import time
from html import escape
from pathlib import Path

import ipywidgets as w
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from connection_utils import plots
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig, deciding
from connection_utils.dataset import ConnectionDataset
from connection_utils.evaluation import gain_interval
from connection_utils.ground.paths import ROOT, being_checked, runs_folder, shown
from connection_utils.panels.knobs import Knobs, frozen_name
from connection_utils.training import History, train
from connection_utils.use.runs import run_folder, save_run

FIGURE_EVERY, NUMBERS_EVERY = 3.0, 0.2         # seconds, at least
KEPT_RUNS = 10                                 # in the comparison table


def draw_run(figure: Figure, history: History, dev_scores: pd.Series) -> None:
    """Three panels of a run that may still be in progress, over the planned steps.

    The loss of each step and its running mean; dev Spearman, with a dashed line for the
    starting model (step 0); and the distribution of the latest evaluation's dev cosines.
    """
    loss, quality, spread = figure.subplots(1, 3)
    losses = pd.Series(history.step_losses, index=range(1, len(history.step_losses) + 1),
                       dtype=float)
    loss.plot(losses, color=plots.BLUE, alpha=0.25, lw=0.8)
    loss.plot(losses.rolling(25, min_periods=1).mean(), color=plots.BLUE)
    loss.set(title="training loss", xlabel="step", ylim=(0, None))
    reached = {record["step"]: record["dev_spearman"] for record in history.evaluations}
    if 0 in reached:
        quality.axhline(100 * reached[0], color="0.5", ls="--", lw=1)
    quality.plot(list(reached), [100 * value for value in reached.values()], marker="o",
                 color=plots.RED)
    quality.set(title="dev Spearman × 100", xlabel="step")
    for ax in (loss, quality):
        ax.set_xlim(0, max(history.steps, 1))
    if history.dev_cosines is not None:
        plots.draw_distributions(spread, dev_scores, history.dev_cosines)
        if spread.lines:                   # none if all cosines are alike
            spread.legend(fontsize=7, loc="upper left")
    spread.set(title="dev cosines by human score", xlabel="cosine", ylabel="", yticks=[])


class TrainingPanel:
    """Knobs, Train and Stop, and a run to watch while it goes on.

    `settings` are those of a run, as `run_settings` makes them: the knobs start there.
    `splits` holds the tables train and dev. Each run starts from the model on disk, goes
    on in a worker thread (one at a time in a kernel), and leaves a folder of its own under
    ``runs/panel/``. After a run, finished or stopped, `model`, `history` and `folder` are
    what it left; of one that failed only `history` and `error`, what ended it.
    """

    _worker = threading.Thread()               # a kernel's one, whichever panel started it
    _stopping = threading.Event()
    _starting = threading.Lock()

    def __init__(self, settings: dict, splits: dict[str, pd.DataFrame]) -> None:
        self.settings, self.splits = settings, dict(splits)
        self.model: ConnectionBert | None = None
        self.history: History | None = None
        self.folder: Path | None = None
        self.error: Exception | None = None
        self._rows: list[dict[str, object]] = []
        self._advice: list[str] = []                   # what this run's training told
        self._drawn = self._counted = self._started = 0.0
        self.knobs = Knobs(settings)
        self._train_button = w.Button(description="Train", button_style="primary", icon="play")
        self._stop_button = w.Button(description="Stop", icon="stop")
        self._train_button.on_click(lambda _: self.start())
        self._stop_button.on_click(lambda _: self.stop())
        self._bar, self._numbers, self._image = w.IntProgress(), w.Label(), w.Image()
        self._status, self._table = w.HTML(), w.HTML()
        self.box = w.VBox([
            self.knobs.box,
            w.HBox([self._train_button, self._stop_button, self._bar, self._numbers]),
            self._status, self._image, self._table, self.knobs.code_box])
        self._draw(History(self.knobs.config))

    @property
    def runs(self) -> pd.DataFrame:
        """The last runs, each with its settings, how it ended and what it reached."""
        return pd.DataFrame(self._rows[-KEPT_RUNS:])

    def add_run(self, history: History, settings: dict, ended: str | None = None) -> None:
        """Put a run in the comparison table, and draw it; `settings` as `run_settings`."""
        config, done = history.config, len(history.step_losses)
        if ended is None:
            ended = ("finished" if done == history.steps else
                     f"stopped at step {done} of {history.steps}")
            ended += "; kept the starting model" * history.kept_start
        best = history.best["dev_spearman"] if history.evaluations else np.nan
        self._rows.append({
            "pooling": settings["pooling"], "loss": config.loss,
            "learning rate": f"{config.learning_rate:g}", "epochs": config.epochs,
            "batch size": config.batch_size, "frozen": frozen_name(
                config.freeze_embeddings, config.frozen_layers),
            "train share": f"{config.train_share:.0%}", "ended": ended,
            "dev Spearman × 100": round(100 * best, 2), "seconds": round(history.seconds)})
        self.history = history
        self._table.value = plots.html_table(self.runs, index=False)
        self._draw(history)

    def start(self) -> None:
        """Train in the worker thread with what the knobs say; the button Train."""
        with TrainingPanel._starting:
            if not self.wait(0.2):
                self._tell("Another training is running in this kernel. Wait until it has "
                           "ended, or press Stop.", bad=True)
                return
            TrainingPanel._stopping.clear()
            self._enable(False)
            TrainingPanel._worker = threading.Thread(
                target=self._work, args=(self.knobs.config, self.knobs.pooling.value),
                daemon=True)
            TrainingPanel._worker.start()

    def stop(self) -> None:
        """End the training after the step at hand and keep its model; the button Stop."""
        if TrainingPanel._worker.is_alive():
            self._tell("Stopping: the dev pairs are scored a last time …")
            TrainingPanel._stopping.set()
        else:
            self._tell("Nothing is being trained.")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the worker thread, at most so long; True if it has ended."""
        if TrainingPanel._worker.ident is not None:
            TrainingPanel._worker.join(seconds)
        return not TrainingPanel._worker.is_alive()

    def _work(self, config: TrainingConfig, pooling: str) -> None:
        settings = {**self.settings, "pooling": pooling, "config": deciding(config)}
        history = History(config)
        dev = self.splits["dev"]

        def on_step(now: History) -> None:
            nonlocal history
            history = now
            self._count(now)
            if time.monotonic() - self._drawn > FIGURE_EVERY:
                self._draw(now)

        try:
            self.model = self.history = self.folder = self.error = None
            self._advice = []
            self._bar.value, self._numbers.value = 0, ""
            self._tell("Loading the model and the pairs …")
            model = ConnectionBert.from_local(ROOT / settings["base_model"], pooling,
                                              settings["max_length"])
            train_set = ConnectionDataset(self.splits["train"], model.tokenizer,
                                          model.max_length)
            self._draw(history)
            if TrainingPanel._stopping.is_set():
                self._tell("Stopped before the first step.")
                return
            self._tell(f"Training on {model.device}; {config.evaluations_per_epoch} × an "
                       "epoch it pauses to score the dev pairs.")
            self._started = time.monotonic()
            history = train(model, train_set, dev, config, on_step=on_step, on_evaluation=
                            lambda record: self._draw(history),
                            stop=TrainingPanel._stopping,
                            tell=self._advise)
            self.model = model
            self._numbers.value = f"{history.pairs / history.seconds:.0f} pairs/s"
            self.add_run(history, settings)
            self._tell(f"{self._verdict(history)} Saving …")
            self.folder = _save(model, history, settings, self.splits)
            self._tell(f"{self._verdict(history)} The model is panel.model, and lies "
                       f"in {shown(self.folder)}.")
        except Exception as error:             # whatever it is, the reader gets a sentence
            self.error = error
            ours = str(error) and isinstance(
                error, ValueError | FloatingPointError | MemoryError)
            self._tell(f"{error}" if ours else f"{type(error).__name__}: {error}", bad=True)
            if self.history is not history:
                self.add_run(history, settings, f"failed at step {len(history.step_losses)}")
        finally:
            self._enable(True)

    def _verdict(self, history: History) -> str:
        """How the run ended, and what it brought on dev; what training noticed, too."""
        found = f"dev Spearman × 100 is {100 * history.best['dev_spearman']:.2f}"
        if history.start_cosines is not None and not history.kept_start:
            gain, low, high = (100 * each for each in gain_interval(
                self.splits["dev"]["score"], history.start_cosines, history.trained_cosines))
            found += (f", {gain:.2f} above the starting model (95 % interval {low:.2f} to "
                      f"{high:.2f})")
        return (f"{self._rows[-1]['ended'].capitalize()}: {found}." + "".join(
            f" Noticed: {sentence}" for sentence in self._advice))

    def _count(self, history: History) -> None:
        now, done = time.monotonic(), len(history.step_losses)
        if now - self._counted < NUMBERS_EVERY and done < history.steps:
            return
        self._counted = now
        self._bar.max, self._bar.value = history.steps, done
        passed = now - self._started
        left = int(passed / done * (history.steps - done))
        self._numbers.value = (f"step {done} of {history.steps} · "
                               f"{history.pairs / history.seconds:.0f} pairs/s · "
                               f"{left // 60}:{left % 60:02d} left")

    def _draw(self, history: History) -> None:
        self._image.value = plots.png_of(self._figure(history))
        self._drawn = time.monotonic()

    def _figure(self, history: History) -> Figure:
        figure = Figure(figsize=(8.4, 2.6), dpi=100, layout="none")
        draw_run(figure, history, self.splits["dev"]["score"])
        figure.subplots_adjust(left=0.06, right=0.98, bottom=0.19, top=0.88, wspace=0.2)
        return figure

    def _advise(self, sentence: str) -> None:
        self._advice.append(sentence)
        self._tell(sentence, bad=True)

    def _tell(self, sentence: str, bad: bool = False) -> None:
        color = f"color: {plots.RED}" if bad else ""
        self._status.value = f'<span style="{color}">{escape(sentence)}</span>'

    def _enable(self, idle: bool) -> None:
        self._train_button.disabled = not idle
        self.knobs.disable(not idle)

    def _ipython_display_(self) -> None:
        if not being_checked():
            display(self.box)
            return
        plots.show(self._figure(self.history or History(self.knobs.config)),
                   "Three panels of the last run: training loss over the steps, dev "
                   "Spearman, and the dev cosines for each band of the human score.")
        display(self.runs)


def _save(model: ConnectionBert, history: History, settings: dict,
          splits: dict[str, pd.DataFrame]) -> Path:
    """Save a run under ``runs/panel/``; a stopped one never in a finished one's place."""
    stopped = len(history.step_losses) < history.steps
    folder = runs_folder() / "panel" / (
        run_folder(settings).name + ("-stopped" if stopped else ""))
    save_run(folder, model, history, settings,
             pairs={name: len(pairs) for name, pairs in splits.items()},
             steps=len(history.step_losses))
    return folder
