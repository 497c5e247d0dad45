"""eval_key on a table that is small enough to score by hand: right numbers, kept answers, clear mistakes"""

import inspect
import json
from pathlib import Path

import mir_eval
import numpy as np
import pytest
from runs import validate

from mirkit.core.audio import save_audio
from mirkit.key.data import load_keys
from mirkit.key.estimator import KeyEstimator
from mirkit.key.names import KEYS, key_name
from mirkit.key.progressions import KeyTrack, render_progression
from mirkit.key.render import render_corpus
from mirkit.key.tonal import make_tonal_config, random_weights, save_tonal
from mirkit.lab.run import run_notebook

NOTEBOOK = Path(__file__).resolve().parents[1] / "nbs" / "eval_key.ipynb"
SR = 22050
TRUTH = {"one": "C major", "two": "A minor", "three": "F# minor", "four": "Eb major", "quiet": "D minor"}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    "Four cadences, two of them in one group, and a recording of nothing; spelt in several ways"
    folder = tmp_path_factory.mktemp("data")
    rows = ["audio,key,group,split"]
    spelt = {"one": "C", "two": "A:min", "three": "Gbm", "four": "D#maj", "quiet": "7A"}
    for seed, (name, key) in enumerate(TRUTH.items()):
        degrees = "I-IV-V-I" if "major" in key else "i-iv-V-i"
        x = render_progression(KEYS.index(key), degrees, seed=seed, seconds=5)
        save_audio(folder / f"{name}.wav", x * (name != "quiet"), SR)
        rows.append(f"{name}.wav,{spelt[name]},{'pair' if name in ('one', 'two') else name},test")
    save_audio(folder / "heard.wav", x, SR)
    (folder / "songs.csv").write_text("\n".join([*rows, "heard.wav,G major,,train"]) + "\n")
    return folder / "songs.csv"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    "What a training notebook leaves, with a network that has learnt nothing"
    folder = tmp_path_factory.mktemp("runs") / "a-run"
    (folder / "checkpoints").mkdir(parents=True)
    config = make_tonal_config()
    save_tonal(folder / "checkpoints" / "model.safetensors", random_weights(config, 3), config, data="nothing")
    return folder


def test_scores_are_those_of_mir_eval(table, run, settings):
    result = run_notebook(NOTEBOOK, {"models": [str(run)], "data": [str(table)], "examples": 1, "jobs": 1})
    assert result.ok, result.error
    estimator = KeyEstimator.from_pretrained(run / "checkpoints" / "model.safetensors")
    tracks = load_keys(table, splits=["test"])
    assert {t.id: key_name(t.key) for t in tracks} == TRUTH
    said = {t.id: estimator.file(t.audio).key for t in tracks}
    assert said["quiet"] is None
    by_hand = sum(mir_eval.key.weighted_score(TRUTH[i], key) for i, key in said.items() if key) / 5
    metrics = result.metrics
    assert metrics["a-run/songs/MIREX_mir_eval"] == pytest.approx(by_hand)
    assert metrics["a-run/songs/accuracy"] == pytest.approx(np.mean([said[i] == k for i, k in TRUTH.items()]))
    assert metrics["a-run/songs/answered"] == pytest.approx(0.8) and metrics["a-run/songs/no answer"] == 1
    assert metrics["Krumhansl/songs/accuracy"] >= 0.6 and metrics["always C major/songs/accuracy"] == pytest.approx(0.2)
    assert (
        metrics["Krumhansl/songs/MIREX_low"]
        <= metrics["Krumhansl/songs/MIREX"]
        <= metrics["Krumhansl/songs/MIREX_high"]
    )
    rows = (result.folder / "tracks.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 5 and not any("heard" in row for row in rows)
    assert any(row.startswith("a-run,songs,quiet,") and "silence" in row for row in rows)
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert (
        "data:audio" in page
        and "Right, nearly right, wrong: songs" in page
        and str(table.parent) not in page.split("<details")[0]
    )
    assert len(list((settings.cache_path / "keys").glob("*.npy"))) == 3 * 5  # answers are kept
    assert json.loads((result.folder / "config.json").read_text())["settings"]["data"]["songs"]["tracks"] == 5


def wraps_signature(stub):
    "A stand-in for render_corpus that still says which options that takes"
    stub.__signature__ = inspect.signature(render_corpus)
    return stub


@pytest.mark.parametrize(
    "values, texts",
    [
        ({"models": ["nobody"]}, ["models = 'nobody'", "the last finished runs"]),
        ({"data": ["nowhere"]}, ["data = 'nowhere'", "giantsteps-key"]),
        ({"data": ["giantstep-key"]}, ["did you mean 'giantsteps-key'"]),
        ({"data": []}, ["data = []"]),
        ({"data": "a.csv,a.csv"}, ["a.csv more than once"]),
        ({"splits": ["tests"]}, ["splits = 'tests'", "did you mean 'test'"]),
        ({"splits": ["val"]}, ["songs", "no track is of split val"]),
        ({"overlap": 2.0, "models": ["RUN"]}, ["overlap = 2.0"]),
        ({"compat": "stone", "models": ["RUN"]}, ["compat = 'stone'", "official"]),
        ({"compat": "official", "models": ["RUN"]}, ["official", "key-24", "stone12"]),
        ({"max_tracks": -1}, ["max_tracks = -1"]),
        ({"variants": 0}, ["variants = 0"]),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_mistakes_are_named_at_once(values, texts, table, run, settings):
    values = {"data": [str(table)], **values}
    values["models"] = [str(run) if m == "RUN" else m for m in values.get("models", [])]
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        validate(NOTEBOOK, **values)
    assert not [t for t in texts if t not in str(caught.value)], caught.value
    assert not settings.reports_path.exists()  # nothing was begun


def test_what_is_scored(table, run, settings):
    "Test tracks where there are splits, drawn by the seed; lists as a command line gives them"

    def chosen(**values) -> set[str]:
        return {t.id for t in validate(NOTEBOOK, **{"data": str(table), **values})["sources"]["songs"]}

    assert chosen() == set(TRUTH) and chosen(splits=[]) == {*TRUTH, "heard"} and chosen(splits="train") == {"heard"}
    draws = [frozenset(chosen(max_tracks=2, seed=seed)) for seed in range(5)]
    assert {len(d) for d in draws} == {2} and len(set(draws)) > 1 and draws[0] == chosen(max_tracks=2, seed=0)
    assert validate(NOTEBOOK, data=str(table), baseline=False, models=str(run))["systems"] == ["a-run"]


def test_tables_of_one_name_and_joined_sets(table, tmp_path, settings):
    "Two tables tracks.csv are told apart by their folders, in a list and joined; splits count in each"
    rows = [f"{table.parent / f'{name}.wav'},{key},{name},test" for name, key in TRUTH.items()]
    homes = [tmp_path / place / "tracks.csv" for place in ("first", "second")]
    for home, extra in zip(homes, ("", f"{table.parent / 'heard.wav'},G major,,train\n"), strict=True):
        home.parent.mkdir()
        home.write_text("audio,key,group,split\n" + "\n".join(rows) + "\n" + extra)
    sources = validate(NOTEBOOK, data=list(map(str, homes)))["sources"]
    assert {name: len(found) for name, found in sources.items()} == {"first": 5, "second": 5}
    joined = validate(NOTEBOOK, data="+".join(map(str, homes)))["sources"]["first+second"]
    assert len(joined) == 10 and {t.group.split("/")[0] for t in joined} == {"first", "second"}


def test_options_reach_joined_scores(monkeypatch, settings):
    "Soundfont, variants, seconds and splits go to each corpus, and to nothing else"
    asked = {}

    def render(name, **options):
        asked[name] = options
        return (KeyTrack(f"{name}-piece", NOTEBOOK, 0, "piece", "test"),)

    monkeypatch.setattr("mirkit.key.render.render_corpus", wraps_signature(render))
    values = {"soundfont": "TimGM6mb+FluidR3", "variants": 3, "seconds": 20.0}
    found = validate(NOTEBOOK, data=["pop909+wtc", "progressions"], baseline=True, **values)["sources"]
    assert [t.id for t in found["pop909+wtc"]] == ["pop909/pop909-piece", "wtc/wtc-piece"]
    assert len(asked) == 2
    for options in asked.values():
        assert options["soundfont"] == ["TimGM6mb", "FluidR3"] and options["splits"] == ("test",)
        assert options["variants"] == 3 and options["seconds"] == 20.0
    taught = {t.group for t in load_keys("progressions", splits=["train", "val"], draws=5)}
    heard = found["progressions"]
    assert sorted(t.key for t in heard) == list(range(24)) and not taught & {t.group for t in heard}
    assert heard.tracks[0].id in {t.id for t in load_keys("progressions", splits=["test"], draws=8)}  # train_key's test
