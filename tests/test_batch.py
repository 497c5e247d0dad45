"""Many items under faults: workers that die, errors that cannot travel, an impatient user, a cluster"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mirkit.lab.batch import map_files

TASKS = """
import os, signal, time
from pathlib import Path

class Odd(Exception):
    "Cannot be unpickled: it wants two arguments and tells pickle of one"
    def __init__(self, a, b):
        super().__init__(a)

def odd(item):
    raise Odd(item, 1) if item == 2 else ValueError("plain")

def die(item):
    time.sleep(0.05)
    if item % 4 == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item

def always_die(item):
    os._exit(3)

def note(item):
    with open("log", "a") as f:
        f.write(f"{item}\\n")
    return item

def large(item):
    return bytes(item)

def unpicklable(item):
    return lambda: item

def torch_threads(item):
    import torch
    return torch.get_num_threads(), float(torch.ones(300, 300).matmul(torch.ones(300, 300)).sum())

def slow(item):
    Path(f"started-{os.getpid()}").touch()
    time.sleep(60)
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    "A module that workers can import"
    (tmp_path / "batch_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("batch_tasks", None)
    import batch_tasks

    yield batch_tasks
    sys.modules.pop("batch_tasks", None)


def statuses(outcomes) -> str:
    return "".join(o.status[0] for o in outcomes)


def test_every_fourth_item_kills_its_worker(tasks):
    "Each of them is found, and costs no other item anything"
    outcomes = map_files(tasks.die, range(12), jobs=3, progress=False)
    assert statuses(outcomes) == "dfdd" * 3
    assert [o.value for o in outcomes if o.status == "done"] == [i for i in range(12) if i % 4 != 1]
    assert all("died" in o.error for o in outcomes if o.status == "failed")


def test_when_every_worker_dies_every_item_is_reported(tasks):
    assert statuses(map_files(tasks.always_die, range(3), jobs=2, progress=False)) == "fff"


def test_errors_and_results_that_cannot_travel(tasks):
    outcomes = map_files(tasks.odd, range(4), jobs=2, progress=False)
    assert statuses(outcomes) == "ffff" and [o.error for o in outcomes] == ["plain", "plain", "Odd: 2", "plain"]
    assert isinstance(outcomes[0].exception, ValueError) and outcomes[2].exception is None
    outcomes = map_files(tasks.unpicklable, range(2), jobs=2, progress=False)
    assert statuses(outcomes) == "ff" and "pickle" in outcomes[0].error
    (one, two) = map_files(tasks.large, [30_000_000, 1], jobs=2, progress=False)
    assert len(one.value) == 30_000_000 and len(two.value) == 1


def test_done_items_are_not_touched(tasks):
    outcomes = map_files(tasks.note, range(6), progress=False, done=lambda item: item % 2 == 0)
    assert statuses(outcomes) == "sdsdsd" and Path("log").read_text().split() == ["1", "3", "5"]


def test_first_failure_ends_everything_when_asked(tasks):
    with pytest.raises(ValueError, match="plain"):
        map_files(tasks.odd, range(4), progress=False, on_error="raise")
    with pytest.raises(RuntimeError, match="2: Odd: 2"):
        map_files(tasks.odd, [2], progress=False, on_error="raise", jobs=2)
    with pytest.raises(RuntimeError, match="died"):
        map_files(tasks.always_die, range(50), jobs=2, progress=False, on_error="raise")


def test_workers_use_torch_with_one_thread(tasks):
    "Also when this process has used torch with all of its threads before"
    torch = pytest.importorskip("torch")
    torch.ones(300, 300).matmul(torch.ones(300, 300))
    outcomes = map_files(tasks.torch_threads, range(2), jobs=2, progress=False)
    assert [o.value for o in outcomes] == [(1, 300.0**3)] * 2, outcomes


def test_a_script_without_a_main_guard_ends(tmp_path):
    "The usual beginner's mistake must not start processes for ever"
    code = "import math\nfrom mirkit.lab.batch import map_files\nprint([o.status for o in map_files(math.sqrt, [1, 4], jobs=2)])"
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=in_project()
    )
    assert done.stdout.splitlines()[-1] == "['failed', 'failed']" and "__main__" in done.stderr


def in_project() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_at_once_and_leaves_no_process(tasks, tmp_path, jobs):
    code = f"import batch_tasks\nfrom mirkit.lab.batch import map_files\nmap_files(batch_tasks.slow, range(9), jobs={jobs}, progress=False)"
    # a shell without job control starts background jobs with SIGINT ignored, and children inherit that
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + code
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=in_project())
    for _ in range(3000):
        if len(started := list(tmp_path.glob("started-*"))) == jobs:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=20)[1]
    assert child.returncode != 0 and said.count("KeyboardInterrupt") == 1
    for _ in range(500):
        if not any(alive(int(f.name.split("-")[1])) for f in started):
            return
        time.sleep(0.01)
    raise AssertionError("a worker outlives its parent")


def test_workers_end_when_their_parent_is_killed(tasks, tmp_path):
    "kill -9 gives it no time to end them: workers look by themselves whether it is there"
    code = "import batch_tasks\nfrom mirkit.lab.batch import map_files\nmap_files(batch_tasks.slow, range(2), jobs=2, progress=False)"
    child = subprocess.Popen([sys.executable, "-c", code], env=in_project())
    for _ in range(3000):
        if len(started := list(tmp_path.glob("started-*"))) == 2:
            break
        time.sleep(0.01)
    child.kill()
    child.wait()
    for _ in range(2000):
        if not any(alive(int(f.name.split("-")[1])) for f in started):
            return
        time.sleep(0.01)
    raise AssertionError("a worker outlives its parent")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_dask_cluster_or_a_clear_word(tasks):
    try:
        from distributed import LocalCluster
    except ImportError:
        with pytest.raises(ValueError, match="scheduler = 'tcp://localhost:1' needs Dask.*pip install distributed"):
            map_files(tasks.note, range(3), scheduler="tcp://localhost:1")
        return
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        outcomes = map_files(tasks.odd, range(4), scheduler=cluster.scheduler_address, progress=False)
        assert [o.error for o in outcomes] == ["plain", "plain", "Odd: 2", "plain"]
        assert [o.value for o in map_files(abs, [-1, 2], scheduler=cluster.scheduler_address)] == [1, 2]


def test_nothing_heavy_is_imported():
    code = "import mirkit.lab.batch, sys; print({'torch', 'numpy', 'tqdm', 'distributed'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=in_project())
    assert done.stdout == "set()\n", done.stderr
