from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from collapsekit.context import Progress
from collapsekit.demo import make as demo
from collapsekit.demo.model import WIDTHS, build
from collapsekit.errors import RefusedError


def test_the_embedded_data_is_what_the_attribution_says() -> None:
    raw = demo.load_mfeat()
    widths = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}
    assert {k: v.shape[1] for k, v in raw.items() if v.ndim == 2} == widths
    assert all(len(v) == 2000 for v in raw.values())
    # Pixel averages count up to 6 pixels; the profile correlations and pixels are whole numbers.
    assert raw["pix"].min() == 0
    assert raw["pix"].max() == 6
    text = (files("collapsekit.demo") / "ATTRIBUTION.md").read_text()
    for words in (demo.SHA256, "10.24432/C5HC70", "CC BY 4.0", "Duin"):
        assert words in text


def test_the_split_is_fixed_and_equal_over_digits() -> None:
    raw = demo.load_mfeat()
    counts = [[int(((raw["split"] == s) & (raw["label"] == d)).sum()) for d in range(10)] for s in range(3)]
    assert counts == [[120] * 10, [30] * 10, [50] * 10]


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(b"").hexdigest())
    with pytest.raises(RefusedError, match="SHA-256"):
        demo.load_mfeat()


def test_scaling_uses_the_training_split_only() -> None:
    data, raw = demo.demo_data(), demo.load_mfeat()
    for view in WIDTHS:
        train = data[f"train/{view}"].double().numpy()
        np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
        deviation = train.std(0)
        assert set(np.round(deviation, 4)) <= {0.0, 1.0}
        # Undone, the test rows are the file's own numbers.
        x = raw[view].astype(float)
        mean, spread = x[raw["split"] == 0].mean(0), x[raw["split"] == 0].std(0)
        back = data[f"test/{view}"].double().numpy() * np.where(spread > 0, spread, 1) + mean
        np.testing.assert_allclose(back, x[raw["split"] == 2], atol=1e-3 * np.abs(x).max())


def test_the_folder_is_a_users_own(tmp_path: Path) -> None:
    checkpoint = demo.make_demo(tmp_path, 0, Progress())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt.pt", "collapsekit.yaml", "data.safetensors", "model.py"]
    assert (tmp_path / "model.py").read_text() == (files("collapsekit.demo") / "model.py").read_text()
    state = torch.load(checkpoint, weights_only=True)
    model = build()
    model.load_state_dict(state)
    data = demo.demo_data()
    with torch.no_grad():
        logits = model(**{view: data[f"test/{view}"] for view in WIDTHS})
    assert float((logits.argmax(1) == data["test/label"]).double().mean()) > 0.96


def test_training_again_gives_the_same_bytes_and_another_seed_other_ones(tmp_path: Path) -> None:
    first = demo.make_demo(tmp_path / "a", 0, Progress()).read_bytes()
    assert demo.make_demo(tmp_path / "b", 0, Progress()).read_bytes() == first
    assert demo.make_demo(tmp_path / "c", 1, Progress()).read_bytes() != first
