"""The pitch explorer in JupyterLab, with a mouse and a (synthetic) voice at the microphone"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mirkit.core.synth import render_track

ROOT = Path(__file__).resolve().parents[1]
NAME = "explore_pitch.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    "The notebook with two small models: how well they hear does not matter here"
    torch = pytest.importorskip("torch")
    from mirkit.pitch.config import PestoConfig
    from mirkit.pitch.model import PestoModel, save_model

    path = tmp_path_factory.mktemp("lab")
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        net = PestoModel(PestoConfig(gamma=7.0, span=73, channels=(8, 8, 3))).eval()
        save_model(net, path / f"{name}.safetensors", threshold=0.3)
    notebook = json.loads((ROOT / "nbs" / NAME).read_text(encoding="utf-8"))
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    values = {"model": str(path / "first.safetensors"), "model_b": "", "steps": 2}
    cell["source"] = "".join(cell["source"]) + "\n" + "\n".join(f"{k} = {v!r}" for k, v in values.items())
    (path / NAME).write_text(json.dumps(notebook), encoding="utf-8")
    voice = np.tile(render_track(1, 4.0, 48_000)[0], 5)
    soundfile.write(path / "voice.wav", voice, 48_000, subtype="PCM_16")  # of 24 bits Chromium's microphone makes zeros
    (path / "notes.wav").write_text("C D E F G")
    return path


@pytest.fixture(scope="module")
def lab(folder):
    "A JupyterLab of its own, with its own settings"
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed (pip install jupyterlab)")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    settings = {f"JUPYTER_{x}_DIR": str(folder / x.lower()) for x in ("CONFIG", "DATA", "RUNTIME")}
    environment = {**os.environ, **settings, "IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT)}
    options = f"--no-browser --ip=127.0.0.1 --port={port} --ServerApp.root_dir={folder} --IdentityProvider.token="
    options += " --LabApp.expose_app_in_browser=True --ServerApp.allow_root=True --LabApp.news_url= --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
    command = [sys.executable, "-m", "jupyterlab", *options.split(" ")]
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


@pytest.fixture(scope="module")
def explorer(lab, folder):
    "A page where the notebook has been run"
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no chromium (apt-get install chromium, or name it in CHROMIUM)")
    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
    flags += " --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
    flags += f" --use-file-for-fake-audio-capture={folder / 'voice.wav'}"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags.split())
        page = browser.new_context(viewport={"width": 1400, "height": 1250}).new_page()
        page.set_default_timeout(45_000)
        page.trouble = []
        page.on(
            "request",
            lambda r: (
                None
                if r.url.startswith((lab, "data:", "blob:", lab.replace("http", "ws")))
                else page.trouble.append(r.url)
            ),
        )
        page.on("pageerror", lambda error: page.trouble.append(str(error)))
        page.goto(f"{lab}/lab/tree/{NAME}")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        kernel = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
        page.wait_for_function(kernel)
        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_selector(".mirkit-stage .js-plotly-plot .main-svg")
        page.wait_for_function("document.querySelector('.mirkit-stage audio')?.readyState >= 1")
        yield page
        browser.close()


GRAPH = "document.querySelector('.mirkit-stage .js-plotly-plot')"


def voiced(page) -> int:
    "Points of the line of model A"
    return page.evaluate(
        f"Array.from({GRAPH}._fullData.find(t => t.name?.startsWith('A:') || t.name?.startsWith('before')).y).filter(Number.isFinite).length"
    )


def menu(page, label: str):
    return page.locator(".mirkit-stage .widget-dropdown", has=page.locator(f"label:text-is('{label}')")).locator(
        "select"
    )


def slide(page, label: str, presses: int, key: str = "ArrowRight") -> None:
    box = page.locator(".mirkit-stage .widget-slider", has=page.locator(f"label:text-is('{label}')"))
    handle = box.locator(".noUi-handle")
    handle.focus()
    for _ in range(presses):
        handle.press(key)


def picture(page, name: str) -> None:
    "Kept when MIRKIT_SCREENSHOTS names a folder"
    if place := os.environ.get("MIRKIT_SCREENSHOTS"):
        page.locator(".mirkit-stage").first.screenshot(path=Path(place) / f"{name}.png")


def test_threshold_changes_the_figure(explorer):
    before = voiced(explorer)
    assert before > 50
    picture(explorer, "1-start")
    slide(explorer, "voiced from confidence", 8, "PageUp")
    explorer.wait_for_function(f"{GRAPH}._fullData.find(t => t.name == 'threshold').y[0] > 0.31")
    deadline = time.monotonic() + 20
    while voiced(explorer) >= before and time.monotonic() < deadline:
        explorer.wait_for_timeout(200)
    assert voiced(explorer) < before
    slide(explorer, "voiced from confidence", 1, "Home")
    explorer.wait_for_function(f"{GRAPH}._fullData.find(t => t.name == 'threshold').y[0] == 0")


def test_figure_and_sound_belong_together(explorer):
    "The line follows the sound, a click seeks, and the pitch can be heard instead"
    explorer.evaluate("document.querySelector('.mirkit-stage audio').currentTime = 2")
    explorer.wait_for_function("Math.abs(document.querySelector('.mirkit-cursor')?.dataset.time - 2) < 0.01")
    where = explorer.evaluate(
        f"""() => {{ const g = {GRAPH}, x = g._fullLayout.xaxis, line = document.querySelector('.mirkit-cursor').getBoundingClientRect();
        return x.p2c(line.left + line.width / 2 - g.getBoundingClientRect().left - x._offset); }}"""
    )
    assert abs(where - 2) < 0.03
    area = explorer.locator(".mirkit-stage .js-plotly-plot .nsewdrag").first.bounding_box()
    explorer.mouse.move(area["x"] + area["width"] * 0.6, area["y"] + area["height"] / 2)
    explorer.wait_for_timeout(200)  # plotly looks for what is under the mouse at most every 50 ms
    explorer.mouse.click(area["x"] + area["width"] * 0.6, area["y"] + area["height"] / 2)
    explorer.wait_for_function("document.querySelector('.mirkit-stage audio').currentTime > 2.5")
    clicked = explorer.evaluate(f"(() => {{ const x = {GRAPH}._fullLayout.xaxis; return x.p2c(0.6 * x._length) }})()")
    at = f"Math.abs(document.querySelector('.mirkit-stage audio').currentTime - {clicked}) < 0.1"
    explorer.wait_for_function(at)
    source = explorer.evaluate("document.querySelector('.mirkit-stage audio').src")
    explorer.get_by_role("button", name="both").click()
    explorer.wait_for_function(f"document.querySelector('.mirkit-stage audio').src != {source!r}")
    explorer.wait_for_function(at)  # it goes on from there


def test_second_model(explorer, folder):
    "A path adds a model and compares it; a file that is none is a sentence"
    field = explorer.get_by_placeholder("path of another model file")
    field.fill(str(folder / "notes.wav"))
    field.press("Enter")
    explorer.locator(".mirkit-stage [role=alert]", has_text="notes.wav").wait_for()
    field.fill(str(folder / "second.safetensors"))
    field.press("Enter")
    explorer.locator(".mirkit-stage", has_text="of the frames differ by more than 50 cents").first.wait_for()
    explorer.wait_for_function(f"{GRAPH}._fullData.find(t => t.name == 'B − A')?.visible === true")
    assert menu(explorer, "B").evaluate("e => e.selectedOptions[0].text") == "second"
    picture(explorer, "2-two")
    menu(explorer, "B").select_option("none")
    explorer.wait_for_function(f"{GRAPH}._fullData.find(t => t.name == 'B − A')?.visible !== true")


def test_fine_tuning(explorer):
    "Before and after are shown; it can be cancelled; sliders move meanwhile"
    steps = explorer.locator(".mirkit-stage .widget-text", has=explorer.locator("label:text-is('steps')")).locator(
        "input"
    )
    go = explorer.get_by_role("button", name="Fine-tune A on this sound")
    steps.fill("5000")
    steps.press("Enter")
    go.click()
    explorer.locator(".mirkit-stage [role=status]", has_text=re.compile(r"step \d+ of 5000")).wait_for()
    slide(explorer, "voiced from confidence", 1, "PageUp")
    explorer.wait_for_function(f"{GRAPH}._fullData.find(t => t.name == 'threshold').y[0] > 0")
    explorer.get_by_role("button", name="Cancel").click()
    explorer.locator(".mirkit-stage [role=status]", has_text="cancelled").wait_for()
    steps.fill("2")
    steps.press("Enter")
    go.click()
    explorer.locator(".mirkit-stage [role=status]", has_text="after 2 steps").wait_for()
    explorer.wait_for_function(f"{GRAPH}._fullData.some(t => t.name == 'B: after fine-tuning' && t.visible === true)")
    picture(explorer, "3-tuned")


def test_upload_and_path(explorer, folder):
    explorer.locator(".mirkit-stage input[type=file]").set_input_files(folder / "notes.wav")
    explorer.locator(".mirkit-stage [role=alert]", has_text="notes.wav").wait_for()
    explorer.locator(".mirkit-stage input[type=file]").set_input_files(folder / "voice.wav")
    explorer.wait_for_function(f"{GRAPH}._fullData.find(t => t.name == 'threshold').x[1] > 19")


def test_microphone(explorer):
    "The fake microphone plays a voice: it arrives, and is tracked"
    button = explorer.locator(".mirkit-inlet .record")
    button.click()
    explorer.locator(".mirkit-inlet .record", has_text=re.compile(r"Stop 2\.\d s")).wait_for()
    picture(explorer, "4-recording")
    button.click()
    explorer.locator(".mirkit-stage option", has_text="the recording").wait_for(state="attached")
    explorer.wait_for_function(f"{GRAPH}._fullData.find(t => t.name == 'threshold').x[1] < 4")
    seconds = explorer.evaluate(f"{GRAPH}._fullData.find(t => t.name == 'threshold').x[1]")
    assert 1.5 < seconds < 4 and voiced(explorer) > 20
    picture(explorer, "5-recorded")


def test_page_asked_for_nothing_from_outside_and_raised_nothing(explorer):
    assert not explorer.trouble
    assert not explorer.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count()
