"""The house keeps its plan: what imports what, what stands where, what is shipped, what is committed"""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
RUNNABLE = ("train_", "eval_", "explore_")  # told apart by name; index.ipynb is the README
MODULES = sorted(p for p in (ROOT / "mirkit").rglob("*.py") if not p.name.startswith("_"))

# Arrows point down: what a room may import besides itself.
KNOWS = {
    "core": set(),
    "signal": {"core"},
    "pitch": {"core", "signal"},
    "key": {"core", "signal"},
    "piano": {"core", "signal"},
    "ddsp": {"core", "signal"},
    "lab": {"core"},
}
HEAVY = ("torch", "pandas", "plotly", "librosa", "scipy", "lightning", "matplotlib", "papermill")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def python(code: str, cwd: Path = ROOT) -> str:
    "What a fresh Python prints"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- imports ---------------------------------------------------------------------------------------------------------


def seconds_to_import(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return min(float(python(code)) for _ in range(3))


def test_import_mirkit_costs_nothing():
    "Far less than numpy, and none of the heavy packages"
    loaded = python("import mirkit, sys; print(*sys.modules)").split()
    assert not {"numpy", *HEAVY} & set(loaded)
    assert seconds_to_import("mirkit") < 0.5 * seconds_to_import("numpy")


@pytest.mark.parametrize("module", [dotted(m) for m in MODULES if m.parent.name == "core"])
def test_core_imports_nothing_heavy(module):
    loaded = python(f"import {module}, sys; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


def test_top_level_names():
    import mirkit

    assert set(mirkit.__all__) <= set(dir(mirkit))
    for attribute in mirkit.__all__:
        assert getattr(mirkit, attribute).__name__ == attribute
    with pytest.raises(AttributeError, match="no attribute 'laod'.*load_dataset"):
        mirkit.laod  # noqa: B018


def imported_rooms(module: Path) -> set[str]:
    "Rooms, or modules of the top floor, that `module` imports anywhere in its code"
    package = module.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            names = [f"{source}.{alias.name}" if source == "mirkit" else source for alias in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("mirkit.")}
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if m.parent.name in KNOWS], ids=name)
def test_arrows_point_down(module):
    room = module.parent.name
    wrong = imported_rooms(module) - KNOWS[room] - {room}
    assert not wrong, (
        f"{name(module)} imports {', '.join(sorted(wrong))}; {room} may know {', '.join(sorted(KNOWS[room])) or 'nobody'}"
    )


# ---- two floors ------------------------------------------------------------------------------------------------------


def cells(notebook: Path, kind: str | None = None) -> list[dict]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [c for c in found if kind in (None, c["cell_type"])]


def source(cell: dict) -> str:
    return "".join(cell["source"])


LIBRARY = [n for n in NOTEBOOKS if not n.name.startswith((*RUNNABLE, "index"))]


@pytest.mark.parametrize("notebook", LIBRARY, ids=name)
def test_notebook_and_module_stand_in_the_same_place(notebook):
    "nbs/room/NN_name.ipynb exports mirkit/room/name.py"
    assert re.fullmatch(r"\d\d_[a-z][a-z0-9_]*", notebook.stem), "library notebooks are called NN_name"
    room = notebook.relative_to(ROOT / "nbs").parent
    expected = ".".join([*room.parts, notebook.stem[3:]])
    text = "\n".join(source(c) for c in cells(notebook, "code"))
    assert re.findall(r"^#\| *default_exp +(\S+)", text, re.M) == [expected]
    assert (ROOT / "mirkit" / room / f"{notebook.stem[3:]}.py").is_file()


def test_every_module_has_its_notebook():
    floors = {n.relative_to(ROOT / "nbs").parent / n.stem[3:] for n in LIBRARY}
    orphans = [name(m) for m in MODULES if m.relative_to(ROOT / "mirkit").with_suffix("") not in floors]
    assert not orphans


def test_numbers_are_given_once():
    "Two notebooks of a room never share a number"
    numbers = [(n.parent, n.name[:2]) for n in LIBRARY]
    assert len(numbers) == len(set(numbers))


# ---- notebooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebook_anatomy(notebook):
    "A title, one sentence that says what it is for, and no more than one can read"
    assert re.match(r"# \S.*\n+> \S.*", source(cells(notebook)[0])), (
        "the first cell is '# title', then '> one sentence'"
    )
    assert len(cells(notebook)) <= 60
    assert notebook.stat().st_size <= 300_000, "more than 300 kB: make its figures and sounds smaller"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebook_is_clean(notebook):
    "Nothing is left of a run: counts, times, papermill's marks, widget state, errors"
    meta = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
    assert not {"papermill", "widgets", "execution"} & set(meta)
    for cell in cells(notebook):
        assert set(cell["metadata"]) <= {"tags"}, (
            f"metadata {set(cell['metadata'])} of cell {cell['id']}: run make export"
        )
        assert not {"injected-parameters", "papermill-error-cell-tag"} & set(cell["metadata"].get("tags", []))
        assert cell.get("execution_count") is None
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", f"cell {cell['id']} shows an error: {output.get('evalue')}"
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


@pytest.mark.parametrize("notebook", [n for n in NOTEBOOKS if n.name.startswith(RUNNABLE)], ids=name)
def test_runnable_notebook_says_what_can_be_changed(notebook):
    "The first code cell is tagged `parameters`: one `name = value  # type: comment` a line"
    first = cells(notebook, "code")[0]
    assert first["metadata"].get("tags") == ["parameters"]
    lines = [x for x in source(first).splitlines() if x.strip() and not x.startswith("#")]
    unclear = [x for x in lines if not re.match(r"[a-z]\w* = .+  # \w+: \S", x)]
    assert not unclear


# ---- what leaves the house -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    "Built from a copy, so that no build folder is left behind"
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    for folder in ("mirkit", "nbs", "tests"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    command = [sys.executable, "-m", "pip", "wheel", str(copy), "--no-deps", "--no-build-isolation", "-w", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("mirkit-*.whl"))


def test_wheel_holds_the_package_and_nothing_else(wheel):
    files = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f for f in files if not re.match(r"mirkit-[^/]+\.dist-info/", f)}
    inside = {name(p) for p in (ROOT / "mirkit").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert shipped == inside
    assert "mirkit/py.typed" in shipped


def test_wheel_works_outside_the_project(wheel, tmp_path):
    "Without a settings.ini the defaults hold, relative to the current folder"
    code = f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
    code += "import mirkit; from mirkit.core.settings import find_settings, load_settings\n"
    code += "print(mirkit.__file__, find_settings(), load_settings().data_path, sep='\\n')"
    where, found, data = python(code, cwd=tmp_path).splitlines()
    assert wheel.name in where and found == "None" and data == str(tmp_path.resolve() / "data")


# ---- what is committed -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        pytest.skip("not a git checkout: nothing is committed")
    return [ROOT / f for f in done.stdout.split("\0") if f and (ROOT / f).is_file()]


def test_no_paths_of_one_machine(tracked):
    "Home folders and work folders of whoever ran a notebook last"
    machine = re.compile(r"(?<![\w.+/~-])(?:/(?:work|root|tmp|home/\w+|Users/\w+|var/folders)/|[A-Z]:\\+Users)[\w.\\-]")
    found = []
    for file in tracked:
        text = file.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{name(file)}: {text[m.start() : m.start() + 60]!r}" for m in machine.finditer(text)]
    assert not found


def locked() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def test_lock_covers_what_the_package_asks_for():
    "Each dependency is pinned to one version, from the registry, on any platform"
    pinned = {}
    for requirement in locked():
        (pin,) = requirement.specifier
        assert pin.operator == "==" and "+" not in pin.version and not requirement.url, str(requirement)
        pinned[canonicalize_name(requirement.name)] = pin.version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for wanted in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]]):
        version = pinned.get(canonicalize_name(wanted.name))
        assert version and wanted.specifier.contains(version), f"{wanted}: locked is {version}; run make lock"


def test_locked_versions_admit_every_python_we_support():
    "3.11.0 too: a package that refuses it would stop set-up on systems whose Python is not the newest 3.11"
    for requirement in locked():
        if requirement.marker is None:
            wanted = metadata(requirement.name).get("Requires-Python") or ""
            assert SpecifierSet(wanted).contains("3.11.0"), f"{requirement} asks for Python {wanted}"
