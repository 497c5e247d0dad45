"""The key explorer in JupyterLab: known music gets its key, transposed music the transposed one, corrections are saved"""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from notebook_page import AUDIO, GRAPH, copy_notebook, jupyter_lab, menu, notebook_page, picture, slide

from mirkit.key.explore import read_annotation
from mirkit.key.progressions import render_progression

NAME = "explore_key.ipynb"
EXAMPLE = "C major: I-V-vi-IV"
SR = 22050


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    "The notebook, a second model that has learned nothing, and sounds good and bad"
    from mirkit.key.tonal import TonalConfig, random_weights, save_tonal

    path = tmp_path_factory.mktemp("lab")
    save_tonal(path / "untrained.safetensors", random_weights(TonalConfig(), 1), TonalConfig())
    copy_notebook(NAME, path, {"longest": 100})
    (path / "notes.wav").write_text("C D E F G")
    soundfile.write(path / "silent.wav", np.zeros(SR), SR)
    soundfile.write(path / "click.wav", 0.5 * np.sin(np.arange(SR // 4)), SR)
    minor = render_progression(21, "i-iv-V-i", 3, SR, 20.0, 0.0)  # A minor
    soundfile.write(path / "telephone.wav", np.stack([minor, 0.5 * minor], axis=1)[::2], SR // 2)
    soundfile.write(path / "long.flac", np.tile(minor[::2], 180), SR // 2)  # an hour
    return path


@pytest.fixture(scope="module")
def explorer(folder):
    with jupyter_lab(folder) as lab, notebook_page(lab, NAME, size=(1500, 1400)) as page:
        yield page


def choose(page, sound: str) -> None:
    page.locator(".mirkit-stage select", has=page.locator(f"option:text-is('{EXAMPLE}')")).select_option(sound)


def shown(page) -> str:
    "The key of model A, as the page says it"
    return page.locator(".mirkit-stage b.key").first.inner_text()


def wait_for_key(page, key: str) -> None:
    page.wait_for_function(f"document.querySelector('.mirkit-stage b.key')?.textContent === {key!r}")


def facts(page) -> str:
    return page.locator(".mirkit-stage", has=page.locator("b.key")).first.inner_text()


def seek(page, seconds: float) -> dict:
    "Go there; what the circle says then"
    page.evaluate(f"{AUDIO}.currentTime = {seconds}")
    page.wait_for_function(f"Math.abs(document.querySelector('.mirkit-circle').dataset.time - {seconds}) < 0.05")
    return page.evaluate("({ ...document.querySelector('.mirkit-circle').dataset })")


def test_music_that_travels(explorer):
    "The first example goes through three keys: the disc follows the sound, and so does the line over the figure"
    places = [seek(explorer, t) for t in (5, 30, 56)]
    assert [p["best"] for p in places] == ["C major", "A minor", "E major"]
    where = np.array([[float(p["x"]), float(p["y"])] for p in places])
    assert np.hypot(*(where[0] - (0, -84))) < 25 and np.hypot(*where[0]) > np.hypot(*where[1])  # minor keys lie inside
    assert np.hypot(*(where[2] - 84.5 * np.array([np.sin(np.pi * 4 / 6), -np.cos(np.pi * 4 / 6)]))) < 30
    assert abs(float(explorer.evaluate("document.querySelector('.mirkit-cursor').dataset.time")) - 56) < 0.1
    picture(explorer, "1-travelling")


def test_known_progression(explorer):
    choose(explorer, EXAMPLE)
    wait_for_key(explorer, "C major")
    text = facts(explorer)
    assert (
        "Camelot 8B, Open Key 1d" in text
        and "no sharps or flats" in text
        and "right (the reference is C major)" in text
    )
    rows = explorer.evaluate(f"{GRAPH}._fullLayout.yaxis3.ticktext")
    assert rows[:4] == ["C major", "A minor", "G major", "E minor"]  # by fifths, relatives side by side


def test_transposition(explorer):
    "Two semitones up: the answer, the picture and the sound move; the answer counted back stays"
    slide(explorer, "transpose by", 2)
    wait_for_key(explorer, "D major")
    text = facts(explorer)
    assert "2 semitones back: C major, the same as before" in text and "right (the reference is D major)" in text
    explorer.wait_for_function(f"{GRAPH}._fullData[0].y[0] === 23")
    explorer.wait_for_function(f"Math.abs({AUDIO}.playbackRate - {2 ** (2 / 12)}) < 1e-4")
    assert explorer.evaluate(f"{AUDIO}.preservesPitch") is False
    picture(explorer, "2-transposed")
    slide(explorer, "transpose by", 2, "ArrowLeft")
    wait_for_key(explorer, "C major")
    explorer.wait_for_function(f"{AUDIO}.playbackRate === 1")


def save(explorer, file):
    "Click until the file is there: the page still moves while the figure is drawn anew, and a click can miss"
    for _ in range(4):
        explorer.get_by_role("button", name="Save", exact=True).click()
        for _ in range(40):
            if file.exists():
                return
            explorer.wait_for_timeout(250)
    raise AssertionError(f"{file} was not saved: {explorer.locator('.mirkit-stage [role=alert]').all_inner_texts()}")


def test_correct_a_stretch_and_save_it(explorer, folder):
    "A click chooses the stretch, a menu its key; what is saved can be read back and is not written over"
    choose(explorer, "C major, A minor, E major")
    explorer.wait_for_function(f"{AUDIO}.duration > 59")
    explorer.get_by_role("button", name="stretch", exact=True).click()
    area = explorer.locator(".mirkit-stage .js-plotly-plot .nsewdrag").first.bounding_box()
    x, y = area["x"] + area["width"] * 30 / 60, area["y"] + area["height"] / 2
    explorer.mouse.move(x, y)
    explorer.wait_for_timeout(200)  # plotly looks for what is under the mouse at most every 50 ms
    explorer.mouse.click(x, y)
    explorer.wait_for_function(f"Math.abs({AUDIO}.currentTime - 30) < 0.3")
    explorer.wait_for_function(f"Math.abs({GRAPH}._fullLayout.shapes?.[0]?.x0 - 20) < 0.1")  # the stretch that is there
    menu(explorer, "Reference").select_option("F# minor")
    explorer.get_by_role("button", name="Set", exact=True).click()
    row = explorer.evaluate(f"{GRAPH}._fullLayout.yaxis3.ticktext.indexOf('F# minor')")
    explorer.wait_for_function(f"{GRAPH}._fullData[3].y.includes({row + 0.5})")  # a frame around its row
    picture(explorer, "3-corrected")
    field = explorer.get_by_placeholder("path of a .csv or .jams file")
    done = explorer.locator(".mirkit-stage [role=status]", has_text="saved")
    for name in ("mine.csv", "mine.jams"):
        field.fill(name)
        field.press("Enter")
        save(explorer, folder / name)
        done.filter(has_text=name).wait_for()
        spans = read_annotation(folder / name, 60.0)
        assert [(s.key, round(s.start), round(s.end)) for s in spans] == [(0, 0, 20), (18, 20, 40), (4, 40, 60)]
    before = (folder / "mine.jams").read_bytes()
    explorer.get_by_role("button", name="Save", exact=True).click()
    explorer.locator(".mirkit-stage [role=alert]", has_text="was not touched").wait_for()
    assert (folder / "mine.jams").read_bytes() == before
    explorer.get_by_role("button", name="whole recording").click()


def test_second_model(explorer, folder):
    "A path adds a model and shows it below; a file that is none is a sentence"
    field = explorer.get_by_placeholder("path of another model file")
    field.fill(str(folder / "notes.wav"))
    field.press("Enter")
    explorer.locator(".mirkit-stage [role=alert]", has_text="notes.wav").wait_for()
    field.fill(str(folder / "untrained.safetensors"))
    field.press("Enter")
    explorer.wait_for_function(f"{GRAPH}._fullData[5].visible === true")
    assert menu(explorer, "B").evaluate("e => e.selectedOptions[0].text") == "untrained"
    assert explorer.locator(".mirkit-stage b.key").count() == 2
    picture(explorer, "4-two")
    menu(explorer, "B").select_option("none")
    explorer.wait_for_function(f"{GRAPH}._fullData[5].visible !== true")


def test_bad_sounds_are_sentences(explorer, folder):
    upload = explorer.locator(".mirkit-stage input[type=file]")
    for name, words in (("notes.wav", "notes.wav"), ("silent.wav", "is silent")):
        upload.set_input_files(folder / name)
        explorer.locator(".mirkit-stage [role=alert]", has_text=words).wait_for()
    upload.set_input_files(folder / "click.wav")
    wait_for_key(explorer, "no key")
    assert "give half a second" in facts(explorer)
    upload.set_input_files(folder / "telephone.wav")  # stereo, 11 kHz
    wait_for_key(explorer, "A minor")
    choose(explorer, "pink noise")
    explorer.wait_for_function("document.querySelector('.mirkit-stage').textContent.includes('sounds like notes')")
    picture(explorer, "5-noise")
    field = explorer.get_by_placeholder("path of a sound file")
    field.fill(str(folder / "long.flac"))
    field.press("Enter")
    said = explorer.locator(".mirkit-stage [role=alert]", has_text=re.compile("only the first 100 s of 3600 s"))
    said.wait_for()
    wait_for_key(explorer, "A minor")
    explorer.wait_for_function(f"{GRAPH}._fullLayout.xaxis.range[1] === 100")
    picture(explorer, "6-long")
    explorer.get_by_role("button", name="Set", exact=True).click()  # F# minor is still chosen
    (folder / "two.csv").write_text("audio,key\nclick.wav,G major\nlong.flac,C major\n")
    field = explorer.get_by_placeholder("path of a .csv or .jams file")
    field.fill("two.csv")
    field.press("Enter")
    explorer.get_by_label("replace").check()
    explorer.get_by_role("button", name="Save", exact=True).click()
    explorer.locator(".mirkit-stage [role=status]", has_text="saved").filter(has_text="two.csv").wait_for()
    kept = (folder / "two.csv").read_text().splitlines()[1:]  # the other row, and what was heard of the hour
    assert kept == ["click.wav,G major,,", "long.flac,F# minor,0.000,100.000"]


def test_page_asked_for_nothing_from_outside_and_raised_nothing(explorer):
    assert not explorer.trouble
    assert not explorer.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count()
