"""The command `mirkit` as a shell sees it"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mirkit import cli

BROKEN = (
    "import mirkit.cli as c; c.COMMANDS['settings'] = ('', c._add_settings, lambda args: 1 / 0); c.main(['settings'])"
)


def mirkit(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "mirkit", *words], capture_output=True, text=True, cwd=cwd)


@pytest.fixture(autouse=True)
def inside_the_project(root, monkeypatch):
    monkeypatch.chdir(root)


def test_help_is_quick():
    "No more than three times what Python itself needs to start with the package's own standard-library imports"
    took = []
    for code in (
        "import argparse, configparser, dataclasses",
        "import sys; sys.argv = ['mirkit', '--help']; import mirkit.__main__ as m; m.main()",
    ):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], capture_output=True)
        took.append(time.perf_counter() - start)
    assert took[1] < 3 * took[0] + 0.1


def test_every_command_explains_itself(capsys):
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as end:
            cli.main([command, "--help"])
        assert end.value.code == 0 and f"mirkit {command}" in capsys.readouterr().out


def test_console_script_and_module_are_one_command():
    script = Path(sys.executable).with_name("mirkit")
    if not script.exists():
        pytest.skip("mirkit is not installed, only importable")
    assert (
        subprocess.run([script, "--version"], capture_output=True, text=True).stdout == mirkit("--version").stdout != ""
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["run", "nosuch"], "notebook 'nosuch'"),
        (["run", "90_cil"], "Did you mean '90_cli'?"),
        (["run", "90_cli", "-p", "seed", "1"], "has no parameter 'seed'"),
        (["run", "90_cli", "--jobs", "0"], "jobs = 0"),
        (["run", "90_cli", "--run-id", "a/b"], "run_id = 'a/b'"),
        (["data", "check", "nosuch-set"], "nosuch-set"),
        (["data", "fetch", "nosuch-set"], "nosuch-set"),
    ],
)
def test_mistakes_are_named_in_one_line(words, message, capsys, tmp_path):
    out = ["--out", str(tmp_path)] if words[0] == "run" else []
    assert cli.main([*words, *out]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("mirkit: error: ") and message in said.err and said.out == ""
    assert "Traceback" not in said.err


def test_mistakes_of_usage(capsys):
    for words in ([], ["rnu"], ["run"], ["run", "90_cli", "-p", "seed"], ["data"]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 2


def test_bugs_keep_their_traceback():
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "Traceback" in done.stderr


def test_settings_say_where_they_come_from(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[mirkit]\nseed = 7\n")
    monkeypatch.setenv("MIRKIT_DEVICE", "cpu")
    lines = {line.split()[0]: line.split() for line in mirkit("settings", cwd=tmp_path).stdout.splitlines()}
    assert lines["seed"][1:] == ["7", str(tmp_path / "settings.ini")]
    assert lines["device"][1:] == ["cpu", "MIRKIT_DEVICE"] and lines["cache_limit_gb"][2] == "default"
    (tmp_path / "settings.ini").write_text("[mirkit]\nsede = 7\n")
    done = mirkit("settings", cwd=tmp_path)
    assert done.returncode == 2 and "unknown setting sede" in done.stderr


def test_data_list_names_the_built_in_set(capsys):
    assert cli.main(["data", "list"]) == 0
    assert "synth" in capsys.readouterr().out


def test_parameters_of_a_notebook(tmp_path, capsys):
    import nbformat

    cell = nbformat.v4.new_code_cell("steps: int = 3  # how many", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    assert cli.main(["run", str(tmp_path / "a.ipynb"), "--parameters"]) == 0
    assert capsys.readouterr().out == "steps: int = 3  # how many\n"
