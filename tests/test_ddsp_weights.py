"The ddsp models that come with mirkit: what their files say, how small they are, and that they hear pitch and play it"

import numpy as np
import pytest
import torch

from mirkit.core.settings import shared_path
from mirkit.core.synth import render_track
from mirkit.core.tracks import labels_at, load_dataset
from mirkit.core.units import hz_to_midi
from mirkit.ddsp.inverse import InverseSynth
from mirkit.ddsp.nets import load_inverse
from mirkit.ddsp.notes import synthetic_notes
from mirkit.ddsp.weights import INSTRUMENT, find_weights, instrument_names, weights_card, weights_names

INVERSE = [n for n in weights_names() if n.startswith("ddsp-inv")]
HELD_OUT = {"Ani", "davidson", "jmzen"}  # singers of MIR-1K

inverse = pytest.mark.parametrize("name", INVERSE)


def right(f0, reference):  # Hz, MIDI with 0 where unvoiced
    voiced = reference > 0
    return float((np.abs(hz_to_midi(f0[voiced]) - reference[voiced]) < 0.5).mean())


def test_both_kinds_are_there():
    assert "ddsp-inv-tiny" in INVERSE and INSTRUMENT in instrument_names()


@pytest.mark.parametrize("name", weights_names())
def test_the_card_says_where_the_model_is_from(name):
    card = weights_card(name)
    assert card.startswith(f"# {name}\n") and all(
        word in card for word in ("icence", "parameters", "mirkit run train_ddsp")
    )


@inverse
def test_the_file_says_where_the_model_is_from(name):
    net, about = load_inverse(name)
    assert sum(p.numel() for p in net.parameters()) == 204_001
    assert find_weights(name).stat().st_size < 600_000
    assert 0 < about["threshold"] < 1 and about["licence"] and about["provenance"]["commit"]
    if name != "ddsp-inv-tiny":
        assert HELD_OUT <= set(about["held_out"])


@inverse
def test_pitch_of_synthetic_notes(name):
    "YIN is right on 66 % of these frames"
    synth, notes = InverseSynth.from_pretrained(name), synthetic_notes(0, 0, 12)
    audio = notes.render()
    scores = []
    for x, f0, voiced in zip(audio, notes.f0_hz[..., 0], notes.voiced[..., 0], strict=True):
        track = synth(x, 16000)
        reference = torch.where(voiced, 69 + 12 * torch.log2(f0 / 440), 0.0).numpy()
        scores.append(right(track.frequency[: len(f0)], reference))
    assert np.mean(scores) > 0.9, scores


@inverse
@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_pitch_of_synthetic_voices(name, gain):
    synth, scores = InverseSynth.from_pretrained(name), []
    for seed in (101, 103, 106, 107):
        audio, times, f0 = render_track(seed, 4.0)
        track = synth(gain * audio, 16000)
        reference = hz_to_midi(np.interp(track.time, times, f0)) * (np.interp(track.time, times, f0 > 0) == 1)
        scores.append(right(track.frequency, np.nan_to_num(reference)))
    assert np.mean(scores) > 0.85, scores


@inverse
def test_pitch_of_real_singers(name):
    if shared_path() is None:
        pytest.skip("the recordings of MIR-1K are not here")
    synth, scores = InverseSynth.from_pretrained(name), []
    for track in [t for t in load_dataset("mir-1k") if t.group in HELD_OUT][::12]:
        found = synth.file(track.audio, channel=track.channel)
        scores.append(right(found.frequency, np.nan_to_num(labels_at(track, found.time))))
    assert np.mean(scores) > 0.9, scores
