"""A notebook in JupyterLab, in a headless Chromium: for tests of what is there to look at and to press"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
GRAPH = "document.querySelector('.mirkit-stage .js-plotly-plot')"
AUDIO = "document.querySelector('.mirkit-stage audio')"

# anywidget gives up on a widget whose code is not there after two seconds; plotly's has 5 MB, and tests share a processor.
PATIENCE = (
    "const brief = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = (ms) => brief(Math.max(ms, 120000));"
)


def copy_notebook(name: str, folder: Path, values: Mapping[str, Any]) -> None:
    "The notebook nbs/`name` in a folder, with other parameters"
    notebook = json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    cell["source"] = "".join(cell["source"]) + "\n" + "\n".join(f"{k} = {v!r}" for k, v in values.items())
    (folder / name).write_text(json.dumps(notebook), encoding="utf-8")


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    "A JupyterLab of its own for a folder, with its own settings; its address"
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed (pip install jupyterlab)")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    settings = {f"JUPYTER_{x}_DIR": str(folder / x.lower()) for x in ("CONFIG", "DATA", "RUNTIME")}
    environment = {**os.environ, **settings, "IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT)}
    options = f"--no-browser --ip=127.0.0.1 --port={port} --ServerApp.root_dir={folder} --IdentityProvider.token="
    options += " --LabApp.expose_app_in_browser=True --ServerApp.allow_root=True --LabApp.news_url= --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
    command = [sys.executable, "-m", "jupyterlab", *options.split(" ")]
    page_config = folder / "config" / "labconfig" / "page_config.json"  # no question about news over the buttons
    page_config.parent.mkdir(parents=True)
    page_config.write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (folder / "lab.log").read_text()[-2000:]
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def notebook_page(lab: str, name: str, flags: str = "", size: tuple[int, int] = (1400, 1250)) -> Iterator[Any]:
    "A page where the notebook has been run, its figure drawn, its player filled; `trouble` is what it should not have done"
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no chromium (apt-get install chromium, or name it in CHROMIUM)")
    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
    own = (lab, "data:", "blob:", lab.replace("http", "ws"))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=f"{quiet} {flags}".split())
        page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
        page.set_default_timeout(1000 * float(os.environ.get("MIRKIT_PATIENCE", 45)))
        page.add_init_script(PATIENCE)
        page.trouble = []
        page.on("request", lambda r: None if r.url.startswith(own) else page.trouble.append(r.url))
        page.on("pageerror", lambda error: page.trouble.append(str(error)))
        page.goto(f"{lab}/lab/tree/{name}")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        kernel = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
        page.wait_for_function(kernel)
        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_selector(".mirkit-stage .js-plotly-plot .main-svg")
        page.wait_for_function(f"{GRAPH}._fullData?.length > 1")
        page.wait_for_function(f"{AUDIO}?.readyState >= 1")
        yield page
        browser.close()


def menu(page: Any, label: str) -> Any:
    return page.locator(".mirkit-stage .widget-dropdown", has=page.locator(f"label:text-is('{label}')")).locator(
        "select"
    )


def slide(page: Any, label: str, presses: int, key: str = "ArrowRight") -> None:
    box = page.locator(".mirkit-stage .widget-slider", has=page.locator(f"label:text-is('{label}')"))
    handle = box.locator(".noUi-handle")
    handle.focus()
    for _ in range(presses):
        handle.press(key)


def picture(page: Any, name: str) -> None:
    "Kept when MIRKIT_SCREENSHOTS names a folder"
    if place := os.environ.get("MIRKIT_SCREENSHOTS"):
        page.wait_for_timeout(500)
        page.locator(".mirkit-stage").first.screenshot(path=Path(place) / f"{name}.png")
