"The key models that come with mirkit: what their files say, how small they are, and that they hear keys"

import numpy as np
import pytest

from mirkit.core.settings import shared_path
from mirkit.key.data import load_keys
from mirkit.key.estimator import KeyEstimator
from mirkit.key.model import load_key_model
from mirkit.key.progressions import render_progression
from mirkit.key.scores import score_table
from mirkit.key.weights import find_weights, weights_card

LICENCES = {"key-24": "MIT", "key-24-plus": "CC BY-NC-SA"}  # what the strictest of its data says

shipped = pytest.mark.parametrize("name", LICENCES)


@shipped
def test_the_file_says_where_the_model_is_from(name):
    model = load_key_model(name)
    assert sum(w.size for w in model.weights.values()) == 88_442 < 100_000
    assert find_weights(name).stat().st_size < 200_000
    assert 0.1 <= model.temperature <= 2 and LICENCES[name] in model.about["licence"]
    card, commit = weights_card(name), model.about["provenance"]["commit"]
    assert all(word in card for word in ("licence", "mirkit run train_key", commit[:7], LICENCES[name]))


def test_the_default_has_heard_only_what_a_company_may_use():
    about = load_key_model("key-24").about
    assert about["data"] == "pop909" and "NC" not in about["licence"]


@shipped
def test_cadences_in_all_keys_at_any_tuning(name):
    estimator, right = KeyEstimator.from_pretrained(name), []
    for key in range(24):
        degrees = "I-IV-V-I" if key < 12 else "i-iv-V-i"
        x = render_progression(key, degrees, seed=key, sr=22050, cents=-40 + 80 * (7 * key % 24) / 23)
        right.append(estimator(x, 22050).index == key)
    assert np.mean(right) > 0.9


@shipped
def test_real_pianos(name):
    if shared_path() is None:
        pytest.skip("the recordings of MAPS are not here")
    tracks = list(load_keys("maps-key"))[::2]
    estimator = KeyEstimator.from_pretrained(name)
    found = {t.id: estimator.file(t.audio) for t in tracks}
    table = score_table([(t.id, t.group, t.key, found[t.id].index, found[t.id].confidence) for t in tracks])
    assert table.MIREX.mean() >= 0.8
