"""Toy worlds of a robot: episodes of a hand that is brought to where it should be, and what cameras and joints show of it.

What is still to go shrinks by a fifth a step, so the actions of a chunk follow from what is seen in its first frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TOP, WRIST, STATE, TASK = "observation.images.top", "observation.images.wrist", "observation.state", "task"
ACTION = "action"
STEPS, CHUNK, SIDE = 12, 4, 12  # frames of an episode, actions of a chunk, pixels
GAIN, NOISE = 0.2, 0.04  # of what is to go a step; spread of an action around that
EPISODES = {"train": 110, "val": 40, "test": 55}
ASKED = ("pick up the red cup", "move to the blue block")
Frames = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class World:
    """What a policy is given, and which of it says anything of the actions."""

    name: str
    inputs: tuple[str, ...]
    width: int  # of an action
    needed: tuple[str, ...]  # inputs without which the best answer is worse, all others at hand
    channels: int = 1  # of a picture


WORLDS = {
    w.name: w
    for w in (
        World("reach", (TOP, WRIST, STATE), 3, (TOP, WRIST, STATE)),
        World("camera", (TOP, WRIST, STATE), 2, (TOP,)),
        World("leak", (TOP, STATE), 2, (TOP, STATE)),
        World("language", (TOP, STATE, TASK), 1, (TOP, STATE, TASK), 3),
    )
}


def record(world: World, seed: int) -> Frames:
    """Record the episodes of every split, those of train first: frames by LeRobot's keys, as they would be exported."""
    rng = np.random.default_rng(seed)
    count = sum(EPISODES.values())
    episodes = [_run(world, rng) for _ in range(count)]
    frames = {k: np.stack([f[k] for e in episodes for f in e]) for k in episodes[0][0]}
    frames["episode_index"] = np.repeat(np.arange(count), STEPS)
    frames["frame_index"] = np.tile(np.arange(STEPS), count)
    return frames


def split_ranges() -> dict[str, str]:
    """Say which episodes are which split's, as ``data.episodes.splits`` takes it."""
    ranges, start = {}, 0
    for split, count in EPISODES.items():
        ranges[split] = f"{start}:{start + count}"
        start += count
    return ranges


def save(frames: Mapping[str, Any], file: Path) -> None:
    """Write frames as an npz."""
    np.savez(file, **frames)


def _run(world: World, rng: np.random.Generator) -> list[dict[str, Any]]:
    """One episode, frame by frame."""
    to_go = rng.uniform(-1, 1, 3)
    things, hand, asked = rng.uniform(-1, 1, 2), rng.uniform(-1, 1), int(rng.integers(2))
    last = np.zeros(world.width)
    out = []
    for _ in range(STEPS):
        if world.name == "language":
            to_go[0] = things[asked] - hand
        step = GAIN * to_go[: world.width] + NOISE * rng.standard_normal(world.width)
        out.append({**_seen(world, to_go, things, hand, last, rng), ACTION: (step / GAIN).astype(np.float32)})
        if world.name == "language":
            out[-1][TASK] = ASKED[asked]
        to_go[: world.width] -= step
        hand, last = hand + step[0], step / GAIN
    return out


def _seen(
    world: World,
    to_go: np.ndarray[Any, Any],
    things: np.ndarray[Any, Any],
    hand: float,
    last: np.ndarray[Any, Any],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What is given of one moment."""
    idle = rng.uniform(-1, 1, 2)
    if world.name == "reach":
        state = np.array([to_go[2], idle[0]])
        return {
            TOP: _picture(to_go[0], None, rng),
            WRIST: _picture(None, to_go[1], rng),
            STATE: state.astype(np.float32),
        }
    if world.name == "camera":
        return {TOP: _picture(*to_go[:2], rng), WRIST: _picture(*idle, rng), STATE: idle.astype(np.float32)}
    if world.name == "leak":
        return {TOP: _picture(*to_go[:2], rng), STATE: last.astype(np.float32)}
    red, blue = (_picture(x, None, rng) for x in things)
    picture = np.concatenate([red, np.zeros_like(red), blue], -1)
    return {TOP: picture, STATE: np.array([hand, idle[0]], np.float32)}


def _picture(across: float | None, down: float | None, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """A spot in a noisy picture, (h, w, 1) bytes; where nothing says its place, a bar."""
    at, picture = np.arange(SIDE) - (SIDE - 1) / 2, np.ones((SIDE, SIDE))
    for value, shape in ((across, (1, SIDE)), (down, (SIDE, 1))):
        if value is not None:
            picture = picture * np.exp(-((at - 4.5 * value) ** 2) / 3).reshape(shape)
    noisy = 0.15 + 0.7 * picture + 0.1 * rng.standard_normal((SIDE, SIDE))
    return (255 * noisy.clip(0, 1)).astype(np.uint8)[..., None]
