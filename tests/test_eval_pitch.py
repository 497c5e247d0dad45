"""eval_pitch on a data set that is small enough to score by hand: right numbers, held-out groups, clear mistakes"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mir_eval import melody
from runs import validate

from mirkit.core.audio import load, save_audio
from mirkit.core.results import PitchTrack
from mirkit.lab.run import run_notebook
from mirkit.pitch.config import make_config
from mirkit.pitch.evaluate import mix, pyin_track
from mirkit.pitch.model import PestoModel, load_model, save_model
from mirkit.pitch.peers import PEERS
from mirkit.pitch.tracker import PitchTracker

NOTEBOOK = Path(__file__).resolve().parents[1] / "nbs" / "eval_pitch.ipynb"
SR = 16000
THRESHOLD = 0.46  # in the middle of that network's confidences


def tone(low: float, high: float, seconds: float = 2.0) -> tuple[np.ndarray, np.ndarray]:  # audio, Hz every 20 ms
    "A glide with three harmonics, silent in its last quarter"
    t = np.arange(int(seconds * SR)) / SR
    f0 = np.where(t < 0.75 * seconds, low * (high / low) ** (t / seconds), 0)
    phase = 2 * np.pi * np.cumsum(f0) / SR
    x = sum(np.sin(k * phase) / k for k in (1, 2, 3)) * (f0 > 0)
    return 0.1 * x.astype(np.float32), np.append(f0[::320], 0.0)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    "Two recordings of Anna, one of Bert and a duet of his: his voice is on the left"
    folder = tmp_path_factory.mktemp("data") / "songs"
    folder.mkdir()
    rows = ["audio,annotation,split,group,channel"]
    for name, group, low, high in (("one", "anna", 200, 300), ("two", "anna", 300, 310), ("solo", "bert", 150, 100)):
        x, hz = tone(low, high)
        write(folder, name, x, hz)
        rows.append(f"{name}.wav,{name}.csv,,{group},")
    x, hz = tone(220, 330)
    write(folder, "duet", np.stack([x, tone(500, 490)[0]]), hz)
    rows.append("duet.wav,duet.csv,,bert,left")
    (folder / "tracks.csv").write_text("\n".join(rows) + "\n")
    return folder


def write(folder: Path, name: str, x: np.ndarray, hz: np.ndarray) -> None:
    save_audio(folder / f"{name}.wav", x, SR)
    (folder / f"{name}.csv").write_text("".join(f"{0.02 * i:.6f},{f:.6f}\n" for i, f in enumerate(hz)))


@pytest.fixture(scope="module")
def run(songs) -> Path:
    "What train_pesto leaves, with a network that has learnt nothing yet: trained on Anna, tested on Bert"
    folder = songs.parent / "a-run"
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    model = PestoModel(make_config())
    model.shift.fill_(77.5)  # it always says the same note: one that Bert happens to sing
    save_model(model, folder / "checkpoints" / "model.safetensors")
    settings = {"data": str(songs), "held_out": ["bert"]}
    (folder / "config.json").write_text(json.dumps({"settings": settings}))
    return folder


def by_hand(folder: Path, answers: dict) -> dict[str, float]:  # name -> PitchTrack; percent
    "mir_eval on all frames of the recordings as one"
    ref = np.concatenate([np.loadtxt(folder / f"{name}.csv", delimiter=",")[:, 1] for name in answers])
    est = np.concatenate([a.frequency for a in answers.values()])
    sure = np.concatenate([a.confidence for a in answers.values()]) >= THRESHOLD
    ref_cent, est_cent = (melody.hz2cents(v) for v in (ref, est))
    arrays = (ref > 0).astype(float), ref_cent, ((est > 0) & sure).astype(float), est_cent
    rates = {
        "RPA": melody.raw_pitch_accuracy(*arrays),
        "RCA": melody.raw_chroma_accuracy(*arrays),
        "OA": melody.overall_accuracy(*arrays),
        "VFA": melody.voicing_false_alarm(arrays[0], arrays[2]),
    }
    both = (ref > 0) & (est > 0)
    return {k: 100 * v for k, v in rates.items()} | {"median_cents": np.median(np.abs(ref_cent - est_cent)[both])}


def test_numbers_are_those_of_mir_eval(songs, run, settings):
    "Bert's recordings only, as the run was trained on Anna's; the duet's right side is mixed in at 6 dB"
    values = {"models": [str(run)], "data": [str(songs)], "conditions": ["clean", "mix 6", "white 20"]}
    result = run_notebook(NOTEBOOK, values | {"threshold": THRESHOLD, "examples": 1, "viterbi": "both", "levels": 1})
    assert result.ok, result.error
    metrics = result.metrics
    tracker, follower = (
        PitchTracker(load_model(run / "checkpoints" / "model.safetensors"), 20.0, viterbi=v) for v in (False, True)
    )
    sounds = {"solo": load(songs / "solo.wav")[0], "duet": load(songs / "duet.wav", channel="left")[0]}
    mixed = {"duet": mix(sounds["duet"], load(songs / "duet.wav", channel="right")[0], 6.0)}
    for system, condition, heard, track in (
        ("a-run", "clean", sounds, tracker),
        ("a-run", "mix 6", mixed, tracker),
        ("a-run, Viterbi", "mix 6", mixed, follower),
        ("pYIN", "clean", sounds, pyin_track),
    ):
        expected = by_hand(songs, {name: track(x, SR) for name, x in heard.items()})
        for name, value in expected.items():
            assert metrics[f"{system}/songs/{condition}/{name}"] == pytest.approx(value, abs=0.01), (system, condition)
        assert metrics[f"{system}/songs/{condition}/tracks"] == len(heard)
    assert 2 < metrics["a-run/songs/clean/RPA"] < 30 and 10 < metrics["a-run/songs/clean/VR"] < 99  # neither is idle
    assert metrics["pYIN/songs/clean/RPA"] > 90 > metrics["pYIN/songs/mix 6/RPA_low"]
    rows = (result.folder / "tracks.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * (2 + 1 + 2) and not any("anna" in row for row in rows)
    assert metrics["a-run/levels/flips"] < 5  # it hears the same picture, whatever the level
    table = (result.folder / "table.md").read_text(encoding="utf-8").splitlines()
    assert [row.split(" | ")[0] for row in table] == ["| ", "| ---", "| a-run", "| a-run, Viterbi", "| pYIN"]
    assert f"{metrics['pYIN/songs/mix 6/RPA']:.1f}" in table[-1]
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "mix 6 is heard on 1 of 2 recordings" in page and "data:audio" in page


def test_peers_are_scored_at_their_own_thresholds(songs, settings, monkeypatch):
    "pYIN asked as a peer, in a process of its own, does as well as pYIN the baseline"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    values = {"data": [str(songs)], "groups": ["bert"], "conditions": ["clean"], "peers": "pyin", "examples": 0}
    result = run_notebook(NOTEBOOK, values)
    assert result.ok, result.error
    peer, baseline = ({k: result.metrics[f"{s}/songs/clean/{k}"] for k in ("RPA", "OA")} for s in ("pyin", "pYIN"))
    assert min(*peer.values(), *baseline.values()) > 90
    assert all(abs(peer[k] - baseline[k]) < 4 for k in peer)
    assert result.metrics["pyin/songs/clean/threshold"] == PEERS["pyin"].threshold
    assert "50–2000 Hz; no training" in (result.folder / "report.html").read_text(encoding="utf-8")


def test_inverse_synthesisers_are_scored_beside_trackers(songs, settings, tmp_path):
    "A network that has learnt nothing: its frames lie 32 ms apart, between them a straight line in MIDI"
    from mirkit.ddsp.inverse import InverseSynth
    from mirkit.ddsp.nets import InverseConfig, InverseNet, save_inverse

    torch.manual_seed(0)
    net, about = InverseNet(InverseConfig.preset("ci")), {"data": str(songs), "held_out": ["bert"], "threshold": 0.31}
    file = save_inverse(tmp_path / "inv.safetensors", net, about)
    values = {
        "models": [str(file)],
        "data": [str(songs)],
        "conditions": ["clean"],
        "threshold": THRESHOLD,
        "examples": 1,
    }
    result = run_notebook(NOTEBOOK, values)
    assert result.ok, result.error
    synth, answers = InverseSynth.from_pretrained(file), {}
    assert synth.threshold == 0.31
    for name, channel in (("solo", "mix"), ("duet", "left")):
        x, sr = load(songs / f"{name}.wav", channel=channel)
        track, times = synth(x, sr), np.arange(101) * 0.02
        hz, confidence = (np.interp(times, track.time, v) for v in (track.pitch, track.confidence))
        answers[name] = PitchTrack(times, 440 * 2 ** ((hz - 69) / 12), confidence)
    for name, value in by_hand(songs, answers).items():
        assert result.metrics[f"inv/songs/clean/{name}"] == pytest.approx(value, abs=0.01), name


@pytest.mark.parametrize(
    "values, texts",
    [
        ({"models": ["nobody"]}, ["models = 'nobody'", "the last finished runs"]),
        ({"baseline": False}, ["models = []", "nothing to evaluate"]),
        ({"peers": ["swiftf0"]}, ["peer = 'swiftf0'", "did you mean 'swift-f0'"]),
        ({"data": ["nowhere"]}, ["data = 'nowhere'", "mir-1k"]),
        ({"data": []}, ["data = []"]),
        ({"data": "songs,songs"}, ["data", "songs more than once"]),
        ({"conditions": ["clean", "pnik 10"]}, ["condition = 'pnik 10'", "'pink 10'"]),
        ({"conditions": []}, ["conditions = []"]),
        ({"conditions": ["mix 0"], "groups": ["anna"]}, ["conditions = 'mix 0'", "channel of a stereo file"]),
        ({"groups": ["berta"]}, ["groups = 'berta'", "did you mean 'bert'", "anna"]),
        ({"threshold": 2}, ["threshold = 2", "between 0 and 1"]),
        ({"step_size": 0}, ["step_size = 0"]),
        ({"max_tracks": -1}, ["max_tracks = -1"]),
        ({"levels": -1}, ["levels = -1"]),
        ({"viterbi": "maybe"}, ["viterbi = 'maybe'", "both"]),
        ({"instruments": "tubas"}, ["sets = 'tubas'", "tinysol", "sweep"]),
        ({"device": "tpu", "models": ["RUN"]}, ["device = 'tpu'", "cuda"]),
        (
            {"models": ["RUN"], "groups": ["anna"]},
            ["groups = ['anna']", "a-run on all but bert", "held_out_only = False"],
        ),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_mistakes_are_named_at_once(values, texts, songs, run, settings, monkeypatch):
    monkeypatch.setenv("MIRKIT_DATA_PATH", str(songs.parent))
    values = {"data": ["songs"], **values}
    values["models"] = [str(run) if m == "RUN" else m for m in values.get("models", [])]
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        validate(NOTEBOOK, **values)
    assert not [t for t in texts if t not in str(caught.value)], caught.value
    assert not settings.reports_path.exists()  # nothing was begun


def test_which_recordings_are_scored(songs, run, settings, monkeypatch, tmp_path):
    "Held-out groups unless asked otherwise, an equal share of each group, and what papermill's command line can say"
    monkeypatch.setenv("MIRKIT_DATA_PATH", str(songs.parent))

    def chosen(**values) -> list[str]:
        return [t.id for t in validate(NOTEBOOK, **values)["tracks"]["songs"]]

    everything = ["one", "two", "solo", "duet [left]"]
    assert chosen(data="songs") == everything
    assert chosen(data=[str(songs)], models=[str(run)]) == everything[2:]
    assert chosen(data=[str(songs)], models=[str(run)], held_out_only=False) == everything
    assert chosen(data="songs", groups="anna") == everything[:2]
    for seed in range(3):
        assert len({i in everything[2:] for i in chosen(data="songs", max_tracks=2, seed=seed)}) == 2
    naive = shutil.copytree(run, tmp_path / "naive")  # such a split holds out what it trains on: nothing is new
    (naive / "config.json").write_text(json.dumps({"settings": {"data": str(songs), "held_out": ["anna", "bert"]}}))
    with pytest.raises(ValueError, match="naive on all but none"):
        chosen(data=[str(songs)], models=[str(naive)])
