"The cards of the models that come with mirkit: each says what its weights have seen, under which licences, and whether a company may use them"

import re

import pytest

from mirkit import cli
from mirkit.core.weights import FOLDER, Shelf
from mirkit.ddsp.weights import SHELF as DDSP
from mirkit.key.weights import SHELF as KEY
from mirkit.piano.weights import SHELF as PIANO
from mirkit.pitch.weights import SHELF as PITCH

SHELVES = (PITCH, KEY, PIANO, DDSP)
FILES = sorted(FOLDER.glob("*/*.safetensors"))
PAIRS = [
    ("pitch", "pitch-plus", PITCH),
    ("key-24", "key-24-plus", KEY),
    ("piano-ov", "piano-ov-plus", PIANO),
]  # free, wider-trained
NOT_FREE = re.compile(r"\bNC\b|-NC-|non-commercial|none stated|no licence is stated|for research|permission")


def test_every_model_lies_on_a_shelf_and_has_a_card():
    assert {f.parent.name for f in FILES} == {s.room for s in SHELVES} == set(cli.ROOMS)
    assert [f.with_suffix(".md") for f in FILES] == sorted(FOLDER.glob("*/*.md"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_card_says_what_was_heard_and_under_which_licence(file):
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    assert card.startswith(f"# {file.stem}\n")
    sections = re.findall(r"^## Data and licences\n\n(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    assert len(sections) == 1 and sections[0].startswith("Commercial use: ")
    commercial, why = Shelf(file.parent.name).terms(file.stem)
    assert len(why) <= 160
    rows = [line.strip("| ").split("|") for line in sections[0].splitlines() if line.startswith("|")]
    assert len(rows) >= 3 and rows[0][-1].strip() == "licence" and {len(row) for row in rows} == {3}
    licences = [row[-1].strip() for row in rows[2:]]
    assert all(licences)
    assert any(map(NOT_FREE.search, licences)) == (commercial != "yes"), licences


@pytest.mark.parametrize("shelf", SHELVES, ids=lambda s: s.room)
def test_a_company_may_use_what_is_used_unasked(shelf):
    for name in (shelf.default, *shelf.also):
        assert shelf.terms(name).commercial == "yes", name


@pytest.mark.parametrize("free, plus, shelf", PAIRS)
def test_both_cards_of_a_pair_show_both_scores(free, plus, shelf):
    "The same rows, but for bold letters"
    assert free == shelf.default and shelf.terms(plus).commercial != "yes"
    tables = []
    for name in (free, plus):
        rows = [row.replace("*", "").replace("`", "") for row in shelf.card(name).splitlines() if row.startswith("|")]
        tables.append({row for row in rows if row.split("|")[1].strip() in (free, plus) and len(row.split("|")) > 3})
    assert tables[0] == tables[1] and len(tables[0]) == 2


def test_the_command_lists_them(capsys):
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == len(FILES)
    for shelf in SHELVES:
        for name in shelf.names():
            (line,) = [x for x in lines if x.split()[:2] == [shelf.room, name]]
            commercial, why = shelf.terms(name)
            chosen = ["default"] if name in (shelf.default, *shelf.also) else []
            assert line.split() == [shelf.room, name, *chosen, commercial, *why.split()]
    assert cli.main(["models", "piano-ov"]) == 0 and capsys.readouterr().out.startswith("# piano-ov\n")


@pytest.mark.parametrize("free, plus, shelf", PAIRS)
def test_help_tells_who_may_use_which(free, plus, shelf, capsys):
    with pytest.raises(SystemExit):
        cli.main([shelf.room, "--help"])
    said = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    assert all(name in said for name in (free, plus)) and "companies" in said
    assert ("non-commercial" if shelf.terms(plus).commercial == "no" else "no licence") in said
