"""Frames exported to one file of arrays: .npz, .safetensors or .pt, flat, with `episode_index` beside them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from torch import Tensor

from collapsekit.data.arrays import is_torch_file, read_arrays, reading_arrays
from collapsekit.data.episodes.pictures import CHANNELS, ArrayCamera
from collapsekit.data.episodes.recording import EPISODE, EpisodeLog, sort_frames
from collapsekit.errors import DataError
from collapsekit.io.safe_text import quote


def read_exported(path: Path) -> EpisodeLog:
    """Read frames from a file of arrays, each (frames, ...); four axes are pictures, text goes into an npz.

    Raises:
        ConfigError: where there is no such file.
        RefusedError: where it cannot be read.
        DataError: for arrays of unequal lengths, or frames without their episode.
    """
    arrays, texts = read_arrays(path), _read_texts(path)
    count = len(arrays[EPISODE]) if EPISODE in arrays and arrays[EPISODE].ndim else 0
    lengths = {k: len(v) for k, v in texts.items()} | {k: len(v) if v.ndim else 1 for k, v in arrays.items()}
    odd = next((k for k, length in lengths.items() if count and length != count), None)
    if odd is not None:
        raise DataError(
            f"{path.name} has {count} frames by {EPISODE!r}, and {lengths[odd]} of {quote(odd)}: give one row a frame."
        )
    pictures = {k: v for k, v in arrays.items() if v.ndim == 4 and {v.shape[1], v.shape[3]} & set(CHANNELS)}
    numbers = {k: v for k, v in arrays.items() if k not in pictures}
    numbers, texts, order = sort_frames(numbers, texts, path.name)
    cameras = {k: ArrayCamera(_sorted(v, order)) for k, v in pictures.items()}
    return EpisodeLog(path.name, numbers, texts, cameras)


def _sorted(values: Tensor, order: Tensor) -> Tensor:
    """Rows in order; as they lie, memory-mapped, where that is their order already."""
    return values if bool((order[1:] > order[:-1]).all()) else values.index_select(0, order)


def _read_texts(path: Path) -> dict[str, list[str]]:
    """Arrays of text in an npz, by name."""
    with reading_arrays(path) as is_zip:
        if not is_zip or is_torch_file(path):
            return {}
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            kinds = {}
            for name in names:
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    first = version == (1, 0)
                    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                    kinds[name.removesuffix(".npy")] = read(member)[2].kind
        with np.load(path, allow_pickle=False) as file:
            return {k: file[k].astype(str).reshape(-1).tolist() for k, kind in kinds.items() if kind in "US"}
