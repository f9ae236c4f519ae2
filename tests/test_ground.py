"""Where things lie, what a reader sees, and what a check switches off."""

import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cases import slow

from connection_utils.ground.paths import ROOT, being_checked, runs_folder, shown
from connection_utils.ground.progress_bar import progress
from connection_utils.workshop.notebooks import NOTEBOOKS, parameters_of


@pytest.mark.parametrize("thorough", ["quick", "full"])
def test_a_check_never_writes_where_a_readers_model_lies(monkeypatch, thorough):
    monkeypatch.setenv("CONNECTION_CHECK", thorough)
    assert being_checked() and runs_folder() == ROOT / "runs/check"
    monkeypatch.delenv("CONNECTION_CHECK")
    assert not being_checked() and runs_folder() == ROOT / "runs"


def test_paths_are_shown_from_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert shown(ROOT / "data" / "stsb") == shown("data/stsb") == "data/stsb"
    assert shown(tmp_path) == str(tmp_path)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_are_for_people_and_silent_in_a_check(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress(range(3))) == [0, 1, 2]
    assert sys.stderr.getvalue() == ""
    monkeypatch.delenv("CONNECTION_CHECK")
    assert list(progress(range(3))) == [0, 1, 2]
    assert "3/3" in sys.stderr.getvalue()


def test_bars_are_silent_in_another_thread_even_where_a_person_watches(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.delenv("CONNECTION_CHECK")
    seen = []

    def work():
        bar = progress(range(3))
        seen.extend(bar)
        bar.set_postfix(done="yes")

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(60)
    assert seen == [0, 1, 2] and sys.stderr.getvalue() == ""
    assert list(progress(range(4))) == [0, 1, 2, 3]            # and here it still shows
    assert "4/4" in sys.stderr.getvalue()


def test_every_notebook_takes_model_and_data_by_name():
    parameters = {path.stem[:2]: parameters_of(path) for path in NOTEBOOKS.glob("0*.ipynb")}
    assert parameters["01"] == {"model_dir": "transformers/bert/all-MiniLM-L6-v2"}
    assert parameters["03"]["epochs"] == 1 and parameters["03"]["learning_rate"] == 5e-5
    shared = {name: value for name, value in parameters["04"].items()
              if name in parameters["03"]}
    assert shared == parameters["03"]                # 04 looks for the model of 03


def test_one_process_of_several_shows_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.delenv("CONNECTION_CHECK")
    monkeypatch.setenv("RANK", "1")                # left over from another program
    assert list(progress(range(2))) == [0, 1] and "2/2" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")          # as torchrun sets it
    assert list(progress(range(3))) == [0, 1, 2] and sys.stderr.getvalue() == ""
    monkeypatch.setenv("RANK", "0")
    assert list(progress(range(4))) == [0, 1, 2, 3]
    assert "4/4" in sys.stderr.getvalue()


@pytest.mark.parametrize("folder", [slow(ROOT), ROOT / "notebooks", slow(Path("/"))])
def test_prepare_notebook_leads_to_the_root_from_anywhere(folder):
    code = ("from connection_utils import prepare_notebook; prepare_notebook(); import os, "
            "transformers; print(os.getcwd(), hasattr(transformers, 'BertModel'))")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True,
                          text=True)
    assert done.stdout == f"{ROOT} True\n"
    assert done.stderr == ""


def test_the_hub_is_switched_off_before_transformers_is_imported():
    code = ("import connection_utils, huggingface_hub.constants as c; "
            "print(c.HF_HUB_OFFLINE)")
    done = subprocess.run([sys.executable, "-c", code], env={"HF_HUB_OFFLINE": "0"},
                          capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
