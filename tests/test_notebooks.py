"""The notebooks that are run, not imported: each as its user runs it, with papermill, on a quick setting"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUNNABLE = sorted(p for kind in ("train", "eval", "explore") for p in (ROOT / "nbs").glob(f"{kind}_*.ipynb"))

# The parameters of a run that takes a minute at most: every notebook that can be run has a line here.
QUICK = {
    "train_pesto": {"data": "synth", "steps": 20, "steps_per_epoch": 10},
    "train_pitch": {"steps": 6, "steps_per_epoch": 3, "clips": 16, "noises": 4, "conditions": "clean", "most": 2},
    "train_key": {"steps": 6, "steps_per_epoch": 3, "batch_size": 4},
    "train_stone": {
        "steps": 4,
        "steps_per_epoch": 2,
        "batch_size": 4,
        "seconds": 3.0,
        "val_tracks": 4,
        "test_tracks": 4,
    },
    "train_onsets": {"recipe": "narrow", "steps": 4, "steps_per_epoch": 2, "batch_size": 2, "test_files": 1},
    "explore_ddsp": {"simulate": True},
    "train_ddsp_decoder": {
        "steps": 4,
        "steps_per_epoch": 2,
        "batch_size": 2,
        "windows": 1,
        "longest": 4.0,
        "examples": 1,
    },
    "train_ddsp_inv": {
        "recipe": "ci",
        "steps": 4,
        "steps_per_epoch": 2,
        "batch_size": 4,
        "val_clips": 3,
        "baseline_clips": 2,
        "examples": 1,
    },
    "explore_key": {"simulate": True},
    "explore_piano": {"simulate": True},
    "explore_pitch": {"simulate": True, "steps": 2},
    "eval_key": {"max_tracks": 6, "examples": 1},
    "eval_onsets": {"max_tracks": 2, "max_validation": 1, "excerpt": 2.0},
    "eval_pitch": {"data": "synth", "max_tracks": 2, "conditions": "clean,pink 10"},
}


@pytest.mark.parametrize("notebook", RUNNABLE, ids=lambda p: p.stem)
def test_papermill_runs(notebook, tmp_path):
    "papermill nbs/train_pesto.ipynb OUT -p data synth: no error, and a report that needs no network"
    assert notebook.stem in QUICK, f"add the parameters of a quick run of {notebook.stem} to QUICK"
    command = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / "executed.ipynb"), "--no-progress-bar"]
    for name, value in QUICK[notebook.stem].items():
        command += ["-p", name, str(value)]
    environment = {**os.environ, "MIRKIT_REPORTS_PATH": str(tmp_path / "reports")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "unknown parameter" not in done.stderr
    if notebook.stem.startswith("explore_"):
        return
    (report,) = (tmp_path / "reports" / notebook.stem).glob("*/report.html")
    assert json.loads((report.parent / "metrics.json").read_text())
    html = re.sub(r"<script\b.*?</script>", "", report.read_text(encoding="utf-8"), flags=re.S)
    loaded = re.findall(
        r"""<(?:img|audio|source|iframe|link|object)\b[^>]*?(?:src|href|data)=["']?(https?:[^"'> ]+)""", html
    )
    assert not loaded and not re.search(r"<script[^>]+src=[\"']?https?:", report.read_text(encoding="utf-8"))
