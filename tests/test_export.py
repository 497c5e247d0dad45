"""Exported pitch models as another program meets them: the file alone, the command, missing tools, faults"""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from mirkit import cli
from mirkit.pitch import export
from mirkit.pitch.config import make_config
from mirkit.pitch.model import PestoModel, save_model
from mirkit.pitch.tracker import PitchTracker

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install mirkit[export])")
SR, HOP = 16000, 160


@pytest.fixture(scope="module")
def model() -> PestoModel:
    torch.manual_seed(0)
    return PestoModel(make_config(gamma=7.0, span=60, channels=(8, 6, 3))).eval()


@pytest.fixture(scope="module")
def model_file(model, tmp_path_factory):
    return save_model(model, tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for name in ("tiny.onnx", "tiny.pt"):
        export.export_model(model, folder / name, SR)
    return folder


def test_the_file_needs_nothing_of_mirkit(exported):
    "numpy and ONNX Runtime in a fresh interpreter: shapes, names, facts, a state for each stream"
    code = """
import json, sys, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["mirkit"])
state = np.zeros((4, facts["state_size"]), np.float32)
for hops in (1, 3):
    audio = np.random.default_rng(hops).standard_normal((4, hops * facts["hop_length"])).astype(np.float32)
    *answers, state = session.run(None, {"audio": audio, "state": state})
assert not {"mirkit", "torch"} & set(sys.modules)
print(json.dumps([[o.name for o in session.get_outputs()], [list(a.shape) for a in answers], list(state.shape), facts]))
"""
    path = str(exported / "tiny.onnx")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=exported)
    assert done.returncode == 0, done.stderr
    names, shapes, state, facts = json.loads(done.stdout)
    assert names == ["pitch", "confidence", "volume", "activations", "state_out"]
    assert shapes == [[4, 3]] * 3 + [[4, 3, 384]] and state == [4, facts["state_size"]]
    assert (facts["sr"], facts["hop_length"], facts["latency"]) == (SR, HOP, 0.07)
    assert facts["config"]["gamma"] == 7.0 and facts["version"]


def test_both_formats_say_the_same(exported):
    audio = export.glides(2, 50 * HOP, SR)
    files = [export.ExportedModel(exported / name, streams=2) for name in ("tiny.onnx", "tiny.pt")]
    for part in np.split(audio, [HOP, 4 * HOP, 20 * HOP], 1):
        onnx, script = (file(part) for file in files)
        assert np.allclose(onnx["activations"], script["activations"], atol=1e-4)
    files[0].reset()
    assert not files[0].state.any() and np.allclose(files[0](part * 0)["confidence"], 0)


def test_no_folder_of_ours_is_told(exported, root):
    "Nodes carry no stack traces; the file is small"
    assert str(root).encode() not in (exported / "tiny.onnx").read_bytes()
    assert all((exported / n).stat().st_size < 2_000_000 for n in ("tiny.onnx", "tiny.pt"))


def test_a_model_with_harmonics(tmp_path):
    "Several banks of bins"
    torch.manual_seed(1)
    config = make_config(gamma=7.0, span=48, channels=(6, 3), harmonics=(1.0, 2.0))
    facts = export.export_model(PestoModel(config).eval(), tmp_path / "a.onnx", 22050, 5.0)
    assert facts["difference"]["activations"] < 5e-4


def test_a_salience_net_says_what_the_tracker_says(tmp_path):
    "From a file, hop by hop, without what came before the first frame; the layers' look-ahead is part of the latency"
    torch.manual_seed(1)
    layers = ((8, 3, (0.0,)), (8, 1, (-40.0, 0.0, 20.0)), (8, 5, (0.0,)), (6, 1, (-20.0, 0.0)))
    model = PestoModel(make_config("pitch", layers=layers, foreground=0.0)).eval()
    with torch.no_grad():
        model.encoder.out.weight.mul_(8)
    facts = export.export_model(model, tmp_path / "a.onnx", SR)
    whole = export.StreamingPitch(model, SR)
    assert facts["latency"] == pytest.approx((whole.transform.delay + 2 * HOP) / SR)
    audio = export.glides(1, 100 * HOP, SR)[0]
    track = PitchTracker(model)(audio, SR, activations=True)
    file = export.ExportedModel(tmp_path / "a.onnx")
    parts = [file(part[None]) for part in np.split(audio, 100)]
    late = round(facts["latency"] * SR / HOP) - 1
    for name in ("activations", "confidence"):
        answers = np.concatenate([p[name][0] for p in parts])[late:]
        assert np.abs(answers[20:70] - getattr(track, name)[20:70]).max() < 1e-4, name


def test_official_checkpoint_offline(shared, tmp_path):
    "A file made for whole recordings gives the goldens, within what the official shift by whole bins leaves"
    from mirkit.pitch.checkpoint import read_model

    official = read_model(shared / "checkpoints/pesto/mir-1k_g7.ckpt")
    with np.load(shared / "golden/pesto/mini/pesto_mir-1k_g7_glide_48000_20ms.npz") as golden:
        path = tmp_path / "whole.onnx"
        export.export_model(official, path, 48000, 20.0, whole=True, compat="official")
        answers = export.ExportedModel(path)(golden["audio"].reshape(1, -1))
        assert np.abs(answers["pitch"][0] - golden["pitch"].ravel()).max() < 1e-3
        assert np.abs(answers["activations"][0] - golden["activations"].reshape(-1, 384)).max() < 1e-3
        assert np.abs(answers["confidence"][0] - golden["confidence"].ravel()).max() < 1e-4


# ---- the command -----------------------------------------------------------------------------------------------------


def test_command(model_file, tmp_path, capsys):
    out = tmp_path / "out.pt"
    words = ["export", str(model_file), "-o", str(out), "--sr", str(SR), "--step-size", "5", "--batch", "2"]
    assert cli.main([*words, "--chunk", "240", "--latency", "20"]) == 0
    assert "latency 20 ms" in capsys.readouterr().out
    facts = export.ExportedModel(out, streams=2).facts
    assert facts | {"hop_length": 80, "chunk": 240, "batch": 2, "model": "tiny", "step_size": 5.0} == facts
    before = out.read_bytes()
    assert cli.main(words) == 2 and "--force" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert cli.main([*words, "--force"]) == 0 and out.read_bytes() != before


@pytest.mark.parametrize(
    "words, message",
    [
        (["-o", "a.onnx", "--chunk", "100"], "chunk = 100"),
        (["-o", "a.onnx", "--batch", "many"], "batch = 'many'"),
        (["-o", "a.onnx", "--batch", "0"], "batch = 0"),
        (["-o", "a.txt"], "a.txt"),
        (["-o", "nosuch/a.pt"], "nosuch"),
        (["-o", "a.onnx", "--sr", "1000"], "sr = 1000"),
        (["-o", "a.onnx", "--step-size", "0"], "step_size = 0"),
        (["-o", "a.onnx", "--mirror", "2"], "mirror = 2"),
        (["-o", "a.onnx", "-r", "median"], "reduction = 'median'"),
        (["-o", "a.onnx", "--compat", "official"], "official checkpoint"),
    ],
)
def test_mistakes_are_named_in_one_line(words, message, model_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(model_file), "--sr", str(SR), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mirkit: error: ") and message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unknown_model(tmp_path, capsys):
    assert cli.main(["export", "pesto-vqtt", "-o", str(tmp_path / "a.onnx")]) == 2
    assert "pesto-vqtt" in capsys.readouterr().err


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_tools_are_named(package, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(export.ExportError, match=rf"{package}.*pip install mirkit\[export\]"):
        export.export_model(model, tmp_path / "a.onnx", SR)
    assert not list(tmp_path.iterdir())


def test_a_file_that_disagrees_is_not_left(model, tmp_path, monkeypatch):
    "Nor does it replace the one that was there"
    (tmp_path / "a.pt").write_bytes(b"before")
    write = export._write_torchscript

    def wrong(module, example, path, facts):
        torch.manual_seed(1)
        write(export.StreamingPitch(PestoModel(model.config).eval(), SR), example, path, facts)

    monkeypatch.setattr(export, "_write_torchscript", wrong)
    with pytest.raises(export.ExportError, match="off by"):
        export.export_model(model, tmp_path / "a.pt", SR, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"] and (tmp_path / "a.pt").read_bytes() == b"before"


def test_foreign_and_damaged_files(exported, tmp_path):
    for name in ("tiny.onnx", "tiny.pt"):
        half = (exported / name).read_bytes()[:5000]
        (tmp_path / name).write_bytes(half)
        with pytest.raises(ValueError, match=name):
            export.ExportedModel(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as z:
        z.writestr("a", "b")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "linear.pt"))
    for name in ("other.pt", "linear.pt"):
        with pytest.raises(ValueError, match=name):
            export.ExportedModel(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nosuch"):
        export.ExportedModel(tmp_path / "nosuch.onnx")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions hold back")
def test_read_only_folder(model, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=tmp_path.name):
        export.export_model(model, tmp_path / "a.pt", SR)
