"""Scripts written for pesto-pitch, and what users hand to a tracker by mistake"""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import mirkit
from mirkit.pitch import dropin as pesto

SR = 16000
X = (0.3 * np.sin(2 * np.pi * 220 * np.arange(SR // 2) / SR)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    "A small model with random weights"
    from mirkit.pitch.config import make_config
    from mirkit.pitch.model import PestoModel, save_model

    torch.manual_seed(0)
    config = make_config(channels=(4, 4), prefilt_width=1.0)
    return str(save_model(PestoModel(config), tmp_path_factory.mktemp("model") / "tiny.safetensors"))


# ---- the README's four lines -----------------------------------------------------------------------------------------


def test_readme_example(model):
    x = torch.from_numpy(X)
    timesteps, pitch, confidence, activations = pesto.predict(x, SR, step_size=10.0, model_name=model)
    assert timesteps.shape == pitch.shape == confidence.shape == (51,) and activations.shape == (51, 384)
    assert timesteps.tolist() == [10.0 * i for i in range(51)]  # milliseconds
    assert (pitch > 0).all() and (0 <= confidence).all() and (confidence <= 1).all()
    assert all(
        isinstance(t, torch.Tensor) and t.dtype == torch.float32 for t in (timesteps, pitch, confidence, activations)
    )


def test_one_batch_of_one_and_of_three(model):
    whole = pesto.predict(X, SR, model_name=model)
    one = pesto.predict(X[None], SR, model_name=model)
    three = pesto.predict(np.stack([X, X[::-1], 0 * X]), SR, model_name=model)
    assert whole.pitch.shape == (51,) and one.pitch.shape == (1, 51) and three.pitch.shape == (3, 51)
    np.testing.assert_array_equal(one.pitch[0], whole.pitch)
    np.testing.assert_allclose(three.pitch[0], whole.pitch, rtol=1e-6)
    assert three.timesteps.shape == (51,) and three.activations.shape == (3, 51, 384) and three.volume.shape == (3, 51)
    assert (three.pitch[2] == 0).all() and (three.confidence[2] == 0).all()


def test_chunks_change_nothing_and_semitones_are_midi(model):
    whole = pesto.predict(X, SR, model_name=model)
    parts = pesto.predict(X, SR, model_name=model, num_chunks=5, inference_mode=False, no_grad=True)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))
    semitones = pesto.predict(X, SR, model_name=model, convert_to_freq=False).pitch
    np.testing.assert_allclose(440 * 2 ** ((semitones - 69) / 12), whole.pitch, rtol=1e-5)


def test_loaded_model(model):
    loaded = pesto.load_model(model, step_size=20.0, sampling_rate=SR).eval()
    pitch, confidence, volume, activations = loaded(torch.from_numpy(np.stack([X, X])))
    assert pitch.shape == confidence.shape == volume.shape == (2, 26) and activations.shape == (2, 26, 384)
    assert (loaded.hop_size, loaded.bins_per_semitone) == (20.0, 3)
    hz, *rest = loaded(X, sr=SR, convert_to_freq=True, return_activations=False)
    assert len(rest) == 2 and isinstance(hz, np.ndarray)
    np.testing.assert_allclose(hz, 440 * 2 ** ((pitch[0].numpy() - 69) / 12), rtol=1e-5)
    before = loaded.reduction
    loaded.reduction = "argmax"
    assert before == "alwa" and not np.allclose(loaded(X, SR)[0], pitch[0].numpy(), atol=1e-4)
    with pytest.raises(ValueError, match="reduction = 'meen'.*did you mean 'mean'"):
        loaded.reduction = "meen"
    with pytest.raises(ValueError, match="sr = None"):
        pesto.load_model(model, step_size=20.0)(X)


def test_streaming_model_remembers(model):
    live = pesto.load_model(model, step_size=10.0, sampling_rate=SR, streaming=True, max_batch_size=2)
    first = live(X[:1600])[0]
    live = pesto.load_model(model, step_size=10.0, sampling_rate=SR, streaming=True, max_batch_size=2)
    parts = [live(X[i : i + 160])[0] for i in range(0, 1600, 160)]
    np.testing.assert_allclose(np.concatenate(parts), first, atol=1e-3)
    assert live(np.zeros((2, 160), np.float32))[0].shape == (2, 1)
    with pytest.raises(ValueError, match="3 rows.*max_batch_size = 2"):
        live(np.zeros((3, 160), np.float32))


def test_files(model, tmp_path, monkeypatch):
    import soundfile as sf

    monkeypatch.chdir(tmp_path)
    sf.write("a.wav", X, SR, "FLOAT")  # random weights would hear 16 bits
    Path("b.wav").write_text("no sound")
    with pytest.warns(UserWarning, match="b.wav: b.wav: not a sound file"):
        pesto.predict_from_files(["a.wav", "b.wav"], model, output="out", export_format=("csv", "npz", "png"))
    assert sorted(f.name for f in Path("out").iterdir()) == ["a.f0.csv", "a.f0.npz", "a.f0.png"]
    table = np.loadtxt("out/a.f0.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(table[:, 1], pesto.predict(X, SR, model_name=model).pitch, rtol=1e-3)


# ---- the official checkpoint -----------------------------------------------------------------------------------------


def test_official_names_are_found_or_replaced_with_a_word(tmp_path, monkeypatch, model):
    monkeypatch.setenv("MIRKIT_PESTO_WEIGHTS", str(tmp_path))
    (tmp_path / "mir-1k_g7.ckpt").touch()
    assert pesto.find_model("mir-1k_g7") == tmp_path / "mir-1k_g7.ckpt"
    monkeypatch.setattr(pesto, "_weight_folders", list)
    monkeypatch.setattr(pesto, "find_weights", lambda name: Path(model))
    with pytest.warns(UserWarning, match="mir-1k_g7.*MIRKIT_PESTO_WEIGHTS.*of mirkit instead"):
        assert pesto.predict(X, SR).pitch.shape == (51,)

    def nothing(name):
        raise ValueError("unknown")

    monkeypatch.setattr(pesto, "find_weights", nothing)
    with pytest.raises(FileNotFoundError, match="mir-1k_g7.*MIRKIT_PESTO_WEIGHTS"):
        pesto.predict(X, SR)


@pytest.mark.parametrize("sound, sr, step", [("glide", 16000, 10), ("tone220", 44100, 10)])
def test_official_numbers(shared, sound, sr, step):
    with np.load(shared / "golden" / "pesto" / f"pesto_mir-1k_g7_{sound}_{sr}_{step}ms.npz") as golden:
        expected = {name: golden[name] for name in golden}
    x = torch.from_numpy(expected["audio"])
    found = pesto.predict(x, sr, step_size=float(step), convert_to_freq=False, compat="official")
    np.testing.assert_allclose(found.timesteps, 1000 * expected["timesteps"], atol=1e-3)
    np.testing.assert_allclose(found.pitch, expected["pitch"], atol=1e-3)
    np.testing.assert_allclose(found.confidence, expected["confidence"], atol=1e-4)
    np.testing.assert_allclose(found.volume, expected["volume"], rtol=1e-4)
    np.testing.assert_allclose(found.activations, expected["activations"], atol=1e-3)
    ours = pesto.predict(x, sr, step_size=float(step), convert_to_freq=False)
    sure = expected["confidence"] > 0.5
    assert np.median(np.abs(ours.pitch.numpy() - expected["pitch"])[sure]) < 0.02  # the rest of the shift, 1.1 cents


# ---- what users hand over by mistake ---------------------------------------------------------------------------------

WRONG = {
    "NaN": (np.where(np.arange(8000) == 5, np.nan, X), SR, "1 NaN or infinite samples"),
    "infinite": (np.where(np.arange(8000) < 2, np.inf, X), SR, "2 NaN or infinite samples"),
    "nothing": (X[:0], SR, r"shape \(0,\)"),
    "an empty batch": (np.zeros((0, 100), np.float32), SR, r"shape \(0, 100\)"),
    "three dimensions": (X[None, None], SR, r"shape \(1, 1, 8000\)"),
    "a number": (np.float32(0.1), SR, r"shape \(\)"),
    "complex": (X.astype(complex), SR, "dtype complex128"),
    "text": (np.array(["a", "b"]), SR, "dtype <U1"),
    "rate 0": (X, 0, "sr = 0"),
    "no rate": (X, None, "sr = None"),
    "a negative rate": (X, -16000, "sr = -16000"),
    "rate as text": (X, "16000", "sr = '16000'"),
    "rate NaN": (X, float("nan"), "sr = nan"),
}


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_audio_is_named(name, kind, model):
    x, sr, message = WRONG[name]
    if kind is torch.as_tensor:
        if name == "text":
            pytest.skip("torch holds no text")
        message = message.replace("dtype complex128", "dtype")
    for call in (
        lambda: mirkit.track_pitch(kind(x), sr, model=model),
        lambda: pesto.predict(kind(x), sr, model_name=model),
    ):
        with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
            warnings.simplefilter("error")
            call()


INTEGERS = {"int16": 32768, "int32": 2**31, "int8": 128, "int64": 2**63, "uint8": None}


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_scaled_by_their_range(dtype, model):
    scale = INTEGERS[dtype]
    x = np.rint(X * 127 + 128 if scale is None else X.astype(float) * (scale / 2)).astype(dtype)
    same = (x.astype(float) - 128) / 128 if scale is None else x / float(scale)
    found, expected = (mirkit.track_pitch(v, SR, model=model) for v in (x, same.astype(np.float32)))
    np.testing.assert_allclose(found.frequency, expected.frequency, rtol=1e-4)
    np.testing.assert_allclose(found.volume, expected.volume, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bool"])
def test_other_numbers(dtype, model):
    if dtype == "bool":
        with pytest.raises(ValueError, match="dtype bool"):
            mirkit.track_pitch(X > 0, SR, model=model)
    else:
        found, expected = (mirkit.track_pitch(v, SR, model=model) for v in (X.astype(dtype), X))
        np.testing.assert_allclose(found.volume, expected.volume, rtol=1e-2)


@pytest.mark.parametrize("sr", [8000, 11025, 22050, 96000, 192000])
def test_any_rate(sr, model):
    x = np.sin(2 * np.pi * 220 * np.arange(sr // 4) / sr).astype(np.float32)
    track = mirkit.track_pitch(x, sr, model=model)
    assert len(track.time) == pytest.approx(26, abs=1) and np.isfinite(track.frequency).all()


@pytest.mark.parametrize("n", [1, 2, 100, 1599])
def test_short_audio(n, model):
    track = mirkit.track_pitch(X[:n], SR, model=model)
    assert len(track.time) == n // 160 + 1 and np.isfinite(track.frequency).all()


def test_models_that_cannot_be_had(tmp_path, model):
    whole = Path(model).read_bytes()
    cases = {
        "cut.safetensors": whole[:3000],
        "empty.safetensors": b"",
        "text.safetensors": b"this is no model" * 100,
        "text.ckpt": b"this is no model" * 100,
        "zip.ckpt": b"PK\x03\x04" + bytes(1000),
        "empty.ckpt": b"",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            mirkit.track_pitch(X, SR, model=tmp_path / name)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="foreign.ckpt"):
        mirkit.track_pitch(X, SR, model=tmp_path / "foreign.ckpt")
    for name in ("nowhere.safetensors", "nowhere.ckpt", str(tmp_path)):
        with pytest.raises((FileNotFoundError, ValueError), match=Path(name).name):
            mirkit.track_pitch(X, SR, model=name)


def test_a_model_trained_again_is_read_again(tmp_path, model):
    from mirkit.pitch.model import load_model, save_model

    file = tmp_path / "m.safetensors"
    file.write_bytes(Path(model).read_bytes())
    before = pesto.predict(X, SR, model_name=file).activations
    changed = load_model(file)
    with torch.no_grad():
        changed.encoder.fc.weight.mul_(0.5)
    save_model(changed, file)
    assert not np.allclose(before, pesto.predict(X, SR, model_name=file).activations)
