"""What holds for every JSON file that collapsekit writes: versions, and a digest that a change does not survive."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from collapsekit.cli import app
from collapsekit.errors import RefusedError
from collapsekit.report.base import Contract
from collapsekit.report.diagnosis import Report
from collapsekit.report.repair import RepairReport
from tests.resealing import resealed
from tests.sound_files import KINDS, first, sound


@pytest.mark.parametrize("name", ["report", "repair", "gate", "baseline"])
def test_what_version_1_wrote_loads_and_is_written_as_version_2(name: str) -> None:
    old, new = json.loads(first(name)), json.loads(KINDS[name].from_json(first(name)).to_json())
    assert old["schema_version"] == 1
    assert new["schema_version"] == 2
    assert KINDS[name].from_data(new) == KINDS[name].from_data(old)
    assert _without_what_is_new(new) == _without_what_is_new(old)


def _without_what_is_new(value: Any) -> Any:
    """The numbers and words of a file, less its marks and the fields that version 1 had not."""
    if isinstance(value, list):
        return [_without_what_is_new(v) for v in value]
    if not isinstance(value, dict):
        return value
    new = {"at_least", "at_most", "missing", "rules"} | {
        "schema_version",
        "judged",
        "warnings",
        "config",
        "engine",
        "reference",
        "error",
        "forecast",
        "gained",
    }
    whole = "schema_version" in value
    return {
        k: _without_what_is_new(v)
        for k, v in value.items()
        if not (k in new and (k == "schema_version" or v in (None, []))) and not (whole and k == "sha256")
    }


@pytest.mark.parametrize("name", KINDS)
def test_what_is_written_is_read_and_written_as_the_same_bytes(name: str) -> None:
    text = sound(name)
    again = KINDS[name].from_json(text)
    assert again.to_json() == text
    assert json.loads(text)["sha256"] == _digest_by_the_words(json.loads(text))
    for inner in _reports_within(json.loads(text)):
        assert inner["sha256"] == _digest_by_the_words(inner)
        assert json.loads(Report.from_data(inner).to_json()) == inner  # each stands for itself


def _digest_by_the_words(raw: dict[str, Any]) -> str:
    """The digest as `collapsekit schema` describes it."""
    rest = {k: v for k, v in raw.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _reports_within(raw: dict[str, Any]) -> list[dict[str, Any]]:
    return [r["report"] for r in raw.get("runs", [])] + [raw[k] for k in ("before", "after", "control") if raw.get(k)]


@pytest.mark.parametrize("name", KINDS)
def test_layout_and_order_of_keys_are_no_change(name: str) -> None:
    raw = json.loads(sound(name))
    for text in (json.dumps(raw), json.dumps(raw, sort_keys=True, indent=3, ensure_ascii=False)):
        assert KINDS[name].from_json(text) == KINDS[name].from_json(sound(name))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from _places(part, (*path, key))


def _edits(name: str, count: int) -> Iterator[tuple[str, Any]]:
    """Single edits of a sound file: a key or an entry dropped, added, changed, or swapped with its neighbour."""
    text = sound(name)
    places = [p for p in _places(json.loads(text)) if p]
    rng = random.Random(0)
    for _ in range(count):
        raw = json.loads(text)
        *path, last = rng.choice(places)
        holder = raw
        for key in path:
            holder = holder[key]
        before, how = json.dumps(raw), rng.choice(["drop", "change", "add", "swap"])
        if how == "drop":
            del holder[last]
        elif how == "change":
            old = holder[last]
            holder[last] = rng.choice([old + 1, -old] if type(old) in (int, float) else [None, "x", True, [], 0.5])
        elif how == "add" and isinstance(holder, dict):
            holder["x"] = rng.choice([None, 1, "x"])
        elif how == "add":
            holder.insert(last, json.loads(json.dumps(holder[last])))
        else:
            other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            holder[last], holder[other] = holder[other], holder[last]
        if json.dumps(raw) != before:
            yield f"{how} at {'.'.join(map(str, [*path, last]))}", raw


@pytest.mark.parametrize("name", KINDS)
def test_no_single_edit_loads(name: str) -> None:
    tried = 0
    for what, raw in _edits(name, 120):
        assert _refused(KINDS[name], raw), what
        tried += 1
    assert tried > 60


def _refused(kind: type[Contract], raw: Any) -> bool:
    try:
        kind.from_data(raw)
    except RefusedError:
        return True
    return False


@pytest.mark.parametrize("name", ["report", "repair", "gate", "baseline"])
@pytest.mark.parametrize("field", ["sha256", "judged", "warnings", "config", "subject.engine"])
def test_version_1_has_none_of_the_later_fields(name: str, field: str) -> None:
    """So that no file is taken for an older one by changing its version."""
    raw = json.loads(first(name))
    holder = {"repair": lambda: raw["before"], "baseline": lambda: raw["runs"][1]["report"]}.get(name, lambda: raw)()
    first_part, _, last = field.rpartition(".")
    (holder[first_part] if first_part else holder)[last] = [] if field == "warnings" else None
    with pytest.raises(RefusedError):
        KINDS[name].from_data(raw)
    with pytest.raises(RefusedError):
        KINDS[name].from_data({**json.loads(sound(name)), "schema_version": 1})


def test_a_report_of_another_version_than_the_file_around_it_is_refused() -> None:
    for new in (False, True):
        raw = json.loads(sound("repair") if new else first("repair"))
        raw["before"] = json.loads(first("repair") if new else sound("repair"))["before"]
        with pytest.raises(RefusedError, match=r"before in r\.json has another schema_version"):
            RepairReport.from_data(json.loads(resealed(RepairReport, raw)) if new else raw, "r.json")


@pytest.mark.parametrize(("value", "said"), [('"0.9"', "a number was expected"), ("true", "a number was expected")])
def test_numbers_given_as_text_or_as_truths_are_refused(value: str, said: str) -> None:
    for place in ("value", "interval"):
        raw = json.loads(sound("report"))
        some = next(r for r in raw["results"] if r["name"] == "reliance.full_metric")
        some[place] = json.loads(value) if place == "value" else [json.loads(value), 1.0]
        with pytest.raises(RefusedError, match=said):
            Report.from_json(resealed(Report, raw))
    for place, wrong in (("examples", value), ("seed", value), ("examples", "150.0")):
        raw = json.loads(sound("report"))
        raw["subject"][place] = json.loads(wrong)
        with pytest.raises(RefusedError, match="number was expected"):
            Report.from_json(resealed(Report, raw))


def test_a_whole_number_is_a_number() -> None:
    raw = json.loads(sound("report"))
    some = next(r for r in raw["results"] if r["name"] == "vif.max")
    some |= {"value": 7, "interval": [6, 8]}
    found = Report.from_json(resealed(Report, raw)).find("vif.max")
    assert found is not None
    assert found.value == 7.0


def test_the_schema_says_what_the_digest_is_over() -> None:
    for kind in ("report", "repair", "gate", "baseline", "compare"):
        schema = json.loads(CliRunner().invoke(app, ["schema", kind]).stdout)
        assert "sort_keys=True" in schema["properties"]["sha256"]["description"]
        assert {"schema_version", "sha256"} <= set(schema["required"])
        assert schema["properties"]["schema_version"]["const"] == 2
