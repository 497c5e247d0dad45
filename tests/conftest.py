"""What every test shares: the folder of real recordings, and settings that leave the user's own files alone"""

import os
from pathlib import Path

import pytest

from mirkit.core.settings import Settings, load_settings, shared_path

# pytest-xdist runs one worker a core: one thread each, said before torch or numpy is imported, and inherited by children.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


@pytest.fixture(scope="session")
def root() -> Path:
    "The top folder of the project"
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    "The folder of real recordings and official checkpoints; a test that asks for it is skipped where there is none"
    path = shared_path()
    if path is None:
        pytest.skip(
            "no folder of shared recordings: name it in MIRKIT_SHARED, or put it beside the project as ../shared"
        )
    return path


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory):
    "Cache and reports in a temporary folder that all workers share, unless `make` has named other ones"
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    for name in ("cache", "reports"):
        os.environ.setdefault(f"MIRKIT_{name.upper()}_PATH", str(base / name))


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    "Settings with an empty cache and an empty reports folder, for one test"
    monkeypatch.setenv("MIRKIT_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("MIRKIT_REPORTS_PATH", str(tmp_path / "reports"))
    return load_settings()
