"""The explorer of controls in JupyterLab: curves and bars that are drawn with the mouse, and what is heard then"""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from notebook_page import AUDIO, GRAPH, copy_notebook, jupyter_lab, menu, notebook_page, picture, slide

from mirkit.ddsp.controls import Controls

NAME = "explore_ddsp.ipynb"

# The kernel of the test reads this before anything else: networks that have learnt nothing, always the same.
NETS = """
import torch
from mirkit.ddsp.decoder import DDSPDecoder, DecoderConfig, Instrument
from mirkit.ddsp.inverse import InverseSynth

def inverse(cls, name_or_path="", **options):
    from mirkit.ddsp.nets import InverseConfig, InverseNet, save_inverse
    torch.manual_seed(0)
    return load(cls, save_inverse("random-inverse.safetensors", InverseNet(InverseConfig.preset("ci")), {}))

load, InverseSynth.from_pretrained = InverseSynth.from_pretrained.__func__, classmethod(inverse)

def decoder(cls, name_or_path="", **options):
    from mirkit.core.synth import render_track
    from mirkit.core.results import PitchTrack
    from mirkit.ddsp.features import extract, statistics_of
    torch.manual_seed(0)
    audio, times, hz = render_track(1, 2.0)
    heard = extract(audio, 16_000, lambda x, sr: PitchTrack(times, hz, (hz > 0).astype(float)))
    return cls(Instrument(DecoderConfig.preset("tiny")), statistics_of([heard], [heard.f0 > 0]), {"name": "random"})

DDSPDecoder.from_pretrained = classmethod(decoder)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    "The notebook, its networks, and sounds good and bad"
    path = tmp_path_factory.mktemp("lab")
    copy_notebook(NAME, path, {"inverse": "random-inverse", "instrument": "random-violin"})
    startup = path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-nets.py").write_text(NETS)
    t = np.arange(3 * 22_050) / 22_050
    glide = 0.3 * sum(np.sin(2 * np.pi * k * (220 * t + 20 * t**2)) / k for k in range(1, 8))
    soundfile.write(path / "glide.wav", glide, 22_050)
    soundfile.write(path / "silent.wav", np.zeros(16_000), 16_000)
    (path / "notes.wav").write_text("C D E F G")
    return path


@pytest.fixture(scope="module")
def explorer(folder):
    flags = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
    with jupyter_lab(folder) as lab, notebook_page(lab, NAME, flags, (1400, 2100)) as page:
        yield page


CURVE = ".mirkit-stage .mirkit-curve canvas"
LEFT, TOP, BOTTOM = 44, 6, 18  # pixels around the curve


def choose(page, sound: str) -> None:
    options = page.locator("option:text-is('a steady tone')")
    before = page.evaluate(f"{AUDIO}.src")
    page.locator(".mirkit-stage select", has=options).select_option(sound)
    page.wait_for_function(f"{AUDIO}.src !== {before!r}")


def facts(page) -> str:
    return page.locator(".mirkit-stage .mirkit-facts").inner_text()


def wait_for_edits(page, words: str) -> None:
    "Until the sentence below the player says what was edited"
    script = f"document.querySelector('.mirkit-stage .mirkit-facts')?.innerText.includes({words!r})"
    page.wait_for_function(script, timeout=90_000)


def drag(page, selector: str, points: list[tuple[float, float]], *, shift: bool = False) -> None:
    "Press the mouse, go along points (shares of the area's width and height), let go"
    canvas = page.locator(selector)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    wide, tall = box["width"] - LEFT - 8, box["height"] - TOP - BOTTOM
    places = [(box["x"] + LEFT + x * wide, box["y"] + TOP + y * tall) for x, y in points]
    page.mouse.move(*places[0])
    if shift:
        page.keyboard.down("Shift")
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()
    if shift:
        page.keyboard.up("Shift")


def tool(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_timeout(300)


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def line(page, number: int) -> np.ndarray:
    "The f0 in the figure, MIDI: as found (1) or as edited (5); NaN where there is none"
    values = page.evaluate(f"Array.from({GRAPH}._fullData[{number}].y, (v) => Number.isFinite(v) ? v : null)")
    return np.array([np.nan if v is None else v for v in values], float)


def saved(page, folder: Path, name: str) -> Path:
    "What is edited, as a file"
    field = page.get_by_placeholder(".wav, .npz or .csv")
    field.fill(name)
    field.press("Enter")
    for _ in range(4):
        press(page, "Save")
        for _ in range(40):
            if (folder / name).exists():
                return folder / name
            page.wait_for_timeout(250)
    raise AssertionError(f"{name} was not saved: {page.locator('.mirkit-stage [role=alert]').all_inner_texts()}")


def test_the_phrase_is_there(explorer):
    "Without a recording: figure, curve and sound of the synthesiser"
    wait_for_edits(explorer, "edits: nothing")
    assert "a phrase" in facts(explorer) and explorer.evaluate(f"{GRAPH}._fullData.length") == 8
    assert np.isfinite(line(explorer, 1)).mean() > 0.9
    assert int(explorer.locator(CURVE).get_attribute("data-voiced")) > 900
    assert abs(explorer.evaluate(f"{AUDIO}.duration") - 5.2) < 0.1
    picture(explorer, "ddsp-1-phrase")


def test_draw_a_curve(explorer, folder):
    "The mouse draws f0 from one share of the page to another, and that is what sounds"
    before = line(explorer, 1)
    drag(explorer, CURVE, [(0.2, 0.3), (0.5, 0.3), (0.6, 0.6)])
    wait_for_edits(explorer, "edits: a drawn f0")
    c = Controls.from_npz(saved(explorer, folder, "drawn.npz"))
    n = len(c)
    level = c.pitch[round(0.22 * n) : round(0.48 * n)]
    assert np.ptp(level) < 0.02 and abs(np.median(level) - np.nanmedian(before)) > 1  # drawn, and not what was there
    assert np.all(np.diff(c.pitch[round(0.52 * n) : round(0.58 * n)]) <= 1e-6)  # then down
    same = slice(round(0.65 * n), round(0.95 * n))
    assert np.nanmax(np.abs(c.pitch[same] - before[same])) < 1e-3
    heard, sr = soundfile.read(saved(explorer, folder, "drawn.wav"))
    part = heard[round(0.3 * len(heard)) : round(0.3 * len(heard)) + 8000] * np.hanning(8000)
    spectrum = np.abs(np.fft.rfft(part, 32_000))
    hz = np.argmax(spectrum) * sr / 32_000
    expected = 440 * 2 ** ((np.median(level) - 69) / 12)
    assert min(abs(hz / expected / k - 1) for k in (1, 2, 3)) < 0.01
    picture(explorer, "ddsp-2-drawn")


def test_undo_and_reset(explorer):
    press(explorer, "Undo")
    wait_for_edits(explorer, "edits: nothing")
    assert np.allclose(line(explorer, 5), line(explorer, 1), atol=1e-4, equal_nan=True)
    explorer.get_by_label("no noise").check()
    wait_for_edits(explorer, "mute True")
    press(explorer, "Reset")
    wait_for_edits(explorer, "edits: nothing")
    assert not explorer.get_by_label("no noise").is_checked()


def test_move_a_note_by_semitones(explorer):
    "Shift and the mouse move the note below by whole semitones, and no other one"
    tool(explorer, "move")
    before = line(explorer, 1)
    voiced = np.flatnonzero(np.isfinite(before))
    at = voiced[len(voiced) // 20]  # in the first note, which is low
    low, high = (explorer.evaluate(f"{GRAPH}._fullLayout.yaxis6.range[{i}]") for i in (0, 1))
    assert low < before[at] < high
    drag(explorer, CURVE, [(at / len(before), 0.6), (at / len(before), 0.4)], shift=True)
    wait_for_edits(explorer, "a drawn f0")
    moved = line(explorer, 5) - before
    assert abs(moved[at] - round(moved[at])) < 1e-3 and moved[at] >= 1
    assert np.nanmax(np.abs(moved[len(moved) // 2 :])) < 1e-3
    tool(explorer, "erase")
    drag(explorer, CURVE, [(0.7, 0.5), (0.8, 0.5)])
    explorer.wait_for_function(f"!Number.isFinite({GRAPH}._fullData[5].y[{round(0.75 * len(before))}])")
    tool(explorer, "restore")
    drag(explorer, CURVE, [(0.01, 0.5), (0.99, 0.5)])
    explorer.wait_for_function(f"Number.isFinite({GRAPH}._fullData[5].y[{round(0.75 * len(before))}])")
    inside = slice(round(0.05 * len(before)), round(0.95 * len(before)))
    assert np.allclose(line(explorer, 5)[inside], before[inside], atol=1e-3, equal_nan=True)
    tool(explorer, "draw")
    press(explorer, "Reset")
    wait_for_edits(explorer, "edits: nothing")


def test_bars_by_mouse(explorer, folder):
    "Pulling bars down silences harmonics; a slider is an edit, and is heard within seconds"
    choose(explorer, "a steady tone")
    wait_for_edits(explorer, "a tone")
    bars = explorer.locator(".mirkit-bars canvas").first
    bars.scroll_into_view_if_needed()
    box = bars.bounding_box()
    x = [box["x"] + 34 + (i + 0.5) * (box["width"] - 38) / 16 for i in range(16)]
    explorer.mouse.move(x[1], box["y"] + 60)
    explorer.mouse.down()
    explorer.mouse.move(x[1], box["y"] + 125, steps=4)
    explorer.mouse.move(x[4], box["y"] + 128, steps=8)
    explorer.mouse.up()
    wait_for_edits(explorer, "harmonics by bars")
    c = Controls.from_npz(saved(explorer, folder, "bars.npz"))
    assert c.harmonics[:, 1:5].max() == 0 and c.harmonics[100, [0, 5]].min() > 0.001
    picture(explorer, "ddsp-3-bars")


def test_an_edit_is_heard_at_once(explorer):
    "From a key on a slider to sound that plays, by the clock of the page"
    page = explorer
    page.evaluate(f"""() => {{
        window.played = 0;
        {AUDIO}.addEventListener("playing", () => {{ window.played = performance.now(); }});
    }}""")
    waits = []
    for _ in range(3):
        old = page.evaluate(f"{AUDIO}.src")
        began = page.evaluate("performance.now()")
        slide(page, "brightness (dB an octave)", 1)
        page.wait_for_function(f"{AUDIO}.src !== {old!r} && window.played > {began}")
        waits.append(page.evaluate("window.played") - began)
        page.wait_for_timeout(1500)
    print("ms from key to sound:", [round(w) for w in waits])
    assert min(waits) < 10_000  # a second where the machine has nothing else to do
    page.evaluate(f"{AUDIO}.pause()")
    press(page, "Reset")
    wait_for_edits(page, "edits: nothing")


def test_before_and_after(explorer):
    "The player changes sounds and stays where it is; lines in curve and figure follow it"
    explorer.get_by_label("play after an edit").uncheck()
    slide(explorer, "noise (dB)", 3)
    wait_for_edits(explorer, "edits: noise 3.0")
    explorer.wait_for_function(f"{AUDIO}.readyState >= 2")  # before it is loaded, a place in it is forgotten
    explorer.evaluate(f"{AUDIO}.pause()")  # the test before may have left it playing
    explorer.evaluate(f"{AUDIO}.currentTime = 1.5")
    before = explorer.evaluate(f"{AUDIO}.src")
    press(explorer, "recording")
    explorer.wait_for_function(f"{AUDIO}.src !== {before!r} && Math.abs({AUDIO}.currentTime - 1.5) < 0.1")
    for selector in (".mirkit-curve .line", ".mirkit-cursor"):
        script = f"Math.abs(document.querySelector('.mirkit-stage {selector}').dataset.time - 1.5) < 0.1"
        explorer.wait_for_function(script)
    assert explorer.evaluate(f"{AUDIO}.paused")


def test_freeze_and_stretch(explorer):
    choose(explorer, "a phrase of the synthesiser")
    wait_for_edits(explorer, "edits: nothing")
    explorer.evaluate(f"{AUDIO}.currentTime = 2.0")
    explorer.wait_for_timeout(1000)
    press(explorer, "Freeze here")
    wait_for_edits(explorer, "freeze 2.")
    assert np.nanmax(line(explorer, 5)) - np.nanmin(line(explorer, 5)) < 1e-4
    press(explorer, "Undo")
    wait_for_edits(explorer, "edits: nothing")
    slide(explorer, "stretch (times as long)", 4)
    explorer.wait_for_function(f"Math.abs({AUDIO}.duration - 1.2 * 5.2) < 0.1")
    picture(explorer, "ddsp-4-stretched")
    press(explorer, "Reset")
    wait_for_edits(explorer, "edits: nothing")


def test_upload_and_instruments(explorer, folder):
    "A recording of another rate, its f0 tracked; wavetable, a trained instrument, an inverse synthesiser"
    explorer.locator(".mirkit-stage input[type=file]").set_input_files(folder / "glide.wav")
    explorer.wait_for_function(f"Math.abs({AUDIO}.duration - 3) < 0.1", timeout=90_000)
    wait_for_edits(explorer, "measured")
    curve = line(explorer, 1)
    found = curve[len(curve) // 5 : 4 * len(curve) // 5]
    truth = 69 + 12 * np.log2((220 + 40 * np.linspace(0, 3, len(curve))) / 440)[len(curve) // 5 : 4 * len(curve) // 5]
    assert np.nanmedian(np.abs(found - truth)) < 0.3
    picture(explorer, "ddsp-5-upload")
    for name in ("wavetable: square", "random-violin"):
        menu(explorer, "instrument").select_option(name)
        wait_for_edits(explorer, f"instrument {name}")
    assert "random" in facts(explorer)
    picture(explorer, "ddsp-6-instrument")
    menu(explorer, "controls").select_option("random-inverse")
    explorer.wait_for_function(f"{AUDIO}.duration > 2.5")
    wait_for_edits(explorer, "step 32 ms")


def test_bad_sounds_are_sentences(explorer, folder):
    upload = explorer.locator(".mirkit-stage input[type=file]")
    for name, words in (("notes.wav", "notes.wav"), ("silent.wav", "is silent")):
        upload.set_input_files(folder / name)
        explorer.locator(".mirkit-stage [role=alert]", has_text=words).wait_for()


def test_page_asked_for_nothing_from_outside_and_raised_nothing(explorer):
    assert not explorer.trouble
    said = explorer.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    assert not said
