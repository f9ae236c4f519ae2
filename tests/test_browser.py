"""The real thing: JupyterLab in a real browser, panels turned by mouse and keyboard.

Skipped where Chromium is not installed. Screenshots are kept in runs/check/screenshots/.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import matplotlib.image
import nbformat
import numpy as np
import pytest

from connection_utils.ground.paths import ROOT
from connection_utils.pair_files.reading import read_connections
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = ROOT / "runs" / "check" / "screenshots"
SECONDS = 1000                        # Playwright counts milliseconds
PARAMETERS = {"data": '"my_pairs.csv"', "epochs": "1"}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the repository to click around in: 03 and 04 set to 300 pairs, 1 epoch."""
    folder = tmp_path_factory.mktemp("browser") / "series"
    for name in ("connection_utils", "notebooks", ".jupyter", "benchmarks/results"):
        shutil.copytree(ROOT / name, folder / name,
                        ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    (folder / DEFAULT_MODEL).parent.mkdir(parents=True)
    (folder / DEFAULT_MODEL).symlink_to(ROOT / DEFAULT_MODEL)
    read_connections(ROOT / DEFAULT_DATA / "sts-train.csv").sample(300, random_state=3)[
        ["sentence1", "sentence2", "score"]].to_csv(folder / "my_pairs.csv", index=False)
    for path in sorted(folder.glob("notebooks/0[34]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            if "parameters" in cell.metadata.get("tags", []):
                for name, value in PARAMETERS.items():
                    cell.source = re.sub(rf"^{name} = \S+", f"{name} = {value}", cell.source,
                                         flags=re.MULTILINE)
        nbformat.write(notebook, path)
    return folder


@pytest.fixture(scope="module")
def lab(house, tmp_path_factory):
    """The address of a JupyterLab that was started as `make lab` does, on a free port."""
    own = tmp_path_factory.mktemp("jupyter")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JUPYTER_CONFIG_PATH": str(house / ".jupyter"), "PYTHONPATH": str(house),
        "JUPYTERLAB_SETTINGS_DIR": str(own), "JUPYTERLAB_WORKSPACES_DIR": str(own)}
    environment.pop("CONNECTION_CHECK", None)                # a person watches
    with open(own / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
             f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
             "--IdentityProvider.token=", f"--notebook-dir={house}"],
            cwd=house, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urlopen(f"{address}/api", timeout=5).close()
                break
            except URLError:
                assert server.poll() is None, (own / "log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, lab):
    """A page that notes what went wrong in it, and that asks nobody but the server."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000},
                                  permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.errors, page.strangers = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.strangers.append(request.url)
            if urlsplit(request.url).hostname not in (None, "127.0.0.1") else None)
    page.set_default_timeout(60 * SECONDS)
    yield page
    context.close()
    assert page.errors == []
    assert page.strangers == []


def open_and_run_all(page, lab, house, name):
    """Open a notebook, restart its kernel and run all cells by the menu; it must succeed."""
    page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?reset")
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Restart Kernel and Run All Cells")).click()
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    cells = [cell for cell in saved(house, name).cells if cell.cell_type == "code"]
    for _ in range(300):
        page.wait_for_timeout(1 * SECONDS)
        page.keyboard.press("Control+s")
        counts = [c.execution_count for c in saved(house, name).cells
                  if c.cell_type == "code"]
        if counts == list(range(1, len(cells) + 1)):
            break
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    assert counts == list(range(1, len(cells) + 1))
    outputs = [output for cell in saved(house, name).cells
               for output in cell.get("outputs", [])]
    assert [o.evalue for o in outputs if o.output_type == "error"] == []


def saved(house, name):
    for _ in range(20):
        try:
            return nbformat.read(house / "notebooks" / f"{name}.ipynb", as_version=4)
        except nbformat.reader.NotJSONError:               # it is just being written
            time.sleep(0.1)


def keep(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def press(page, handle, key, times, shows):
    """Move a slider by the keyboard, until the code below the panel shows it."""
    handle.focus()
    for _ in range(times):
        page.keyboard.press(key)
    code = page.locator(".widget-html-content pre", has_text=shows)
    code.wait_for()
    return code.inner_text()


def picture(locator):
    """The pixels as they are on the screen, (height, width, 3)."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / "part.png"
    locator.screenshot(path=path)
    pixels = matplotlib.image.imread(path)[..., :3]
    path.unlink()
    return pixels


def changed(one, other):
    """The share of pixels that differ, after cutting both to the same size."""
    height, width = np.minimum(one.shape[:2], other.shape[:2])
    return (one[:height, :width] != other[:height, :width]).any(axis=2).mean()


def step_of(text):
    return int(re.search(r"step (\d+) of", text).group(1))


def test_turning_knobs_training_and_stopping_in_notebook_03(page, lab, house):
    open_and_run_all(page, lab, house, "03_train_siamese_cosine")
    train = page.locator("button", has_text="Train")
    stop = page.locator("button", has_text="Stop")
    status = page.locator(".widget-html-content > span")
    numbers = page.locator(".widget-label", has_text="pairs/s")
    image = page.locator("img.widget-image")
    table = page.locator(".widget-html-content table")
    train.scroll_into_view_if_needed()
    keep(page, "03_panel")

    rate, epochs = page.locator(".noUi-handle").nth(0), page.locator(".noUi-handle").nth(1)
    press(page, rate, "ArrowRight", 1, shows="learning_rate=0.0001")
    code = press(page, epochs, "ArrowRight", 9, shows="epochs=10")
    page.locator("button", has_text="Copy as code").click()
    assert page.evaluate("navigator.clipboard.readText()").strip() == code.strip()
    pasted = {}
    exec("from connection_utils import TrainingConfig\n" + code, pasted)
    assert pasted["config"].epochs == 10 and pasted["config"].learning_rate == 1e-4

    before = picture(image)
    train.click()
    page.get_by_text("Training on cpu").wait_for()
    assert train.is_disabled() and page.locator(".noUi-target[disabled]").count() == 4
    page.wait_for_function("() => /step ([6-9]|\\d\\d) of 150/.test(document.body.innerText)")
    during = picture(image)
    keep(page, "03_training")
    assert re.search(r"\d+ pairs/s · \d+:\d\d left", numbers.inner_text())
    assert changed(before, during) > 0.01
    page.wait_for_function("() => /step [1-9]\\d of 150/.test(document.body.innerText)")
    for _ in range(100):                                     # drawn every three seconds
        if changed(during, picture(image)) > 0.002:          # the curves go on
            break
        page.wait_for_timeout(200)
    else:
        raise AssertionError("the figure stood still for 20 seconds")

    cell = page.locator(".jp-CodeCell", has_text="print(panel.knobs.code)")
    cell.locator(".cm-content").click()                      # the kernel answers meanwhile
    page.keyboard.press("Shift+Enter")
    cell.locator(".jp-OutputArea-output", has_text="epochs=10").wait_for()
    assert train.is_disabled()
    stop.scroll_into_view_if_needed()
    last_seen = step_of(numbers.inner_text())
    stop.click()
    page.locator(".widget-html-content > span", has_text="saved in").wait_for()
    said = status.inner_text()
    keep(page, "03_stopped")
    assert last_seen <= step_of(said) <= last_seen + 3       # one runs, one was on the way
    folder = said.split("saved in ")[1].rstrip(".")
    assert folder.endswith("-stopped") and (house / folder / "model.safetensors").is_file()
    assert table.locator("tbody tr").count() == 2
    assert "stopped at step" in table.inner_text() and train.is_enabled()

    press(page, epochs, "ArrowLeft", 8, shows="epochs=2,")
    press(page, rate, "End", 1, shows="learning_rate=0.01")
    train.click()                                            # 1e-2: it must diverge or not
    page.locator(".widget-html-content > span",
                 has_text=re.compile("collapsed|Finished.*saved in")).wait_for()
    keep(page, "03_odd_setting")
    assert "Traceback" not in status.inner_text() and table.locator("tbody tr").count() == 3


def test_moving_the_threshold_and_scoring_two_texts_in_notebook_04(page, lab, house):
    if not (house / "runs").exists():                        # the test above was left out
        open_and_run_all(page, lab, house, "03_train_siamese_cosine")
    open_and_run_all(page, lab, house, "04_similarity_distributions")
    image, table = page.locator("img.widget-image"), page.locator(".widget-html-content table")
    handle = page.locator(".noUi-handle")
    handle.scroll_into_view_if_needed()
    before, counts = picture(image), table.inner_text()
    handle.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("before => document.querySelector('.widget-html-content table')"
                           ".innerText != before", arg=counts)
    page.wait_for_timeout(1 * SECONDS)
    assert changed(before, picture(image)) > 0.005
    assert sum(map(int, re.findall(r"\d+", table.inner_text()))) == 30     # each dev pair once

    answers = []
    for other in ("Someone plays an instrument.", "The stock market fell."):
        for field, text in zip(page.locator(".widget-text input[type=text]").all()[-2:],
                               ("A man is playing a flute.", other)):
            field.fill(text)
            field.press("Enter")
        answer = page.locator(".widget-html-content", has_text=re.compile("^cosine")).last
        page.wait_for_timeout(1 * SECONDS)
        answers.append(float(answer.inner_text().split()[1].rstrip(":")))
        keep(page, "04_panel")
    assert answers[0] > answers[1] + 0.3
