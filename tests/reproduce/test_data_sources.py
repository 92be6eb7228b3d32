"""Converters of examples/data: sources of the official form, made up, and recordings where they are at hand."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import os
import wave
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.io import savemat

FOLDER = Path(__file__).parents[2] / "examples" / "data"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


avmnist, utd_mhad = load("avmnist"), load("utd_mhad")


def write_idx(path: Path, values: np.ndarray) -> None:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


def write_wave(path: Path, samples: np.ndarray, rate: int = 8000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def tone(hertz: float, seconds: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(8000 * seconds)) / 8000)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    g = np.random.default_rng(0)
    images, digits = g.integers(0, 256, (5, 28, 28)), np.array([7, 1, 2, 7, 0])
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", digits)
    write_wave(tmp_path / "7_theo_0.wav", tone(440, 0.3))
    write_wave(tmp_path / "1_theo_1.wav", tone(3000, 1.0))
    rows = [("train", 7, 3, "7_theo_0"), ("test", 1, 1, "1_theo_1")]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("split", "digit", "image", "recording"))
        writer.writerows(rows)
    np.save(tmp_path / "images.npy", images)
    return tmp_path


def test_pairs_become_images_sounds_and_splits(sources: Path) -> None:
    made = avmnist.make(sources, sources, sources / "pairs.csv")
    images = np.load(sources / "images.npy")
    assert made["image"].shape == (2, 1, 28, 28)
    assert (made["image"][0, 0].numpy() == images[3]).all()
    assert made["label"].tolist() == [7, 1]
    assert made["split"].tolist() == [0, 2]
    sound = made["audio_logmel"][:, 0].numpy().astype(int)
    assert sound.shape == (2, 40, 64)
    assert sound[0, :, 40:].max() == 0  # 0.3 s are 28 frames
    assert sound[1].argmax(0).min() > sound[0, :, :20].argmax(0).max()  # the higher tone lies higher


def test_images_of_other_digits_are_refused(sources: Path) -> None:
    write_idx(sources / "t10k-labels-idx1-ubyte.gz", np.array([7, 1, 2, 8, 0]))
    with pytest.raises(SystemExit, match="other digits"):
        avmnist.make(sources, sources, sources / "pairs.csv")


def test_a_recording_of_another_rate_is_refused(sources: Path) -> None:
    write_wave(sources / "7_theo_0.wav", tone(440, 0.3), rate=16000)
    with pytest.raises(SystemExit, match="16000"):
        avmnist.make(sources, sources, sources / "pairs.csv")


def test_the_pairs_are_smils_split_of_three_speakers() -> None:
    rows = list(csv.DictReader((FOLDER / "avmnist1500.csv").read_text().splitlines()))
    assert [sum(r["split"] == s for r in rows) for s in avmnist.SPLITS] == [1050, 225, 225]
    assert len({r["image"] for r in rows}) == len({r["recording"] for r in rows}) == 1500
    assert len({r["recording"].split("_")[1] for r in rows}) == 3
    assert all(r["recording"].startswith(r["digit"]) for r in rows)


def test_the_log_mel_is_that_of_recordings() -> None:
    from safetensors.torch import load_file

    where = os.environ.get("COLLAPSEKIT_DATA")
    if where is None or not (path := Path(where) / "avmnist3000.safetensors").is_file():
        pytest.skip("needs avmnist3000.safetensors in COLLAPSEKIT_DATA")
    stored = load_file(path)
    offsets = stored["audio_wave_offset"].tolist()
    for i in range(0, 3000, 100):
        y = 2 * stored["audio_wave_mulaw8k"][offsets[i] : offsets[i + 1]].double().numpy() / 255 - 1
        samples = np.sign(y) * (256 ** np.abs(y) - 1) / 255
        apart = avmnist.log_mel(samples).astype(int) - stored["audio_logmel"][i, 0].numpy().astype(int)
        assert np.abs(apart).mean() < 2  # of 255; the samples were kept in eight bits


def test_clips_of_sensors_become_arrays(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    for kind in ("Depth", "Skeleton", "Inertial"):
        (tmp_path / kind).mkdir()
    joints = g.normal(size=(20, 3, 31))
    for action, subject, trial in ((2, 1, 1), (10, 6, 3)):
        stem = f"a{action}_s{subject}_t{trial}"
        depth = np.zeros((240, 320, 31))
        depth[60:180, 100 + 5 * action : 160] = 2000
        savemat(tmp_path / "Depth" / f"{stem}_depth.mat", {"d_depth": depth})
        savemat(tmp_path / "Skeleton" / f"{stem}_skeleton.mat", {"d_skel": joints})
        savemat(tmp_path / "Inertial" / f"{stem}_inertial.mat", {"d_iner": np.arange(180 * 6.0).reshape(180, 6)})
    made = utd_mhad.make(tmp_path)
    assert {k: tuple(v.shape[1:]) for k, v in made.items() if v.ndim > 1} == {
        "depth": (6, 32, 32),
        "skeleton": (3, 24, 20),
        "accel": (3, 64),
        "gyro": (3, 64),
    }
    assert made["label"].tolist() == [1, 9]
    assert made["split"].tolist() == [0, 2]
    assert made["n_frames"].tolist() == [31, 31]
    assert np.allclose(made["skeleton"][0, :, 0, 3], 0)
    assert np.allclose(made["skeleton"][0, :, -1].numpy(), (joints[:, :, -1] - joints[3, :, 0]).T, atol=1e-6)
    assert np.allclose(made["accel"][0, :, 0], [0, 1, 2])
    assert np.allclose(made["gyro"][0, :, -1].numpy(), np.array([1077, 1078, 1079]) / 100)
    assert set(made["depth"][0].unique().tolist()) == {0, 128}
