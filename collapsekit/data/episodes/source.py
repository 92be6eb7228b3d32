"""The source of examples that a recording of episodes is: whole episodes by split, frames with the actions that follow."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from collapsekit.config.regions import parse_where
from collapsekit.config.schema import Config, EpisodesConfig
from collapsekit.data.base import SPLITS
from collapsekit.data.episodes.exported import read_exported
from collapsekit.data.episodes.frames import ExampleForm, Frames, Scale, make_scale, measure_statistics
from collapsekit.data.episodes.lerobot import is_recording, read_folder
from collapsekit.data.episodes.recording import PHASE, EpisodeLog
from collapsekit.data.regions import meets
from collapsekit.errors import ConfigError, NothingEvaluatedError, did_you_mean
from collapsekit.io.safe_text import quote

PARTS = (0.6, 0.2, 0.2)  # of the episodes, where nothing says which are which split's
_RANGE = re.compile(r"(\d{0,12}):(\d{0,12})")


def is_episodes(config: Config) -> bool:
    """Tell whether the config's data are a recording of episodes: it says so, or the folder is laid out as one."""
    data = config.data
    return data.path is not None and (data.episodes is not None or is_recording(config.resolve(data.path)))


def read_frames(config: Config) -> dict[str, Frames]:
    """Read the recording that the config names, as examples by split.

    Args:
        config: whose ``data.path`` is a folder of LeRobot's or a file of frames, and whose ``data.episodes`` says how.

    Returns:
        By split the frames of its episodes whose actions end with their episode.

    Raises:
        ConfigError: for a key that there is not, splits that meet, or too few episodes.
        RefusedError: for files that are damaged.
        DataError: for frames without their episode.
        NothingEvaluatedError: where no episode is as long as its actions.
    """
    how = config.data.episodes or EpisodesConfig()
    path = config.resolve(str(config.data.path))
    recording = read_folder(path, _named(config)) if path.is_dir() else read_exported(path)
    need_label(recording, config.data.label)
    place, length, left = recording.runs()
    usable = (left >= (how.horizon or 1)) & (place % how.every == 0) & choose_frames(recording, how, place, length)
    members = split_episodes(recording, how)
    form = ExampleForm(how, config.data.label, _scales(recording, how, members.get("train")))
    made = {}
    for split, episodes in members.items():
        rows = (usable & torch.isin(recording.episodes, episodes)).nonzero()[:, 0]
        if not len(rows):
            chosen = "" if how.where is None else f" and of which {how.where}"
            raise NothingEvaluatedError(
                f"no frame in the episodes of split {split!r} of {recording.origin} is one that "
                f"{(how.horizon or 1) - 1} more follow in its episode{chosen}: a shorter data.episodes.horizon, or another "
                "data.episodes.where, would find some."
            )
        made[split] = Frames(recording, rows, place, length, form)
    return made


def need_label(recording: EpisodeLog, label: str) -> None:
    """Raise ConfigError where a recording has no numbers of that name to be predicted."""
    if label not in recording.numbers:
        raise ConfigError(
            f"{recording.origin} has no {quote(label)}{did_you_mean(label, recording.numbers)} to predict: it has "
            f"{', '.join(map(quote, recording.numbers))}; name the actions with data.label."
        )


def choose_frames(recording: EpisodeLog, how: EpisodesConfig, place: Tensor, length: Tensor) -> Tensor:
    """Choose the frames that are examples by ``data.episodes.where``.

    Args:
        recording: the frames.
        how: the config's section.
        place: by frame its place in its episode, (frames,).
        length: by frame how many its episode has, (frames,).

    Returns:
        Bool (frames,).

    Raises:
        ConfigError: where there is no such field, or it does not hold one whole number a frame.
    """
    if how.where is None:
        return torch.ones(len(place), dtype=torch.bool)
    condition = parse_where("frames", how.where)
    known = {PHASE: place * how.phases // length, **recording.numbers}
    field = known.get(condition.field)
    if field is None or field.is_floating_point() or field[0].numel() != 1:
        whole = [k for k, v in known.items() if not v.is_floating_point() and v[0].numel() == 1]
        raise ConfigError(
            f"data.episodes.where reads {quote(condition.field)}, which is no whole number a frame in {recording.origin}: "
            f"name one of {', '.join(map(quote, whole))}{did_you_mean(condition.field, whole)}."
        )
    return meets(condition, field.reshape(-1))


def split_episodes(recording: EpisodeLog, how: EpisodesConfig) -> dict[str, Tensor]:
    """Say which episodes are in which split, by their numbers, each int64 (k,).

    Those that the config names; else those that the recording names, where it has more than one split; else three parts of
    the episodes, drawn once and for all. Raises ConfigError.
    """
    numbers = recording.episodes.unique()
    ranges = {str(split): text for split, text in how.splits.items()}
    if not ranges and len(recording.splits) > 1:
        ranges = dict(recording.splits)
    if ranges:
        return _by_ranges(ranges, numbers, recording.origin)
    if len(numbers) < len(SPLITS):
        raise ConfigError(
            f"{recording.origin} has {len(numbers)} episode{'s' * (len(numbers) != 1)}, and splits are of whole ones: "
            "record more, at least one each for train, val and test."
        )
    order = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))]
    held = [max(1, int(part * len(numbers))) for part in PARTS[1:]]
    sizes = [len(numbers) - sum(held), *held]
    return dict(zip(SPLITS, (part.sort().values for part in order.split(sizes)), strict=True))


def _by_ranges(ranges: Mapping[str, str], numbers: Tensor, origin: str) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for split, text in ranges.items():
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            raise ConfigError(f"split {split!r} is {quote(text)}, expected episodes such as '0:40', the last left out.")
        low, high = int(found[1] or 0), int(found[2]) if found[2] else None
        chosen = numbers[(numbers >= low) & (numbers < high if high is not None else numbers >= 0)]
        if not len(chosen):
            raise ConfigError(
                f"split {split!r} is {quote(text)}, and {origin} has episodes {int(numbers[0])} to {int(numbers[-1])}."
            )
        both = next((other for other, held in out.items() if bool(torch.isin(chosen, held).any())), None)
        if both is not None:
            raise ConfigError(f"splits {both!r} and {split!r} share episodes: an episode belongs to one split.")
        out[split] = chosen
    return out


def _scales(recording: EpisodeLog, how: EpisodesConfig, train: Tensor | None) -> dict[str, Scale]:
    """How each field that the config names is normalised: by the recording's statistics, or those of training frames."""
    out = {}
    for key, mode in how.normalise.items():
        there = [*recording.numbers, *recording.cameras]
        if key not in there:
            raise ConfigError(
                f"data.episodes.normalise names {quote(key)}, and {recording.origin} has {', '.join(map(quote, there))}"
                f"{did_you_mean(key, there)}."
            )
        known = recording.statistics.get(key)
        if known is None and key in recording.numbers and train is not None:
            known = measure_statistics(recording.numbers[key][torch.isin(recording.episodes, train)])
        if known is None:
            raise ConfigError(
                f"{recording.origin} says nothing of the mean and spread of {quote(key)}: leave it out of "
                "data.episodes.normalise, and normalise it in the model."
            )
        out[key] = make_scale(key, mode, known)
    return out


def _named(config: Config) -> set[str] | None:
    """Fields that the config names, which cameras are read for; None where it names no modality yet."""
    if not config.modalities:
        return None
    inputs = [m if section.input is None else section.input for m, section in config.modalities.items()]
    flat = [key for one in inputs for key in ((one,) if isinstance(one, str) else one)]
    return {*flat, *config.data.also}
