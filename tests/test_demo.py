"""What `make demo` leaves to look at: a tune with its true pitch and the answers, a player in step, scores beside pYIN"""

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from mirkit.lab.report import Report
from mirkit.lab.run import run_notebook
from mirkit.pitch.pareto import pareto_figure

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"steps": 4, "steps_per_epoch": 2, "clips": 12, "noises": 4, "most": 1, "conditions": "clean", "seed": 0}


@pytest.fixture
def patient(page):
    "The page, on a machine that is busy with training"
    page.set_default_timeout(120_000)
    return page


def test_demo_trains_on_our_own_sound():
    make = shutil.which("make")
    if not make:
        pytest.skip("no make")
    said = subprocess.run(
        [make, "--no-print-directory", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert said.splitlines()[-1].split() == [".venv/bin/mirkit", "run", "nbs/train_pitch.ipynb"]


def test_report_shows_what_the_user_came_for(patient, settings):
    result = run_notebook("train_pitch", QUICK, run_id="demo")
    assert result.status == "done", result.error
    patient.goto((result.folder / "report.html").as_uri())
    patient.wait_for_function("document.querySelectorAll('.js-plotly-plot .plot-container').length >= 3")
    verdict = patient.inner_text(".verdict")
    assert "pYIN" in verdict and "this model" in verdict and "%" in verdict
    assert "longer training buys" in patient.inner_text("main")
    first = patient.locator("main h2").nth(0)
    assert first.inner_text() == "A tune"
    tune = "document.querySelector('.js-plotly-plot')"
    names = patient.evaluate(f"{tune}.data.filter(t => t.type != 'heatmap').map(t => t.name)")
    assert names[:2] == ["true pitch", "this model"] and "pYIN" in names
    patient.wait_for_function("document.querySelector('audio').readyState >= 1")
    assert abs(patient.evaluate("document.querySelector('audio').duration") - 8.0) < 0.1
    patient.evaluate("document.querySelector('audio').currentTime = 2.5")
    patient.wait_for_function(f"Math.abs({tune}.layout.shapes[0].x0 - 2.5) < 0.05")


def test_pareto_menu_changes_the_condition(patient, tmp_path):
    rows = [("a", 40, 97.0, 90.0), ("b", 150, 98.5, 92.0), ("theirs", 70, 96.8, 95.1)]
    table = pd.DataFrame(
        [
            {"system": s, "us_per_frame": us, "condition": c, "RPA": v}
            for s, us, *rates in rows
            for c, v in zip(("clean", "pink 0"), rates, strict=True)
        ]
    )
    report = Report("cost")
    report.figure(pareto_figure(table, ours=["a", "b"]))
    patient.goto(report.save(tmp_path / "cost.html").as_uri())
    labels = "[...document.querySelectorAll('.textpoint text')].map(t => t.textContent)"
    patient.wait_for_function(f"{labels}.length == 3")
    assert sorted(" ".join(t.split()) for t in patient.evaluate(labels)) == ["a 97.0", "b 98.5", "theirs 96.8"]
    patient.locator(".updatemenu-header").click()
    patient.locator(".updatemenu-dropdown-button", has_text="pink 0").click()
    patient.wait_for_function(f"{labels}.some(t => t.includes('95.1'))")
    assert sorted(" ".join(t.split()) for t in patient.evaluate(labels)) == ["a 90.0", "b 92.0", "theirs 95.1"]
