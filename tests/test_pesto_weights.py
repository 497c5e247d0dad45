"""The models that come with mirkit and were trained without pitch labels: what is in their files, and what they are good for"""

import json

import numpy as np
import pytest

from mirkit.core.synth import render_track
from mirkit.core.tracks import labels_at, load_dataset
from mirkit.core.units import hz_to_midi
from mirkit.core.weights import FOLDER
from mirkit.pitch.evaluate import hear
from mirkit.pitch.model import load_model, model_facts
from mirkit.pitch.tracker import PitchTracker
from mirkit.pitch.weights import find_weights

SIZES = {"pesto-cqt": 28_886, "pesto-vqt": 130_461}  # parameters of the encoder
HELD_OUT = {"Ani", "davidson", "jmzen"}  # singers of MIR-1K

shipped = pytest.mark.parametrize("name", SIZES)


def rpa(estimate, reference):
    "Share of voiced frames within half a semitone"
    voiced = reference > 0
    return float((np.abs(hz_to_midi(estimate[voiced]) - reference[voiced]) < 0.5).mean())


@shipped
def test_the_file_says_where_the_model_is_from(name):
    model, about = load_model(find_weights(name)), model_facts(find_weights(name))
    assert sum(p.numel() for p in model.encoder.parameters()) == SIZES[name]
    assert HELD_OUT <= set(about["held_out"]) and 0 < about["threshold"] < 1 and about["provenance"]["commit"]
    assert PitchTracker.from_pretrained(name).threshold == about["threshold"]
    card = find_weights(name).with_suffix(".md").read_text(encoding="utf-8")
    assert all(word in card for word in ("licence", "mirkit run train_pesto", about["provenance"]["commit"][:7]))


def test_all_of_them_are_small():
    files = [f for f in FOLDER.rglob("*") if f.is_file()]
    heavy = {"piano": 12_000_000, "ddsp": 4_000_000}  # bytes of a room; 1 MB elsewhere
    for room in {f.parent.name for f in files}:
        assert sum(f.stat().st_size for f in files if f.parent.name == room) < heavy.get(room, 1_000_000), room
    assert len(files) >= 6 and max(f.stat().st_size for f in files) < 6_500_000
    assert not any(b"/work" in f.read_bytes() or b"/root" in f.read_bytes() for f in files)


@shipped
def test_pitch_of_synthetic_voices(name):
    tracker, rates = PitchTracker.from_pretrained(name, step_size=20), []
    for seed in (101, 103, 106, 107):
        audio, times, f0 = render_track(seed, 4.0)
        track = tracker(audio, 16000)
        rates.append(
            rpa(
                track.frequency,
                hz_to_midi(np.interp(track.time, times, f0)) * (np.interp(track.time, times, f0 > 0) == 1),
            )
        )
    assert np.mean(rates) > 0.9, rates


@shipped
def test_the_level_does_not_matter(name):
    audio, _, _ = render_track(105, 4.0)
    tracker = PitchTracker.from_pretrained(name)
    loud, soft = tracker(audio, 16000), tracker(0.1 * audio, 16000)
    assert 0.2 < loud.voiced.mean() < 1 and (loud.voiced == soft.voiced).mean() > 0.998
    both = loud.voiced & soft.voiced
    assert np.abs(np.log2(soft.frequency[both] / loud.frequency[both])).max() * 1200 < 1


@shipped
def test_singers_that_it_has_not_heard(name, shared):
    tracks = [t for t in load_dataset("mir-1k", root=shared / "data" / "f0") if t.group in HELD_OUT]
    tracks = [t for t in tracks if t.audio.suffix == ".wav"][::3]
    tracker, rates, whole = PitchTracker.from_pretrained(name, step_size=20), [], []
    for track in tracks:
        for gain in (1.0, 0.1):
            audio, sr = hear(track)
            found = tracker(gain * audio, sr)
            label = labels_at(track, found.time)
            right = np.abs(hz_to_midi(np.maximum(found.frequency, 1)) - label) < 0.5
            correct = np.where(label > 0, right & found.voiced, ~found.voiced)[~np.isnan(label)]
            rates.append(rpa(found.frequency, label))
            whole.append(float(correct.mean()))
    assert np.mean(rates[::2]) > 0.92 and np.abs(np.subtract(rates[::2], rates[1::2])).max() < 1e-3
    assert np.mean(whole[::2]) > 0.8 and abs(np.mean(whole[::2]) - np.mean(whole[1::2])) < 1e-3


@shipped
def test_half_precision_loses_nothing_that_counts(name):
    from safetensors import safe_open

    with safe_open(find_weights(name), "np") as f:
        assert {f.get_tensor(k).dtype.name for k in f.keys() if k.startswith("encoder")} == {"float16"}
        assert json.loads(f.metadata()["config"])["bins_per_semitone"] == 3
