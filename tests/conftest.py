"""What every test shares: the folder of real recordings, and settings that leave the user's own files alone"""

import os
import shutil
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
def here(tmp_path, monkeypatch) -> Path:
    "An empty folder, the current one"
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    "Settings with an empty cache and an empty reports folder, for one test"
    monkeypatch.setenv("MIRKIT_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("MIRKIT_REPORTS_PATH", str(tmp_path / "reports"))
    return load_settings()


@pytest.fixture(scope="module")
def browser():
    "A headless Chromium; tests that ask for it are skipped where there is none"
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no chromium (apt-get install chromium, or name it in CHROMIUM)")
    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    "A page that may ask the network for nothing and raise no error: the test fails at its end if it did"
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page, trouble = context.new_page(), []
    local = ("file:", "data:", "blob:", "about:")
    page.on("request", lambda request: None if request.url.startswith(local) else trouble.append(request.url))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert not trouble
