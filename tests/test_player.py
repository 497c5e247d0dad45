"""What a browser makes of the players: the cursor follows, nothing is fetched, nothing fails."""

import numpy as np
import pytest

from mirkit.core.player import player_html, plotly_player_html
from mirkit.core.results import PitchTrack
from mirkit.core.view import f0_figure

SR = 16_000
TIME = np.arange(0, 3, 0.01)
F0 = np.where(np.abs(TIME - 1.5) < 0.1, 0, 220 * 2 ** (TIME / 3))
SOUND = PitchTrack(TIME, F0, np.ones(300)).sonify(SR)


def _open(page, tmp_path, body: str):
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{body}", encoding="utf-8")
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("[...document.querySelectorAll('audio')].every(a => a.readyState >= 1)")


def _cursor(page, player: int = 0) -> tuple[float, float]:
    "Seconds of the cursor: what it says, and where it is on the screen"
    return page.evaluate(
        """i => { const svg = document.querySelectorAll(".mirkit-player svg")[i], c = svg.querySelector(".cursor");
        const box = svg.getBoundingClientRect(), line = c.getBoundingClientRect();
        return [Number(c.dataset.time), 3 * (line.left + line.width / 2 - box.left) / box.width] }""",
        player,
    )


def test_seek_moves_the_cursor_and_click_seeks(page, tmp_path):
    two = player_html(SOUND, SR, TIME, F0, title="first") + player_html(SOUND, SR)
    _open(page, tmp_path, two)
    assert abs(page.evaluate("document.querySelector('audio').duration") - 3) < 0.05
    page.evaluate("document.querySelector('audio').currentTime = 1.5")
    page.wait_for_function("document.querySelector('.cursor').dataset.time == '1.5'")
    said, seen = _cursor(page)
    assert said == 1.5 and abs(seen - 1.5) < 0.01
    assert _cursor(page, 1)[0] == 0  # the other player stays
    box = page.locator(".mirkit-player svg").nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 3, box["y"] + 20)
    page.wait_for_function("Math.abs(document.querySelectorAll('.cursor')[1].dataset.time - 1) < 0.01")
    assert abs(_cursor(page, 1)[1] - 1) < 0.02 and _cursor(page)[0] == 1.5


def test_cursor_follows_while_playing_and_stops(page, tmp_path):
    _open(page, tmp_path, player_html(SOUND, SR))
    page.evaluate("document.querySelector('audio').play()")
    page.wait_for_function("document.querySelector('.cursor').dataset.time > 0.3")
    moves = page.evaluate(
        """() => new Promise(done => { const cursor = document.querySelector(".cursor"), seen = new Set(), start = performance.now();
        const look = () => { seen.add(cursor.dataset.time);
            performance.now() - start < 500 ? requestAnimationFrame(look) : done(seen.size) }; look(); })"""
    )
    assert moves >= 8  # in half a second; a timeupdate listener alone gives two
    page.evaluate("document.querySelector('audio').pause()")
    page.wait_for_timeout(200)
    assert _cursor(page)[0] == page.evaluate("document.querySelector('audio').currentTime")


def test_pitch_track_shows_itself(page, tmp_path):
    track = PitchTrack(TIME, F0, np.linspace(0, 1, 300), audio=SOUND, sr=SR)
    _open(page, tmp_path, track._repr_html_())
    assert page.locator("path.f0").count() == 4  # four steps of confidence
    assert "A3" in page.locator(".mirkit-player").inner_text()


def test_empty_and_single_frame_players(page, tmp_path):
    none = PitchTrack([], [], [])
    one = PitchTrack([0.0], [440.0], [1.0], audio=np.zeros(160), sr=SR)
    _open(page, tmp_path, none._repr_html_() + one._repr_html_() + player_html(np.empty(0), SR))
    assert page.locator(".mirkit-player").count() == 3


@pytest.mark.parametrize("with_line", [True, False])
def test_plotly_figure_follows(page, tmp_path, with_line):
    figure = f0_figure(TIME, {"f0": F0}, confidence=np.ones(300))
    if with_line:
        figure.add_vline(0)
    plot = figure.to_html(full_html=False, include_plotlyjs=True, include_mathjax=False, div_id="f0-1")
    _open(page, tmp_path, plot + plotly_player_html("f0-1", SOUND, SR))
    shape = "document.getElementById('f0-1').layout.shapes[0].x0"
    page.evaluate("document.querySelector('audio').currentTime = 1.5")
    page.wait_for_function(f"{shape} == 1.5")
    page.evaluate("document.getElementById('f0-1').emit('plotly_click', {points: [{x: 0.75}]})")
    page.wait_for_function(f"{shape} == 0.75")
    assert page.evaluate("document.querySelector('audio').currentTime") == 0.75
    box = page.locator("#f0-1 .nsewdrag").first.bounding_box()  # far from the curve, at 80 % of the time axis
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 5)
    page.wait_for_timeout(300)
    page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 5)
    page.wait_for_function(f"Math.abs({shape} - 2.4) < 0.05")
    assert page.evaluate("document.getElementById('f0-1').layout.shapes.length") == 1
