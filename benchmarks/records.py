"""Records in a file, one JSON object a line, which a run that was ended goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Records:
    """What was measured under the same settings.

    Args:
        file: holds the records, and gets further ones; None: they are only kept here.
        settings: what else than the key a record depends on; those of other settings are not read.
        key: the fields that tell a record from another.
    """

    def __init__(self, file: Path | None, settings: Mapping[str, Any], key: Sequence[str]) -> None:
        self.file, self.settings, self.key = file, json.loads(json.dumps(settings)), tuple(key)
        self.records: list[Record] = []
        if file is not None and file.is_file():
            self.records = [r for r in read_lines(file) if r.get("settings") == self.settings]

    def find(self, **key: Any) -> Record | None:
        """Return the record with this key, or None."""
        if set(key) != set(self.key):
            raise ValueError(f"a record is found by {', '.join(self.key)}, not by {', '.join(key)}")
        return next((r for r in self.records if all(r[k] == v for k, v in key.items())), None)

    def add(self, record: Record) -> None:
        """Keep a record, unless one with its key is there already, and write it down."""
        if self.find(**{k: record[k] for k in self.key}) is not None:
            return
        self.records.append({**record, "settings": self.settings})
        if self.file is not None:
            add_line(self.file, self.records[-1])


def read_lines(file: Path) -> list[Record]:
    """Read the records of a file, none where there is no file; a last line that was cut off is taken out of the file."""
    if not file.is_file():
        return []
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def add_line(file: Path, record: Mapping[str, Any]) -> None:
    """Write one more record to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")
