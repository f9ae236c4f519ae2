"""A panel for notebooks that train: turn a knob, train, and watch (ipywidgets).

While a notebook is being checked (``CONNECTION_CHECK`` is set), the panel shows its last figure
and its table instead of widgets.
"""

import threading
import time
from html import escape
from pathlib import Path

import ipywidgets as w
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from connection_utils import plots
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig, deciding
from connection_utils.dataset import ConnectionDataset
from connection_utils.ground.paths import ROOT, being_checked, runs_folder, shown
from connection_utils.panels.knobs import Knobs
from connection_utils.training import History, train
from connection_utils.use.runs import run_folder, save_run

FIGURE_EVERY = 3.0                             # seconds, at least


def draw_run(figure: Figure, history: History, dev_scores: pd.Series) -> None:
    """Three panels of a run that may still be in progress, over the planned steps.

    The loss of each step and its running mean; dev Spearman, with a dashed line for the
    starting model (step 0); and the distribution of the latest evaluation's dev cosines.
    """
    loss, quality, spread = figure.subplots(1, 3)
    planned = 0, max(history.steps, 1)
    losses = pd.Series(history.step_losses, index=range(1, len(history.step_losses) + 1),
                       dtype=float)
    loss.plot(losses, color=plots.BLUE, alpha=0.25, lw=0.8)
    loss.plot(losses.rolling(25, min_periods=1).mean(), color=plots.BLUE)
    loss.set(title="training loss", xlabel="step", xlim=planned, ylim=(0, None))
    scored = history.to_frame()
    for start in scored.loc[scored["step"] == 0, "dev_spearman"]:
        quality.axhline(100 * start, color="0.5", ls="--", lw=1)
    quality.plot(scored["step"], 100 * scored["dev_spearman"], marker="o", color=plots.RED)
    quality.set(title="dev Spearman × 100", xlabel="step", xlim=planned)
    if history.cosines:
        plots.draw_distributions(spread, dev_scores, history.cosines[-1])
        if spread.lines:                   # none if all cosines are alike
            spread.legend(fontsize=7, loc="upper left")
    spread.set(title="dev cosines by human score", xlabel="cosine", ylabel="", yticks=[])


class TrainingPanel:
    """Knobs, Train and Stop, and a run to watch while it trains.

    `settings` are those of a run, as `run_settings` returns them: the knobs start there.
    `splits` contains the tables train and dev. Each run starts from the model on disk, trains
    in a worker thread (one at a time in a kernel), and is saved in a separate folder under
    ``runs/panel/``. After a run, finished or stopped, `model`, `history` and `folder` are its
    results; a run that failed has only a `history`. `runs` is a table of all runs, each with
    its settings, how it ended and its best dev Spearman.
    """

    _idle, _stopping = threading.Event(), threading.Event()     # of all panels in the kernel
    _idle.set()

    def __init__(self, settings: dict, splits: dict[str, pd.DataFrame]) -> None:
        self.settings, self.splits = settings, splits
        self.knobs, self.runs = Knobs(settings), pd.DataFrame()
        self._clear(self.knobs.config)
        self._train_button = w.Button(description="Train", button_style="primary", icon="play")
        self._stop_button = w.Button(description="Stop", icon="stop")
        self._train_button.on_click(lambda _: self.start())
        self._stop_button.on_click(lambda _: self.stop())
        for knob in self.knobs.all.values():           # locked while Train is
            w.dlink((self._train_button, "disabled"), (knob, "disabled"))
        self._bar, self._numbers, self._image = w.IntProgress(), w.Label(), w.Image()
        self._status, self._table = w.HTML(), w.HTML()
        self.box = w.VBox([
            self.knobs.box,
            w.HBox([self._train_button, self._stop_button, self._bar, self._numbers]),
            self._status, self._image, self._table, self.knobs.code_box])
        self._draw()

    def add_run(self, history: History, settings: dict, ended: str | None = None) -> None:
        """Put a run in the comparison table, and draw it; `settings` as `run_settings`."""
        config, done = history.config, len(history.step_losses)
        if ended is None:
            ended = ("finished" if done == history.steps else
                     f"stopped at step {done} of {history.steps}")
            ended += "; kept the starting model" * history.kept_start
        frozen = (f"embeddings, lowest layers: {config.frozen_layers}" if config.frozen_layers
                  else "embeddings" if config.freeze_embeddings else "nothing")
        row = {"pooling": settings["pooling"], "loss": config.loss,
               "learning rate": f"{config.learning_rate:g}", "epochs": config.epochs,
               "batch size": config.batch_size, "frozen": frozen,
               "train share": f"{config.train_share:.0%}", "ended": ended,
               "dev Spearman × 100": round(100 * history.best["dev_spearman"], 2)
               if history.evaluations else None, "seconds": round(history.seconds)}
        self.runs = pd.DataFrame([*self.runs.to_dict("records"), row])
        self.history = history
        self._table.value = plots.html_table(self.runs, index=False)
        self._draw()

    def start(self) -> None:
        """Train in the worker thread with the knobs' settings; the button Train."""
        if not TrainingPanel._idle.is_set():
            self._say("Another training is running in this kernel. Wait until it has ended, or "
                      "press Stop.", bad=True)
            return
        TrainingPanel._idle.clear()
        TrainingPanel._stopping.clear()
        self._train_button.disabled = True
        threading.Thread(target=self._work, daemon=True, args=(
            self.knobs.config, self.knobs.pooling.value)).start()

    def stop(self) -> None:
        """End the training after the current step and keep its model; the button Stop."""
        if TrainingPanel._idle.is_set():
            self._say("Nothing is being trained.")
        else:
            self._say("Stopping: the dev pairs are scored a last time …")
            TrainingPanel._stopping.set()

    def _work(self, config: TrainingConfig, pooling: str) -> None:
        settings = {**self.settings, "pooling": pooling, "config": deciding(config)}
        self._clear(config)
        try:
            self._say("Loading the model and the pairs …")
            self._draw()
            folder = runs_folder() / "panel" / f"{run_folder(settings).name}-stopped"
            ConnectionBert.check_output(folder)
            model = ConnectionBert.from_local(ROOT / settings["base_model"], pooling,
                                              settings["max_length"])
            train_set = ConnectionDataset(self.splits["train"], model.tokenizer,
                                          model.max_length)
            self._say(f"Training on {model.device}; {config.evaluations_per_epoch} × an "
                      "epoch it pauses to score the dev pairs.")
            history = train(model, train_set, self.splits["dev"], config, on_step=self._follow,
                            stop=TrainingPanel._stopping, tell=self._advise)
            self.model = model
            self.add_run(history, settings)
            done = len(history.step_losses)
            if done == history.steps:
                folder = folder.with_name(run_folder(settings).name)
            save_run(folder, model, history, settings, steps=done,
                     pairs={split: len(pairs) for split, pairs in self.splits.items()})
            self.folder = folder
            self._say(f"{self._verdict(history)} The model is panel.model, saved in "
                      f"{shown(folder)}.")
        except Exception as error:             # whatever it is, the reader gets a sentence
            ours = isinstance(error, ValueError | FloatingPointError | MemoryError)
            self._say(f"{error}" if ours and f"{error}" else f"{type(error).__name__}: {error}",
                      bad=True)
            if self.model is None:
                self.add_run(self.history, settings,
                             f"failed at step {len(self.history.step_losses)}")
        finally:
            self._train_button.disabled = False
            TrainingPanel._idle.set()

    def _follow(self, history: History) -> None:
        """Show how far the training is, after each step."""
        self.history, done = history, len(history.step_losses)
        left = round(history.seconds / done * (history.steps - done))
        self._bar.max, self._bar.value = history.steps, done
        self._numbers.value = (f"step {done} of {history.steps} · "
                               f"{history.pairs / history.seconds:.0f} pairs/s · "
                               f"{left // 60}:{left % 60:02d} left")
        if time.monotonic() - self._drawn > FIGURE_EVERY:
            self._draw()

    def _verdict(self, history: History) -> str:
        """How the run ended, its gain on dev, and what `train` noticed."""
        found = f"dev Spearman × 100 is {100 * history.best['dev_spearman']:.2f}"
        if not history.kept_start:
            gain, low, high = (100 * each for each in history.gain(self.splits["dev"]["score"]))
            found += (f", {gain:.2f} above the starting model (95 % interval {low:.2f} to "
                      f"{high:.2f})")
        return " Noticed: ".join([f"{self.runs['ended'].iloc[-1].capitalize()}: {found}.",
                                  *self._advice])

    def _clear(self, config: TrainingConfig) -> None:
        """Forget the last run; the next one has the settings `config`."""
        self.model: ConnectionBert | None = None
        self.history = History(config)
        self.folder: Path | None = None
        self._advice: list[str] = []                   # what `train` noticed

    def _draw(self) -> None:
        self._image.value = plots.png_of(self._figure())
        self._drawn = time.monotonic()

    def _figure(self) -> Figure:
        figure = Figure(figsize=(8.4, 2.6), dpi=100, layout="none")
        draw_run(figure, self.history, self.splits["dev"]["score"])
        figure.subplots_adjust(left=0.06, right=0.98, bottom=0.19, top=0.88, wspace=0.2)
        return figure

    def _advise(self, sentence: str) -> None:
        self._advice.append(sentence)
        self._say(sentence, bad=True)

    def _say(self, sentence: str, bad: bool = False) -> None:
        color = f"color: {plots.RED}" if bad else ""
        self._status.value = f'<span style="{color}">{escape(sentence)}</span>'

    def _ipython_display_(self) -> None:
        if not being_checked():
            display(self.box)
            return
        plots.show(self._figure(),
                   "Three panels of the last run: training loss over the steps, dev "
                   "Spearman, and the dev cosines for each band of the human score.")
        display(self.runs)
