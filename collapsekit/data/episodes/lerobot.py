"""A folder as LeRobot records it, versions 2 and 3 of its layout; the library itself is not imported."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapsekit.checkpoint.sidecars.described import mapping
from collapsekit.checkpoint.sidecars.document import read_document
from collapsekit.data.base import SPLITS
from collapsekit.data.episodes.pictures import EncodedCamera, VideoCamera
from collapsekit.data.episodes.recording import EPISODE, FRAME, Camera, EpisodeLog, Statistics, sort_frames
from collapsekit.data.episodes.tables import Column, read_lines, read_parquet
from collapsekit.errors import ConfigError, RefusedError
from collapsekit.io.safe_text import quote

INFO = Path("meta") / "info.json"
TASK, TASK_INDEX = "task", "task_index"
_PLAIN = re.compile(r"[\w\-]+(\.[\w\-]+)*", re.ASCII)  # a key that may be a folder's name


def is_recording(folder: Path) -> bool:
    """Tell whether a folder is laid out as LeRobot's recordings are."""
    return folder.is_dir() and (folder / INFO).is_file()


def read_info(folder: Path) -> dict[str, Any]:
    """Read meta/info.json of a recording: features, frames a second, version. Raises RefusedError, ConfigError."""
    info = read_document(folder / INFO) or {}
    version = str(info.get("codebase_version", ""))
    if not re.match(r"v[23](\.|$)", version):
        raise ConfigError(
            f"{folder / INFO} is of layout {quote(version) if version else 'unknown'}, expected v2 or v3: convert the "
            "recording with LeRobot, or export its frames as .npz (docs/robot.md)."
        )
    return info


def cameras_of(info: Mapping[str, Any]) -> dict[str, str]:
    """List the keys of pictures, and whether each is "video" or "image"."""
    kinds = {k: v.get("dtype") for k, v in mapping(info.get("features")).items() if isinstance(v, dict)}
    return {k: kind for k, kind in kinds.items() if kind in ("video", "image")}


def read_folder(folder: Path, wanted: Collection[str] | None = None) -> EpisodeLog:
    """Read a recording.

    Args:
        folder: that holds meta/, data/ and videos/.
        wanted: keys of the cameras that are needed; None: all.

    Returns:
        Its frames. Pictures are decoded when they are asked for.

    Raises:
        ConfigError: for another version of the layout, or without pyarrow.
        RefusedError: for files that are damaged or contradict one another.
        DataError: for frames without their episode.
    """
    info = read_info(folder)
    files = sorted((folder / "data").glob("**/*.parquet"))
    if not files:
        raise ConfigError(f"{folder} has no data/*.parquet: get the recording's data, or name another folder.")
    table = read_parquet(files)
    numbers = {k: _as_tensor(v) for k, v in table.items() if isinstance(v, np.ndarray)}
    texts = {k: v for k, v in table.items() if isinstance(v, list) and all(isinstance(one, str) for one in v)}
    numbers, texts, order = sort_frames(numbers, texts, folder.name)
    texts |= _tasks(folder, numbers, texts)
    cameras: dict[str, Camera] = {}
    for key, kind in cameras_of(info).items():
        if wanted is not None and key not in wanted:
            continue
        if kind == "video":
            cameras[key] = VideoCamera(*_places(folder, info, key, numbers))
        elif isinstance(encoded := table.get(key), list):
            cameras[key] = EncodedCamera([encoded[i] for i in order.tolist()], f"{folder.name}, {quote(key)}")
    return EpisodeLog(
        folder.name, numbers, texts, cameras, _statistics(folder), _text_splits(mapping(info.get("splits")))
    )


def _as_tensor(values: Any) -> Tensor:
    wide = values.dtype.kind == "u" and values.dtype.itemsize > 1
    return torch.from_numpy(np.array(values.astype(np.int64) if wide else values))


def _text_splits(splits: Mapping[str, Any]) -> dict[str, str]:
    return {k: v for k, v in splits.items() if k in SPLITS and isinstance(v, str)}


def read_tasks(folder: Path) -> dict[int, str]:
    """Read what was to be done, in words, by the number of the task; nothing where the recording does not say. Raises
    RefusedError, ConfigError."""
    rows = read_lines(folder / "meta" / "tasks.jsonl")
    known = {row.get(TASK_INDEX): row.get(TASK) for row in rows}
    beside = folder / "meta" / "tasks.parquet"
    if not rows and beside.is_file():
        table = read_parquet([beside])
        words = next((v for k, v in table.items() if k != TASK_INDEX and isinstance(v, list)), [])
        known = dict(zip(np.asarray(table.get(TASK_INDEX, [])).tolist(), words, strict=False))
    return {i: words for i, words in known.items() if isinstance(i, int) and isinstance(words, str)}


def _tasks(folder: Path, numbers: Mapping[str, Tensor], texts: Mapping[str, Any]) -> dict[str, list[str]]:
    """What was to be done in each frame, in words, where the recording says so."""
    if TASK in texts or TASK_INDEX not in numbers or not (known := read_tasks(folder)):
        return {}
    asked = numbers[TASK_INDEX].reshape(-1).tolist()
    if odd := [i for i in asked if i not in known]:
        raise RefusedError(f"{folder} has frames of task {odd[0]}, of which meta/tasks says nothing: get it anew.")
    return {TASK: [known[i] for i in asked]}


def _places(
    folder: Path, info: Mapping[str, Any], key: str, numbers: Mapping[str, Tensor]
) -> tuple[list[tuple[Path, float]], float]:
    """The video and the seconds in it of every frame, and how many there are a second."""
    rate = info.get("fps")
    if not isinstance(rate, int | float) or not 0 < rate <= 10_000:
        raise RefusedError(f"{folder / INFO} says {quote(str(rate))} frames a second, expected a number above 0.")
    if not _PLAIN.fullmatch(key):
        raise RefusedError(f"{folder / INFO} names a camera {quote(key)}, which no folder of videos can be called.")
    episodes = numbers[EPISODE].tolist()
    starts = _starts_in_files(folder, key) if str(info["codebase_version"]).startswith("v3") else None
    size = info.get("chunks_size")
    chunk = size if isinstance(size, int) and size > 0 else 1000
    seconds = numbers["timestamp"].double() if "timestamp" in numbers else numbers[FRAME].double() / rate
    out = []
    for episode, at in zip(episodes, seconds.reshape(-1).tolist(), strict=True):
        if starts is None:
            name = Path("videos") / f"chunk-{episode // chunk:03d}" / key / f"episode_{episode:06d}.mp4"
            out.append((folder / name, at))
            continue
        if episode not in starts:
            raise RefusedError(f"{folder} has frames of episode {episode}, of which meta/episodes says nothing.")
        path, start = starts[episode]
        out.append((path, start + at))
    return out, float(rate)


def _starts_in_files(folder: Path, key: str) -> dict[int, tuple[Path, float]]:
    """By episode the video that holds it, and where in that it begins (layout v3)."""
    files = sorted((folder / "meta" / "episodes").glob("**/*.parquet"))
    table: Mapping[str, Column] = read_parquet(files) if files else {}
    names = [EPISODE, *(f"videos/{key}/{part}" for part in ("chunk_index", "file_index", "from_timestamp"))]
    if lacking := [name for name in names if name not in table]:
        raise RefusedError(f"{folder}/meta/episodes has no column {quote(lacking[0])}: get the recording anew.")
    rows = zip(*(np.asarray(table[name]).tolist() for name in names), strict=True)
    return {
        int(episode): (folder / "videos" / key / f"chunk-{int(c):03d}" / f"file-{int(f):03d}.mp4", float(start))
        for episode, c, f, start in rows
    }


def _statistics(folder: Path) -> dict[str, Statistics]:
    """What meta/stats.json says of each key, or meta/episodes_stats.jsonl of each episode."""
    whole = read_document(folder / "meta" / "stats.json")
    if whole is not None:
        return {k: s for k, v in whole.items() if (s := _of_key(v)) is not None}
    each = [row.get("stats") for row in read_lines(folder / "meta" / "episodes_stats.jsonl")]
    by_key: dict[str, list[tuple[Statistics, float]]] = {}
    for stats in each:
        for key, value in stats.items() if isinstance(stats, dict) else ():
            if (found := _of_key(value)) is not None:
                count = _numbers(value.get("count"))
                by_key.setdefault(key, []).append((found, 1.0 if count is None else float(count.reshape(-1)[0])))
    return {key: _pooled(parts) for key, parts in by_key.items()}


def _of_key(value: Any) -> Statistics | None:
    if not isinstance(value, dict):
        return None
    found = [_numbers(value.get(name)) for name in ("mean", "std", "min", "max")]
    return None if any(f is None for f in found) else Statistics(*(f for f in found if f is not None))


def _numbers(value: Any) -> Tensor | None:
    try:
        found = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found if bool(found.isfinite().all()) and found.numel() else None


def _pooled(parts: list[tuple[Statistics, float]]) -> Statistics:
    """Those of all episodes, of how many frames each has."""
    weights = torch.tensor([max(count, 1.0) for _, count in parts], dtype=torch.float64)
    weights = weights / weights.sum()
    mean = torch.stack([w * s.mean for (s, _), w in zip(parts, weights, strict=True)]).sum(0)
    square = torch.stack([w * (s.std**2 + s.mean**2) for (s, _), w in zip(parts, weights, strict=True)]).sum(0)
    low = torch.stack([s.low for s, _ in parts]).amin(0)
    high = torch.stack([s.high for s, _ in parts]).amax(0)
    return Statistics(mean, (square - mean**2).clamp(min=0).sqrt(), low, high)
