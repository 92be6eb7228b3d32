"""A folder of questions: a manifest that says what they are of, and their lines in shards. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, ValidationError

from collapsekit.answers.formats import get_format
from collapsekit.answers.formats._format import AnswerFormat, PlanInBrief
from collapsekit.errors import ConfigError, RefusedError
from collapsekit.io.files import is_file, read_bytes, reason, write_atomic
from collapsekit.io.json import json_text, read_json
from collapsekit.io.safe_text import quote
from collapsekit.report.base import Count, Frozen, Positive

NAME = "manifest.json"
SHARD, SHARD_BYTES = 50_000, 100 << 20  # questions and bytes of a file, about: what batch systems take
MAX_BYTES, MAX_WIDTH = 1 << 30, 1 << 16  # bytes of a shard, numbers of an answer

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Kind = Literal["classes", "labels", "values"]  # what an answer is: a choice, a yes or no a label, numbers


def _plain_name(value: str) -> str:
    if not value or "/" in value or "\\" in value or "\0" in value or value.startswith("."):
        raise ValueError("a shard is a file of the folder itself")
    return value


class Shard(Frozen):
    """One file of questions."""

    file: Annotated[str, AfterValidator(_plain_name)]
    questions: Count
    sha256: Digest


class AnswerShape(Frozen):
    """What an answer has to be: how many numbers, of which kind, and what choices are called."""

    kind: Kind
    width: Annotated[Positive, Field(le=MAX_WIDTH)]
    choices: tuple[str, ...] = ()


class PlanCost(Frozen):
    """What the questions cost whoever answers them; null: not known."""

    questions: Count
    forwards: Count
    tokens: Count | None = None  # of text, about; images come on top, as many as the model makes of them
    tokens_by: Literal["tokenizer", "words"] | None = None  # what they are counted by
    text_only: Count = 0  # of the questions, those that give the text and nothing else


class DataRead(Frozen):
    """One split as it was read."""

    examples: Count
    sha256: Digest


class Manifest(Frozen):
    """What a folder of questions says of itself."""

    schema_version: Literal[1] = 1
    collapsekit: str
    key: Digest  # of config, data, seed and limit: questions of one key can be told by their ids
    config: str | None  # where the config lay, for people
    config_sha256: Digest
    data: dict[str, DataRead]
    format: str
    modalities: tuple[str, ...]
    split: str
    seed: Count
    limit: Count | None
    options: dict[str, dict[str, Any]]  # of probes, as they were given
    draws: dict[str, Count]  # by split, of each absent modality
    answer: AnswerShape
    cost: PlanCost
    shards: tuple[Shard, ...]

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a folder's manifest. Raises ConfigError where there is none, RefusedError for one that is damaged."""
        path = folder / NAME
        if not is_file(path):
            raise ConfigError(
                f"{folder} has no {NAME}, expected a folder that `collapsekit plan` wrote: name that folder."
            )
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RefusedError(f"{path} at {quote(where)}: {first['msg']}; plan the questions again.") from None

    @property
    def in_brief(self) -> PlanInBrief:
        """What answers are held against."""
        return PlanInBrief(self.key, self.answer.kind, self.answer.width, self.cost.questions)

    def save(self, folder: Path) -> Path:
        """Write it to a folder, whole or not at all."""
        return write_atomic(folder / NAME, json_text(self.model_dump(mode="json")))


def write_shards(folder: Path, lines: Iterator[dict[str, Any]], kind: AnswerFormat, first: int = 0) -> list[Shard]:
    """Write questions to files of a folder, each whole or not at all.

    Args:
        folder: where they go.
        lines: one a question.
        kind: their format.
        first: number of the first file.

    Returns:
        What was written.
    """
    found: list[Shard] = []
    part: list[str] = []
    length = 0

    def finish() -> None:
        data = kind.pack("".join(part))
        name = f"questions-{first + len(found):05d}.{kind.suffix}"
        write_atomic(folder / name, data)
        found.append(Shard(file=name, questions=len(part), sha256=hashlib.sha256(data).hexdigest()))
        part.clear()

    for line in lines:
        part.append(json_line(line))
        length += len(part[-1])
        if len(part) == SHARD or length >= SHARD_BYTES:
            finish()
            length = 0
    if part:
        finish()
    return found


def json_line(value: Any) -> str:
    """Write one line of JSON."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"


def read_shards(folder: Path, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield the lines of all shards in order. Raises RefusedError where a file is not what the manifest says."""
    kind = get_format(manifest.format)
    for path, data in _shards(folder, manifest):
        yield from kind.unpack(path, data)


def _shards(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, bytes]]:
    for shard in manifest.shards:
        path = folder / shard.file
        try:
            data = read_bytes(path, MAX_BYTES)
        except OSError as e:
            raise RefusedError(f"{path} cannot be read: {reason(e)}; plan the questions again.") from None
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise RefusedError(f"{path} is not the file that was planned: it was changed; plan the questions again.")
        yield path, data


def read_ids(folder: Path, manifest: Manifest) -> NDArray[np.uint64]:
    """Read the numbers of all questions.

    Args:
        folder: of the questions.
        manifest: which says what is in it.

    Returns:
        Numbers (q,), in order.

    Raises:
        RefusedError: where they are not those that the manifest says.
    """
    kind = get_format(manifest.format)
    parts = [kind.numbers_in(path, data) for path, data in _shards(folder, manifest)]
    found = np.concatenate([np.empty(0, np.uint64), *parts])
    distinct = len(np.unique(found))
    if len(found) != manifest.cost.questions or distinct != len(found):
        raise RefusedError(
            f"{folder} has {distinct:,} questions, and its {NAME} says {manifest.cost.questions:,}: plan them again."
        )
    return found
