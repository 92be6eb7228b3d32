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
        lines = [] if file is None else read_lines(file)
        self.records = [r for r in lines if r.get("settings") == self.settings]

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
    """Read the records of a file: none where there is no file, and no last line that is cut off."""
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def add_line(file: Path, record: Mapping[str, Any]) -> None:
    """Write one more record to a file, in place of a last line that is cut off."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as lines:
        lines.seek(0)
        text = lines.read()
        if not text.endswith(b"\n"):
            lines.truncate(text.rfind(b"\n") + 1)
        lines.write(json.dumps(record).encode() + b"\n")
