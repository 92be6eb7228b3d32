"""A what-if question as data: an example, and whence each of its modalities comes. Imports no torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNCHANGED = -1  # in a row of codes: the modality is the example's own
STAND_IN = -2  # and below: a stand-in, the first is -2, the second -3
LEFT_OUT = -(1 << 62)  # the modality is not given at all
_ID = re.compile("[0-9a-f]{16}")
Codes = NDArray[np.int64]  # (q, 1 + m): an example's place in its split, then a code a modality


@dataclass(frozen=True)
class Question:
    """One question. ``taken``: by modality the place of the example that lends it; ``absent``: by modality which of its
    stand-ins is in its place; ``left_out``: those that are not given at all; any other modality is the example's own.
    Places count the examples of a split as they are read, from 0."""

    split: str
    example: int
    taken: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    absent: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    left_out: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Return it as a line of a shard has it, without its id."""
        edit: dict[str, Any] = {m: {"example": place} for m, place in self.taken.items()}
        edit |= {m: {"absent": number} for m, number in self.absent.items()}
        edit |= {m: {"left_out": True} for m in self.left_out}
        return {"split": self.split, "example": self.example, "edit": edit}

    @classmethod
    def of_codes(cls, split: str, modalities: Sequence[str], codes: Sequence[int]) -> Question:
        """Make it of one row of codes.

        Args:
            split: of the example.
            modalities: in the order of the codes.
            codes: the example's place, then a code a modality.

        Returns:
            The question.
        """
        place, *rest = codes
        taken = {m: code for m, code in zip(modalities, rest, strict=True) if code >= 0}
        absent = {m: STAND_IN - code for m, code in zip(modalities, rest, strict=True) if LEFT_OUT < code <= STAND_IN}
        left_out = tuple(m for m, code in zip(modalities, rest, strict=True) if code == LEFT_OUT)
        return cls(split, place, MappingProxyType(taken), MappingProxyType(absent), left_out)


def number_questions(key: str, split: str, codes: Codes) -> NDArray[np.uint64]:
    """Give each question its number: a hash of what is asked, under the key of config and data that it is asked of.

    Args:
        key: hexadecimal digest of the config and the data.
        split: of the examples.
        codes: (q, 1 + m).

    Returns:
        Numbers (q,), the same whatever else is asked.
    """
    start = hashlib.blake2b(f"{key}\0{split}\0".encode(), digest_size=8)
    rows = np.ascontiguousarray(codes, "<i8")
    out = bytearray()
    for row in rows:
        one = start.copy()
        one.update(row.tobytes())
        out += one.digest()
    return np.frombuffer(bytes(out), "<u8").astype(np.uint64)


def to_id(number: int) -> str:
    """Write a question's number as files have it."""
    return f"{number:016x}"


def parse_id(text: object) -> int | None:
    """Read a question's number; None for what is none."""
    return int(text, 16) if isinstance(text, str) and _ID.fullmatch(text) else None


def count_left_out(codes: Codes) -> int:
    """Count the questions that leave a modality out."""
    return int((codes == LEFT_OUT).any(1).sum())


def drop_repeats(codes: Codes) -> Codes:
    """Return each row of codes once, in the order in which they first stand."""
    if not len(codes):
        return codes
    _, first = np.unique(codes, axis=0, return_index=True)
    return codes[np.sort(first)]


def questions_of(key: str, split: str, modalities: Sequence[str], codes: Codes) -> Iterator[tuple[str, Question]]:
    """Yield questions with their ids, in the order of ``codes`` (q, 1 + m).

    Args:
        key: digest of the config and the data.
        split: of the examples.
        modalities: in the order of the codes.
        codes: what is asked.

    Yields:
        Id and question.
    """
    for number, row in zip(number_questions(key, split, codes).tolist(), codes.tolist(), strict=True):
        yield to_id(number), Question.of_codes(split, modalities, row)
