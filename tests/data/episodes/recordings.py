"""Recordings made up for tests: three to seven short episodes, as arrays and in LeRobot's layouts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

TOP, WRIST = "observation.images.top", "observation.images.wrist"
RATE = 10  # frames a second


def make_frames(lengths: tuple[int, ...] = (6, 4, 5, 7)) -> dict[str, np.ndarray[Any, Any]]:
    """Frames whose action is 100 times their episode, plus their place in it; pictures that are as bright as both say."""
    episode = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(n) for n in lengths])
    said = 100.0 * episode + frame
    bright = (30 * (episode % 4) + 20 * frame + 10).astype(np.uint8)
    return {
        "episode_index": episode,
        "frame_index": frame,
        "timestamp": (frame / RATE).astype(np.float32),
        "task_index": episode % 2,
        "observation.state": np.stack([said, -said], 1).astype(np.float32),
        "action": np.stack([said, said + 0.5], 1).astype(np.float32),
        TOP: np.broadcast_to(bright[:, None, None, None], (len(said), 16, 16, 3)).copy(),
    }


TASKS = ("fold the towel", "open the drawer")


def write_npz(folder: Path, **more: Any) -> Path:
    """The frames as one file, with the task in words."""
    frames = make_frames()
    words = np.array([TASKS[i] for i in frames["task_index"]])
    np.savez(folder / "episodes.npz", **{**frames, "task": words, **more})
    return folder / "episodes.npz"


def write_lerobot(folder: Path, version: str, *, pictures: str = "video") -> Path:
    """The frames in LeRobot's layout of ``version`` ("v2.1" or "v3.0"), cameras as "video" or "image"."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    frames = make_frames()
    shown = frames.pop(TOP)
    episodes = np.unique(frames["episode_index"])
    features = {k: {"dtype": str(v.dtype), "shape": list(v.shape[1:]) or [1]} for k, v in frames.items()}
    features[TOP] = {"dtype": pictures, "shape": [16, 16, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": version,
        "fps": RATE,
        "chunks_size": 1000,
        "features": features,
        "splits": {"train": "0:4"},
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    table = {k: list(v) if v.ndim > 1 else v for k, v in frames.items()}
    if pictures == "image":
        table[TOP] = [{"bytes": png(one), "path": None} for one in shown]

    def write(rows: Any, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({k: [v[i] for i in np.flatnonzero(rows)] for k, v in table.items()}), path)

    if version.startswith("v3"):
        write(np.ones(len(shown), bool), folder / "data/chunk-000/file-000.parquet")
        starts = [int((frames["episode_index"] < e).sum()) / RATE for e in episodes]
        each = {"episode_index": episodes, f"videos/{TOP}/chunk_index": [0] * 4, f"videos/{TOP}/file_index": [0] * 4}
        path = folder / "meta/episodes/chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({**each, f"videos/{TOP}/from_timestamp": starts}), path)
        pq.write_table(
            pa.table({"task_index": [0, 1], "__index_level_0__": list(TASKS)}), folder / "meta/tasks.parquet"
        )
        (folder / "meta/stats.json").write_text(json.dumps({"action": stats(frames["action"])}))
        if pictures == "video":
            write_video(folder / f"videos/{TOP}/chunk-000/file-000.mp4", shown)
        return folder
    lines = [json.dumps({"task_index": i, "task": task}) for i, task in enumerate(TASKS)]
    (folder / "meta/tasks.jsonl").write_text("\n".join(lines) + "\n")
    each = []
    for e in episodes:
        rows = frames["episode_index"] == e
        write(rows, folder / f"data/chunk-000/episode_{e:06d}.parquet")
        each.append(json.dumps({"episode_index": int(e), "stats": {"action": stats(frames["action"][rows])}}))
        if pictures == "video":
            write_video(folder / f"videos/chunk-000/{TOP}/episode_{e:06d}.mp4", shown[rows])
    (folder / "meta/episodes_stats.jsonl").write_text("\n".join(each) + "\n")
    return folder


def stats(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """What LeRobot writes of a key."""
    made = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0)}
    return {**{k: v.tolist() for k, v in made.items()}, "count": [len(values)]}


def png(picture: np.ndarray[Any, Any]) -> bytes:
    """A picture (h, w, 3) as the bytes of a PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


def write_video(path: Path, pictures: np.ndarray[Any, Any]) -> None:
    """Pictures (n, h, w, 3) as a video of RATE frames a second, every fourth a key frame."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE, options={"g": "4", "qscale": "1"})
        stream.width, stream.height, stream.pix_fmt = pictures.shape[2], pictures.shape[1], "yuv420p"
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
