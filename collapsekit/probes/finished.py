"""Probes that an interrupted diagnosis finished, kept in a folder: one file a probe, and one of coalitions' values.

They are taken up only where all that their numbers rest on is the same: weights, what the model answers, examples, config,
options, seed, and the versions that compute. Anything else is measured again. Results of a user's own probe are not kept,
as nobody can tell whether its code is what it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from collapsekit.distributed.process_group import current
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.features.features import Features
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.games.draws import CoalitionValue
from collapsekit.io.files import read_bytes, read_text, reason, write_atomic
from collapsekit.io.json import MAX_BYTES
from collapsekit.probes.runner import check_result, is_ours
from collapsekit.readouts.cache import private_folder
from collapsekit.registry import ProbeSpec
from collapsekit.report.diagnosis import Result
from collapsekit.session.session import Session
from collapsekit.session.subject import environment, subject_of
from collapsekit.version import __version__

COALITIONS = "coalitions.safetensors"
OTHER = "it is of other weights, code, data, settings or versions"  # why something is not taken up
MOST = 2**28  # bytes of coalitions' values that are kept
_OURS = re.compile(r"\.?([a-z_]+\.json|coalitions\.safetensors)(\.[0-9a-f]+)?")  # the latter: of write_atomic
_RESULTS = TypeAdapter(list[Result])
_VALUE = re.compile(r"(known|sure)/(\d{1,4})/(\d{1,18})/(loss|metric|expected)")


class _UnusableError(Exception):
    """Why a file is not taken up, in words."""


class FinishedProbes:
    """The results of probes in a folder of the user's alone; None: nowhere. Only the first process reads and writes it."""

    def __init__(self, folder: Path | None, session: Session, about: Mapping[str, Any]) -> None:
        """``about``: what the numbers rest on beside the session, as JSON can hold it."""
        self.folder, self.session = folder, session
        self.identity = "" if folder is None else _identity(session, about)
        self._values = 0  # coalitions' values that are kept

    def take_up(self, chosen: Sequence[ProbeSpec]) -> dict[str, list[Result]]:
        """Read what is finished of the chosen probes, and say in a sentence what is not taken up and why.

        Args:
            chosen: The probes that are asked for.

        Returns:
            Results by probe.
        """
        if self.folder is None:
            return {}
        entries, tensors, refused = current().on_main(lambda: self._read(chosen))
        found, digests = dict[str, list[Result]](), dict[str, str]()
        for name, (text, read) in entries.items():
            if all(self._digest_of(split, digests) == digest for split, digest in read.items()):
                found[name] = _RESULTS.validate_json(text)
            else:
                refused.setdefault(OTHER, []).append(name)
        with contextlib.suppress(CollapsekitError):  # where there is no such game, a probe says so
            _give_values(self.session, tensors)
        self._values = len(tensors)
        for why, which in refused.items():
            self.session.progress.note(f"What was finished of {', '.join(which)} is measured again, as {why}.")
        if found:
            self.session.progress.note(
                f"{len(found)} of {len(chosen)} probes were finished before: {', '.join(found)}."
            )
        return found

    def begin_anew(self) -> dict[str, list[Result]]:
        """Remove what an interrupted diagnosis left; what is finished then, which is nothing."""
        if self.folder is not None and self.folder.is_dir():
            self.session.progress.note(
                f"What an interrupted diagnosis finished, in {self.folder}, is not taken up unless it is resumed: it is "
                "removed."
            )
            self.clear()
        return {}

    def keep(self, spec: ProbeSpec, results: Sequence[Result]) -> None:
        """Keep what a probe found. A full or read-only disk is no error: it is then measured again."""
        if self.folder is None or not is_ours(spec) or any(r.error is not None for r in results):
            return
        text = _RESULTS.dump_json(list(results)).decode()
        if _RESULTS.validate_json(text) != list(results):
            return  # what would not come back as it was
        read = {split: f.digest for split, f in self.session.features.read.items()}
        folder = self.folder

        def write() -> None:
            with contextlib.suppress(ConfigError, OSError):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                entry = {"identity": self.identity, "probe": spec.name, "read": read, "results": text}
                write_atomic(
                    folder / f"{spec.name}.json", json.dumps({**entry, "sha256": _digest(entry)}, allow_nan=False)
                )
                self._keep_values(folder)

        current().on_main(write)

    def clear(self) -> None:
        """Remove the folder and what is of us in it."""
        if self.folder is not None:
            folder = self.folder
            current().on_main(lambda: clear(folder))

    def _read(
        self, chosen: Sequence[ProbeSpec]
    ) -> tuple[dict[str, tuple[str, dict[str, str]]], dict[str, Tensor], dict[str, list[str]]]:
        """By probe the text of its results and digests of what it read; values of coalitions; and by the reason what is not
        taken up."""
        entries, tensors = dict[str, tuple[str, dict[str, str]]](), dict[str, Tensor]()
        refused = dict[str, list[str]]()
        assert self.folder is not None
        folder, why = private_folder(self.folder)
        if folder is None:
            return {}, {}, {f"{self.folder} is not a folder of yours alone": ["an earlier diagnosis"] if why else []}
        for spec in chosen:
            try:
                entries[spec.name] = self._entry(folder / f"{spec.name}.json", spec)
            except FileNotFoundError:
                continue
            except _UnusableError as e:
                refused.setdefault(str(e), []).append(spec.name)
        try:
            tensors = self._read_values(folder)
        except FileNotFoundError:
            pass
        except _UnusableError as e:
            refused.setdefault(str(e), []).append("coalitions")
        return entries, tensors, refused

    def _digest_of(self, split: str, digests: dict[str, str]) -> str:
        """The digest of a split, which is read for it: the report says of what was read which examples repeat."""
        if split not in digests:
            try:
                digests[split] = self.session.features.of(split).digest
            except CollapsekitError:
                digests[split] = ""
        return digests[split]

    def _entry(self, path: Path, spec: ProbeSpec) -> tuple[str, dict[str, str]]:
        """The text of a probe's results, checked, and the digests of the splits that were read."""
        try:
            entry = json.loads(read_text(path, MAX_BYTES))
            told = entry.pop("sha256")
            if told != _digest(entry) or entry["probe"] != spec.name:
                raise ValueError
            same, text, read = entry["identity"] == self.identity, entry["results"], entry["read"]
            if not isinstance(text, str) or not isinstance(read, dict):
                raise TypeError
            results = _RESULTS.validate_json(text)
            for i, result in enumerate(results):
                check_result(spec, result, self.session.features, results[:i])
        except FileNotFoundError:
            raise
        except OSError as e:
            raise _UnusableError(reason(e)) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError, CollapsekitError):
            raise _UnusableError("what was kept of it is damaged") from None
        if not same or not is_ours(spec):
            raise _UnusableError(OTHER)
        return text, read

    def _keep_values(self, folder: Path) -> None:
        tensors = dict(_values(self.session))
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        if len(tensors) > self._values and size <= MOST:
            about = {"identity": self.identity, "sha256": _digest_values(tensors)}
            write_atomic(folder / COALITIONS, save(tensors, metadata=about))
            self._values = len(tensors)

    def _read_values(self, folder: Path) -> dict[str, Tensor]:
        try:
            data = read_bytes(folder / COALITIONS, 2 * MOST)
            about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            tensors = load(data)
            if about["sha256"] != _digest_values(tensors) or not all(_VALUE.fullmatch(name) for name in tensors):
                raise ValueError
            if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
                raise ValueError
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _UnusableError("what was kept of it is damaged") from None
        if about["identity"] != self.identity:
            raise _UnusableError(OTHER)
        return tensors


def clear(folder: Path) -> None:
    """Remove the folder and what is of us in it; whatever else lies there stays.

    Args:
        folder: The folder, which need not be there.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and not path.is_dir():
                path.unlink()
        folder.rmdir()


def _identity(session: Session, about: Mapping[str, Any]) -> str:
    """A digest of all that a probe's numbers rest on, but the examples of other splits: these have digests of their own."""
    features, task = session.features, session.task
    answers = hashlib.sha256()
    for value in (*_features(features), features.outputs):
        answers.update(_bytes(value))
    expected = task.expect(features.outputs)
    answers.update(_bytes(task.loss(expected, features.targets)))  # a user's own task
    rests = {
        "version": __version__,
        "environment": environment(),
        "subject": subject_of(session).model_dump(mode="json"),
        "examples": features.digest,
        "answers": answers.hexdigest(),
        "options": {name: options.model_dump(mode="json") for name, options in session.options.items()},
        "seed": session.seed,
        "level": session.level,
        "profile": session.profile,
        "about": about,
    }
    return hashlib.sha256(json.dumps(rests, sort_keys=True, default=str, allow_nan=False).encode()).hexdigest()


def _features(features: Features) -> Iterator[Tensor]:
    """What there is of pooled features and the fused representation: rows, or sums."""
    if features.sums is None:
        yield from (*features.pooled.values(), features.fused)
        return
    for parts in features.sums.groups.values():
        for part in parts:
            yield from (part.mean, part.scatter)


def _digest(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def _digest_values(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _values(session: Session) -> Iterator[tuple[str, Tensor]]:
    """The values of coalitions that are known, by kind, draws, coalition and part."""
    for draws, game in session.games.items():
        for kind, store in (("known", game.known), ("sure", game.sure)):
            for mask, value in store.items():
                for part in ("loss", "metric", "expected"):
                    yield f"{kind}/{draws}/{mask}/{part}", getattr(value, part).contiguous()


def _give_values(session: Session, tensors: Mapping[str, Tensor]) -> None:
    """Put values of coalitions where the session's games look for them; those of categories are not kept, so that games of
    data that have some are valued anew."""
    if session.features.categories:
        return
    for name, loss in tensors.items():
        kind, draws, mask, part = name.split("/")
        if part != "loss":
            continue
        parts = [tensors.get(f"{kind}/{draws}/{mask}/{other}") for other in ("metric", "expected")]
        metric, expected = parts
        if metric is None or expected is None:
            continue
        game: CoalitionGame = session.game_of(int(draws))
        store = game.known if kind == "known" else game.sure
        store.setdefault(int(mask), CoalitionValue(loss, metric, expected))
