"""The pitch explorer in JupyterLab, with a mouse and a (synthetic) voice at the microphone"""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from notebook_page import GRAPH, copy_notebook, jupyter_lab, menu, notebook_page, picture, slide

from mirkit.core.synth import render_track

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
    copy_notebook(NAME, path, {"model": str(path / "first.safetensors"), "model_b": "", "steps": 2})
    voice = np.tile(render_track(1, 4.0, 48_000)[0], 5)
    soundfile.write(path / "voice.wav", voice, 48_000, subtype="PCM_16")  # of 24 bits Chromium's microphone makes zeros
    (path / "notes.wav").write_text("C D E F G")
    return path


@pytest.fixture(scope="module")
def explorer(folder):
    "A page where the notebook has been run"
    microphone = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
    microphone += f" --use-file-for-fake-audio-capture={folder / 'voice.wav'}"
    with jupyter_lab(folder) as lab, notebook_page(lab, NAME, microphone) as page:
        yield page


def voiced(page) -> int:
    "Points of the line of model A"
    return page.evaluate(
        f"Array.from({GRAPH}._fullData.find(t => t.name?.startsWith('A:') || t.name?.startsWith('before')).y).filter(Number.isFinite).length"
    )


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
