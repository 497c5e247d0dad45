"""The examples of the README run, from a model on; README.md is what they say"""

import json
from pathlib import Path

import nbformat
import torch

from mirkit.lab.html import readme_from_index
from mirkit.pitch.config import make_config
from mirkit.pitch.model import PestoModel, save_model

ROOT = Path(__file__).resolve().parents[1]


def test_examples_run(settings, capsys):
    "All cells of nbs/index.ipynb in their order; a network that has learnt nothing stands for the run called first"
    run = settings.reports_path / "train_pitch" / "first"
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({"RPA": 12.34, "clean/pYIN/RPA": 56.78}))
    torch.manual_seed(0)
    save_model(PestoModel(make_config("pitch")), run / "checkpoints" / "model.safetensors")
    space: dict = {}
    for cell in nbformat.read(ROOT / "nbs" / "index.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, space)
    assert set(space["pitch_scores"](space["truth"], space["truth"]).values()) == {1.0, 0.0}  # RPA … and false alarms
    assert len(space["f0"].time) == len(space["truth"]) == 601 and space["model"].parent.parent == run
    assert capsys.readouterr().out.startswith("time,frequency,confidence")


def test_readme_says_what_the_index_says(tmp_path):
    "`make readme` changes nothing, and every link into the project leads somewhere"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    nb = tmp_path / "nbs" / "index.ipynb"
    nb.parent.mkdir()
    nb.write_bytes((ROOT / "nbs" / "index.ipynb").read_bytes())
    assert readme_from_index(nb, tmp_path / "README.md").read_text(encoding="utf-8") == text
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(links) > 4
    assert not [x for x in links if not x.startswith("https:") and not (ROOT / x).is_file()]
    for image in (tmp_path / "nbs" / "index_files").iterdir():
        assert (ROOT / "nbs" / "index_files" / image.name).read_bytes() == image.read_bytes()
