"""Runs of notebooks from outside: processes, kills, sweeps in parallel, the report about them"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mirkit.lab.run import run_notebook

PARAMETERS = """steps: int = 3  # how many, >= 1
mode: str = "good"  # good, bad, die or sleep
run_id: str = "" """

BODY = """import json, os, time
from mirkit.core.settings import load_settings
folder = load_settings().reports_path / "lesson" / run_id
print("threads", os.environ.get("OMP_NUM_THREADS"))
if mode == "sleep" and not (folder / "once").exists():
    (folder / "once").touch()
    time.sleep(60)
if mode == "die":
    os._exit(1)
assert mode != "bad", "asked to fail"
_ = (folder / "metrics.json").write_text(json.dumps({"steps": steps, "square": {"of steps": steps**2}}))"""

TRAINING = """import json
from mirkit.core.settings import load_settings
from mirkit.lab.control import Status
folder = load_settings().reports_path / "lesson" / run_id
done = len(list(folder.glob("part*")))
(folder / f"part{done}").touch()  # each time it is run, it is stopped, but the third
Status(folder).write(state="stopped" if done < 2 else "finished")
_ = (folder / "metrics.json").write_text(json.dumps({"steps": done + 1, "stopped": done < 2}))"""


@pytest.fixture
def lesson(tmp_path: Path, monkeypatch) -> Path:
    "A notebook that runs in a second; reports go to tmp_path/reports"
    monkeypatch.setenv("MIRKIT_REPORTS_PATH", str(tmp_path / "reports"))
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    cells += [new_markdown_cell("# Lesson\n\n> Squares a number"), new_code_cell(BODY)]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "lesson.ipynb")
    return tmp_path / "lesson.ipynb"


def start(lesson: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "mirkit", "run", str(lesson), *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=lesson.parent,
        # a shell starts what it puts in the background with Ctrl-C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def wait_for(path: Path) -> None:
    for _ in range(300):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def test_command_streams_what_the_notebook_prints_and_says_where_things_are(lesson):
    run = start(lesson, "-p", "steps", "4", "--run-id", "a")
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "threads" in out and out.splitlines()[-2:] == [
        "reports/lesson/a/executed.html",
        "reports/lesson/a/executed.ipynb",
    ]
    assert "WARNING" not in err and "nknown parameter" not in err
    kept = record(lesson.parent / "reports/lesson/a")
    assert kept["status"] == "done" and kept["params"]["steps"] == 4 and kept["params"]["mode"] == "good"
    assert str(lesson.parent) not in json.dumps(kept)


def test_sweep_in_processes_survives_failures_and_reports(lesson):
    "Two jobs: one core's threads each; a bad member and a dying kernel are rows of the report"
    result = run_notebook(lesson, {"mode": "good,bad,die", "steps": 2}, run_id="s", jobs=2)
    assert [r.status for r in result.members] == ["done", "failed", "failed"] and not result.ok
    assert "asked to fail" in result.members[1].error and "Dead" in result.members[2].error
    log = (result.folder / "mode=good" / "log.txt").read_text()
    share = max(1, len(os.sched_getaffinity(0)) // 2) if hasattr(os, "sched_getaffinity") else os.cpu_count() // 2
    assert int(re.search(r"threads (\d+)", log)[1]) <= share
    page = (result.folder / "report.html").read_text()
    assert "1 of 3 runs finished" in page and "asked to fail" in page
    for link in re.findall(r'<td><a href="([^"]+)"', page):
        assert (result.folder / link.replace("%3D", "=")).is_file()
    assert "asked to fail" in (result.folder / "mode=bad" / "executed.html").read_text()
    assert json.loads((result.folder / "metrics.json").read_text())["square.of steps"]["mean"] == 4


def test_killed_run_resumes(lesson):
    "kill -9 leaves a folder that says so; resuming runs it again, with the same values only"
    folder = lesson.parent / "reports/lesson/k"
    run = start(lesson, "-p", "mode", "sleep", "--run-id", "k")
    wait_for(folder / "once")
    run.kill()
    run.communicate()
    assert record(folder)["status"] == "running" and not (folder / "metrics.json").exists()
    with pytest.raises(ValueError, match=r"'k' exists \(running\)"):
        run_notebook(lesson, {"mode": "sleep"}, run_id="k")
    with pytest.raises(ValueError, match="was started with"):
        run_notebook(lesson, {"mode": "good"}, run_id="k", resume=True)
    assert run_notebook(lesson, {"mode": "sleep"}, run_id="k", resume=True).metrics["steps"] == 3
    assert run_notebook(lesson, {"mode": "sleep"}, run_id="k", resume=True).status == "skipped"


def test_training_stopped_through_its_file_goes_on(lesson):
    "The command says how; both ways of naming the run train on; when it is done, it is skipped"
    nb = nbformat.read(lesson, 4)
    nb.cells[-1].source = TRAINING  # its status is what the control callback writes, as 09_control shows
    nbformat.write(nb, lesson)
    folder = lesson.parent / "reports/lesson/s"
    resume, parameter = ("--run-id", "s", "--resume"), ("-p", "run_id", "s")
    runs = (
        (("--run-id", "s"), "stopped", 1),
        (resume, "stopped", 2),
        (parameter, "done", 3),
        (parameter, "skipped", 3),
    )
    for words, status, steps in runs:
        run = start(lesson, *words)
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0 and f"s: {status} in" in err, err
        assert ("--run-id s --resume" in err) == (status == "stopped")
        assert json.loads((folder / "metrics.json").read_text())["steps"] == steps
        assert record(folder)["status"] == status.replace("skipped", "done")


def test_ctrl_c_is_recorded(lesson):
    folder = lesson.parent / "reports/lesson/c"
    run = start(lesson, "-p", "mode", "sleep", "--run-id", "c")
    wait_for(folder / "once")
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and record(folder)["status"] == "interrupted", err


def test_failed_run_keeps_its_notebook(lesson):
    run = start(lesson, "-p", "mode", "bad", "--run-id", "f")
    out, err = run.communicate(timeout=60)
    assert run.returncode == 1 and "AssertionError: asked to fail" in err
    assert "executed.html" in out
    assert "asked to fail" in (lesson.parent / "reports/lesson/f/executed.html").read_text()


@pytest.mark.parametrize(
    "params, message",
    [
        ({"step": 4}, "no parameter 'step' \\(did you mean 'steps'"),
        ({"steps": "four"}, "steps = 'four' is not of type int"),
        ({"steps": 4.5}, "steps = 4.5 is not of type int"),
        ({"steps": "1,2,2"}, "the same one twice"),
        ({"steps": "1,,2"}, "steps = ''"),
        ({"run_id": "x"}, "--run-id"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(lesson, params, message):
    with pytest.raises(ValueError, match=message):
        run_notebook(lesson, params)
    assert not (lesson.parent / "reports").exists()


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path):
    from mirkit.lab.run import claim_folder

    assert len({claim_folder(tmp_path) for _ in range(5)}) == 5
