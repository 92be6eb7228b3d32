"""Make avmnist1500.safetensors: images of MNIST's test file, each with a digit of the Free Spoken Digit Dataset.

python avmnist.py --mnist FOLDER --fsdd FOLDER --output FOLDER

--mnist holds t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz; --fsdd the recordings, such as 7_jackson_13.wav.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import sys
import wave
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

PAIRS = Path(__file__).parent / "avmnist1500.csv"
SPLITS = ("train", "val", "test")
RATE, WINDOW, HOP, FFT = 8000, 200, 80, 256  # Hz, and samples: 25 ms, 10 ms
MELS, LOWEST, HIGHEST, FRAMES = 40, 20.0, 4000.0, 64
FLOOR, MOST = 1e-6, 2.0  # of the power, and of its logarithm, at which bytes begin and end


def read_idx(path: Path) -> np.ndarray:
    """Read a file of MNIST: bytes with their shape before them, big-endian."""
    raw = gzip.decompress(path.read_bytes())
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        sys.exit(f"{path} is no IDX file of bytes: fetch it again.")
    axes = raw[3]
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * axes)
    if values.size != int(np.prod(shape)):
        sys.exit(f"{path} holds {values.size} bytes, and its head says {shape}: fetch it again.")
    return values.reshape(shape)


def read_wave(path: Path) -> np.ndarray:
    """Read a recording of 16-bit samples, one channel, 8 kHz: (samples,), in [-1, 1)."""
    with wave.open(str(path), "rb") as file:
        found = (file.getframerate(), file.getnchannels(), file.getsampwidth())
        if found != (RATE, 1, 2):
            sys.exit(f"{path} has (rate, channels, bytes) {found}, expected {(RATE, 1, 2)}.")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64) / 32768


def mel_filters() -> np.ndarray:
    """Make triangles on the mel scale of O'Shaughnessy, of height 1: (40, 129)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (LOWEST, HIGHEST))
    edges = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(FFT, 1 / RATE)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)), 0, None)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Compute the log-mel spectrogram of the first 64 frames, in bytes (40, 64); 0 beyond the end of a recording."""
    if len(samples) < WINDOW:
        samples = np.pad(samples, (0, WINDOW - len(samples)))
    starts = range(0, len(samples) - WINDOW + 1, HOP)
    frames = np.stack([samples[s : s + WINDOW] for s in starts][:FRAMES]) * np.hamming(WINDOW)
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 / FFT
    level = np.log(power @ mel_filters().T + FLOOR).T
    lowest = np.log(FLOOR)
    out = np.zeros((MELS, FRAMES), np.uint8)
    out[:, : level.shape[1]] = np.clip(np.round((level - lowest) / (MOST - lowest) * 255), 0, 255)
    return out


def make(mnist: Path, fsdd: Path, pairs: Path = PAIRS) -> dict[str, torch.Tensor]:
    """Make the arrays.

    Args:
        mnist: The folder of MNIST's test file.
        fsdd: The folder of recordings.
        pairs: Which image goes with which recording, and their split.

    Returns:
        ``image`` (n, 1, 28, 28) and ``audio_logmel`` (n, 1, 40, 64) in bytes, ``label`` and ``split`` (n,).
    """
    images, digits = read_idx(mnist / "t10k-images-idx3-ubyte.gz"), read_idx(mnist / "t10k-labels-idx1-ubyte.gz")
    rows = list(csv.DictReader(pairs.read_text().splitlines()))
    places, labels = [int(r["image"]) for r in rows], [int(r["digit"]) for r in rows]
    if digits[places].tolist() != labels:
        sys.exit(f"{mnist} holds other digits than those of MNIST's test file: fetch it again.")
    sounds = np.stack([log_mel(read_wave(fsdd / f"{r['recording']}.wav")) for r in rows])
    return {
        "image": torch.from_numpy(images[places][:, None].copy()),
        "audio_logmel": torch.from_numpy(sounds[:, None]),
        "label": torch.tensor(labels),
        "split": torch.tensor([SPLITS.index(r["split"]) for r in rows]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, help="folder of MNIST's test file")
    parser.add_argument("--fsdd", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--output", type=Path, default=Path(), help="folder, the one that COLLAPSEKIT_DATA names")
    given = parser.parse_args()
    raw = save(make(given.mnist, given.fsdd))
    path = given.output / "avmnist1500.safetensors"
    path.write_bytes(raw)
    print(f"{path}: SHA-256 {hashlib.sha256(raw).hexdigest()}")


if __name__ == "__main__":
    main()
