"""Records of repairs in a file, one JSON object a line, which a run that was ended goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.repair.subjects import Subject

Record = dict[str, Any]
Key = tuple[str, float, int, str]


def subject_of(subject: Subject) -> Key:
    """What tells a subject from another."""
    return subject.data, subject.noise, subject.seed, subject.kind


class Records:
    """What was measured under the same settings.

    Args:
        file: holds the records, and gets further ones; None: they are only kept here.
        settings: what else than subject, split and method a record depends on; those of other settings are not read.
    """

    def __init__(self, file: Path | None, settings: Mapping[str, Any]) -> None:
        self.file, self.settings = file, json.loads(json.dumps(settings))
        self.records: list[Record] = []
        if file is not None and file.is_file():
            self.records = [r for r in _read(file) if r.get("settings") == self.settings]

    def find(self, subject: Subject, split: str, method: str) -> Record | None:
        """Return the record of a method on a subject, or None."""
        return next((r for r in self.all(split, (method,)) if _key(r) == subject_of(subject)), None)

    def add(self, record: Record) -> None:
        """Keep a record, unless one of that subject and method is there already, and write it down."""
        record = {**record, "settings": self.settings}
        if any(_key(r) == _key(record) for r in self.all(record["split"], (record["method"],))):
            return
        self.records.append(record)
        if self.file is not None:
            with self.file.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def all(self, split: str, methods: Sequence[str]) -> list[Record]:
        """List the records of a split, in the order of methods, then as they were made."""
        return [r for m in methods for r in self.records if r["method"] == m and r["split"] == split]


def _key(record: Record) -> Key:
    return record["data"], record["noise"], record["seed"], record["kind"]


def _read(file: Path) -> list[Record]:
    """Records of a file; a last line that was cut off is left out, and cut off there, too."""
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]
