"""What a browser makes of our pages, opened from disk: figures drawn, search finds, nothing fetched, nothing fails"""

import json
from pathlib import Path

import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mirkit.lab.html import build_site, main, notebook_to_html, readme_from_index, site_pages
from mirkit.lab.report import Report

TIME = np.arange(0, 2, 0.01)


def figure() -> go.Figure:
    f0 = go.Scatter(x=TIME, y=220 * 2 ** (TIME / 2), name="</script> & f0")
    return go.Figure(f0, layout={"height": 300, "template": "plotly_white"})


def notebook(path: Path, *cells) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def drawn() -> dict:
    "An output as Jupyter stores a plotly figure"
    return new_output("display_data", {"application/vnd.plotly.v1+json": json.loads(figure().to_json())})


@pytest.fixture
def nbs(tmp_path) -> Path:
    top = tmp_path / "nbs"
    units = "#| export\ndef hz_to_midi(f):\n    'Fractional semitones above C minus one'\n    return f"
    notebook(
        top / "core" / "02_units.ipynb",
        new_markdown_cell("# units\n\n> Hz and MIDI"),
        new_code_cell("#| default_exp core.units"),
        new_markdown_cell(
            "## From Hz\n\n$$p = 69 + 12 \\log_2 \\frac{f}{440}$$ Used by [training](../train_pesto.ipynb#Losses)."
        ),
        new_code_cell(units),
        new_code_cell("#| hide\nimport zymurgy"),
        new_code_cell("figure()", outputs=[drawn()]),
    )
    loss = new_markdown_cell("## Losses\n\nEquivariance.\n\n## Result\n\nGood.\n\n## Source\n\nA paper.")
    notebook(
        top / "train_pesto.ipynb",
        new_markdown_cell("# Train PESTO\n\n> From audio to a report"),
        loss,
        new_code_cell("a, b", outputs=[drawn(), drawn()]),
    )
    notebook(top / ".ipynb_checkpoints" / "old.ipynb", new_markdown_cell("# old"))
    return top


def figures(page) -> int:
    page.wait_for_function("[...document.querySelectorAll('.plotly-figure')].every(f => f.querySelector('.main-svg'))")
    return page.locator(".plotly-figure").count()


def test_site_draws_searches_and_links(page, nbs, tmp_path):
    site = tmp_path / "site"
    assert build_site(nbs, site) == []
    page.goto((site / "core/02_units.html").as_uri())
    assert figures(page) == 1 and page.locator("math").count() == 1
    assert page.locator(".celltag_exported").inner_text().startswith("def hz_to_midi")
    assert page.locator('nav [aria-current="page"]').inner_text() == "units"
    assert "From audio to a report" in page.locator("nav").text_content()
    page.keyboard.press("/")
    for query, hit in {
        "SEMITONES above": "From Hz",
        "hz_to_m": "From Hz",
        "equivariance": "Losses",
        "zymurgy": "nothing found",
    }.items():
        page.locator("#search").fill(query)
        assert hit in page.locator("#hits li").first.inner_text(), query
    page.locator("#search").fill("equivariance")
    page.keyboard.press("Enter")
    page.wait_for_url("**/train_pesto.html#Losses")
    assert figures(page) == 2
    page.locator('a[rel="prev"]').click()
    page.wait_for_url("**/core/02_units.html")
    page.get_by_role("link", name="training").click()
    page.wait_for_url("**/train_pesto.html#Losses")
    assert len(list(site.rglob("plotly.min.js"))) == 1 and (site / "core/02_units.html").stat().st_size < 30_000


def test_site_fits_a_phone(page, nbs, tmp_path):
    build_site(nbs, tmp_path / "site")
    page.set_viewport_size({"width": 380, "height": 700})
    page.goto((tmp_path / "site/train_pesto.html").as_uri())
    assert figures(page) == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not page.locator("#search").is_visible()
    page.locator("label.menu").click()
    page.locator("#search").fill("hz_to_midi")
    assert page.locator("#hits a").first.is_visible()


def test_site_command_reports_broken_links(nbs, tmp_path, capsys):
    notebook(nbs / "core" / "03_bad.ipynb", new_markdown_cell("# bad\n\nSee [that](../nosuch.ipynb)."))
    assert main(["site", "--nbs", str(nbs), "--out", str(tmp_path / "site")]) == 0
    said = capsys.readouterr()
    assert "core/03_bad: ../nosuch.ipynb" in said.err and said.out.strip().endswith("index.html")
    assert main(["site", "--nbs", str(tmp_path / "none"), "--out", str(tmp_path / "site")]) == 2


def test_one_notebook_is_one_file(page, nbs, tmp_path):
    out = notebook_to_html(nbs / "train_pesto.ipynb", tmp_path / "far" / "page.html", show_code=False)
    (nbs / "train_pesto.ipynb").unlink()
    page.goto(out.as_uri())
    assert figures(page) == 2 and page.title() == "Train PESTO"
    assert page.locator(".input_area").count() == 0
    assert page.locator(".toc a").all_inner_texts() == ["Losses", "Result", "Source"]


def test_widgets_and_hostile_outputs(page, tmp_path):
    "Widgets leave a sentence; scripts of Jupyter's own displays are not run; HTML of results is shown"
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "VBox()"}
    script = {"application/javascript": "require(['nosuch'])", "text/plain": "Javascript"}
    table = {"text/html": "<table><tr><td>95.1</td></tr></table>", "text/plain": "95.1"}
    outputs = [new_output("display_data", data) for data in (widget, script, table, {"text/latex": "$x^2$"})]
    outputs.append(new_output("stream", name="stderr", text="\x1b[31mred\x1b[0m <b>"))
    page.goto(
        notebook_to_html(
            notebook(tmp_path / "a.ipynb", new_code_cell("x", outputs=outputs)), tmp_path / "a.html"
        ).as_uri()
    )
    text = page.locator("main").inner_text()
    assert "JupyterLab" in text and "95.1" in text and "red <b>" in text and "VBox" not in text
    assert page.locator("math").count() == 1


def test_report_in_a_browser(page, tmp_path):
    "Verdict first; two players that do not disturb each other; hostile names stay text"
    report = Report("Run <1>", "subtitle")
    report.heading("Tracks & <more>")
    sound = 0.1 * np.sin(2 * np.pi * 220 * np.arange(16_000) / 8000)
    report.player(figure().add_hline(300), sound, 8000, "first")
    report.player(figure(), sound, 8000, "second")
    report.figure(figure())
    report.text("<img src=x onerror='throw 1'> $x_1$")
    report.table([{"track": "<script>throw 2</script>", "RPA": 95.04838}])
    report.verdict([{"model": "ours", "RPA": 95.0}], "**Good.**")
    page.goto(report.save(tmp_path / "report.html").as_uri())
    assert figures(page) == 3
    text = page.locator("main").inner_text()
    assert text.index("Good.") < text.index("Tracks & <more>") and "<script>throw 2" in text and "95.05" in text
    page.evaluate("document.querySelectorAll('audio')[1].currentTime = 1")
    cursor = "i => document.querySelectorAll('.plotly-figure')[i].layout.shapes[0].x0"
    page.wait_for_function(f"({cursor})(1) == 1")
    assert (
        page.evaluate(cursor, 0) == 0
        and page.evaluate("document.querySelectorAll('.plotly-figure')[0].layout.shapes[1].y0") == 300
    )


def test_readme_keeps_images_beside_the_notebook(tmp_path):
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    image = new_output("display_data", {"image/png": dot, "text/plain": "<Figure>"})
    index = notebook(
        tmp_path / "nbs" / "index.ipynb",
        new_markdown_cell("# m\n\n> s"),
        new_code_cell("plot()", outputs=[image, drawn()]),
    )
    text = readme_from_index(index, tmp_path / "README.md").read_text()
    (link,) = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert link == "nbs/index_files/index_1_0.png" and (tmp_path / link).read_bytes().startswith(b"\x89PNG")
    assert "plotly" not in text and text.startswith("<!-- Written from nbs/index.ipynb")


def test_pages_of_this_project(root):
    "Every notebook has a title and a sentence: navigation and catalogue are made of them"
    bare = [p.name for p in site_pages(root / "nbs") if not (p.title and p.sentence)]
    assert not bare
