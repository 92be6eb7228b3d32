from __future__ import annotations

import contextlib
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from collapsekit.errors import RefusedError
from collapsekit.report.agreement import DECIDING
from collapsekit.report.diagnosis import Curve, ModalityVerdict, Report, Result
from tests.factories import make_plain_report
from tests.resealing import resealed

numbers = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(max_size=20)


def _report(results: tuple[Result, ...] = (), name: str = "a") -> Report:
    return make_plain_report(results, (name, "b"))


@given(
    value=numbers,
    width=st.floats(0, 1e6),
    # Not a name of results that verdicts are read from, which are of probes of theirs.
    name=text.filter(lambda t: t.strip() != "" and t.partition(".")[0] not in DECIDING),
    definition=text,
    curve=st.lists(numbers, max_size=4),
)
def test_json_both_ways(value: float, width: float, name: str, definition: str, curve: list[float]) -> None:
    line = Curve(x=tuple(range(len(curve))), y=tuple(curve), x_label="x", y_label="y")
    low = value - width if math.isfinite(value - width) else value
    result = Result(
        name=name, probe="p", value=value, interval=(low, value), definition=definition, source="s", curve=line
    )
    report = _report((result,))
    again = Report.from_json(report.to_json())
    assert again == report
    assert again.to_json() == report.to_json()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_is_refused_everywhere(bad: float) -> None:
    with pytest.raises(ValidationError):
        Result(name="n", probe="p", value=bad, definition="d", source="s")
    with pytest.raises(ValidationError):
        Result(name="n", probe="p", value=0.0, interval=(0.0, bad), definition="d", source="s")
    with pytest.raises(ValidationError):
        Curve(x=(0.0,), y=(bad,), x_label="x", y_label="y")
    with pytest.raises(ValidationError):
        ModalityVerdict(verdict="used", score=bad, reason="r")


def test_a_result_is_a_value_or_a_reason() -> None:
    with pytest.raises(ValidationError, match="needs either"):
        Result(name="n", probe="p", definition="d", source="s")
    with pytest.raises(ValidationError, match="needs either"):
        Result(name="n", probe="p", value=1.0, skipped="why", definition="d", source="s")
    with pytest.raises(ValidationError, match="swapped"):
        Result(name="n", probe="p", value=1.0, interval=(2.0, 1.0), definition="d", source="s")
    with pytest.raises(ValidationError, match=r"curve\.lower"):
        Curve(x=(1.0,), y=(1.0,), lower=(), x_label="x", y_label="y")


def test_frozen() -> None:
    report = _report()
    with pytest.raises(ValidationError):
        report.verdict = "collapsed"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[1]", "schema_version"),
        ("{}", "schema_version"),
        ('{"schema_version": 99}', "99"),
        ('{"schema_version": 1}', "collapsekit"),
        ('{"schema_version": NaN}', "NaN"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_report_is_refused(text: str, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        Report.from_json(text)


@given(st.recursive(st.none() | st.booleans() | numbers | text, lambda c: st.lists(c) | st.dictionaries(text, c)))
def test_any_json_is_a_report_or_refused(value: object) -> None:
    raw = json.loads(_report().to_json())
    for key in raw:
        try:
            Report.from_json(resealed(Report, {**raw, key: value}))
        except RefusedError as e:
            assert str(e)  # noqa: PT017 - either outcome is fine, a traceback is not


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("NaN", "NaN is not allowed"),
        ("-Infinity", "-Infinity is not allowed"),
        ("1e999", "the number 1e999 is out of range"),
        ("-1" + "0" * 400 + ".0", "out of range"),
        ("9" * 1_000_000, "a number of 1,000,000 digits is too long"),
        (str(2**64), "must fit 64 bits, found one of 65 at 'x'"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("[" * 300 + "]" * 300, "nested more than 100 levels deep"),
        ("[" + "0," * 1_000_000 + "0]", "unfolds to more than 1,000,000 values"),
        ('{"k": 1, "b": {"k": 2, "k": 3}}', "the key 'k' stands twice in one object"),
        ('{"a\\nb": 1, "a\\nb": 1}', r"the key 'a\nb' stands twice"),
        ("\x01", "not JSON"),
        ('"\x1b[31m"', "not JSON"),
    ],
)
@pytest.mark.parametrize("place", ["settings", "environment"])
def test_what_the_schema_leaves_open_is_checked_too(value: str, says: str, place: str) -> None:
    text = _report().to_json()
    hurt = text.replace(f'"{place}": {{}}', f'"{place}": {{"x": {value}}}')
    assert hurt != text
    with pytest.raises(RefusedError) as caught:
        Report.from_json(hurt, "r.json")
    assert says in str(caught.value)
    assert str(caught.value).startswith("r.json")
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "version", ["true", "1.0", '"1"', "null", "[1]", "[" * 900 + "]" * 900, "0", "3", '"\\ud800\\n"']
)
def test_only_versions_1_and_2_are_read(version: str) -> None:
    hurt = _report().to_json().replace('"schema_version": 2', f'"schema_version": {version}')
    with pytest.raises(RefusedError, match=r"has schema_version .{1,50}, this collapsekit reads 1 and 2") as caught:
        Report.from_json(hurt)
    assert str(caught.value).isprintable()


def test_a_key_twice_at_the_top_is_refused() -> None:
    hurt = _report().to_json().replace('"summary": "s"', '"summary": "s", "summary": "t"')
    with pytest.raises(RefusedError, match="'summary' stands twice"):
        Report.from_json(hurt)


def test_half_characters_survive(tmp_path: Path) -> None:
    """A file name that is not UTF-8 reaches Python with them."""
    report = _report(name="a\udcff")
    report = report.model_copy(update={"settings": {"\udc80": ["\ud800", 1, None, 0.5, {"β": "\U0001f600"}]}})
    text = report.to_json()
    assert "\\udcff" in text
    assert "β" in text
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    assert Report.load(tmp_path / "r.json") == report


def test_what_json_has_no_word_for_is_written_as_pydantic_does() -> None:
    report = _report().model_copy(update={"settings": {"path": Path("a"), "pair": (1, 2), "set": {3}}})
    assert json.loads(report.to_json())["settings"] == report.model_dump(mode="json")["settings"]


def test_files_that_are_no_report_are_refused(tmp_path: Path) -> None:
    """A pipe is not opened, which would wait for ever; a large file is not read."""
    good = _report().to_json()
    (tmp_path / "bom.json").write_text(good, encoding="utf-8-sig")
    assert Report.load(tmp_path / "bom.json") == _report()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_text(good)
    os.truncate(tmp_path / "large", 64_000_001)
    (tmp_path / "latin").write_bytes(good.replace('"s"', '"\xe9"').encode("latin-1"))
    (tmp_path / "utf-16").write_bytes(good.encode("utf-16"))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "junk").write_bytes(random.Random(0).randbytes(10_000))
    said = {
        "pipe": "not a regular file",
        "loop": "symbolic links",
        "large": "64,000,001 bytes, more than the 64,000,000 that are read",
        "latin": "not UTF-8 text",
        "utf-16": "not UTF-8 text",
        "empty": "not JSON",
        "junk": "not UTF-8 text",
        ".": "not a regular file",
        "none": "No such file",
        "x" * 300: "File name too long",
        "a\0b": "null",
    }
    for name, words in said.items():
        with pytest.raises(RefusedError) as caught:
            Report.load(tmp_path / name)
        assert words in str(caught.value), name


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for k, v in inner for p in _places(v, (*path, k)))]


WHOLE = _report(
    (
        Result(name="n", probe="p", value=1.0, interval=(0.0, 2.0), definition="d", source="s", note="why"),
        Result(
            name="c",
            probe="p",
            modality="a",
            definition="d",
            source="s",
            curve=Curve(x=(0.0, "a+b"), y=(1.0, 2.0), lower=(0.0, 1.0), upper=(2.0, 3.0), x_label="x", y_label="y"),
        ),
        Result(name="k", probe="p", definition="d", source="s", skipped="r"),
    )
).model_copy(update={"settings": {"command": "x", "probes": {"p": {"k": [1, 2]}}}})
PLACES = _places(json.loads(WHOLE.to_json()))
# As text, since several have no value in Python that json.dumps would write so.
PARTS = [
    *("null", "true", "0", "-1", "1.5", "1e308", "1e999", "NaN", "Infinity", '""', '"a"', "[]", "{}", "[0]", "[[[]]]"),
    *('"\\ud800"', '"\\u0000"', '"<b>"', "9" * 30, "9" * 500, '{"a": 0, "a": 1}', "[1, 0]", '{"a": {}}', '"used"'),
    *('"\\u202e"', "[" * 150 + "]" * 150, "", "-", '"\n"'),
]
MARK = "@here@"


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(PARTS), st.booleans()), min_size=1, max_size=3))
def test_a_report_hurt_anywhere_is_a_report_or_refused(hurts: list[tuple[tuple[Any, ...], str, bool]]) -> None:
    raw = {"": json.loads(WHOLE.to_json())}
    parts = []
    for place, part, rename in hurts:
        holder: Any = raw
        keys: tuple[Any, ...] = ("", *place)
        try:
            for key in keys[:-1]:
                holder = holder[key]
            if rename and isinstance(holder, dict) and place:
                holder[f"{MARK}{len(parts)}"] = holder.pop(keys[-1])
                parts.append((f'"{MARK}{len(parts)}"', part if part.startswith('"') else '"k"'))
            else:
                _ = holder[keys[-1]]
                holder[keys[-1]] = f"{MARK}{len(parts)}"
                parts.append((f'"{MARK}{len(parts)}"', part))
        except (KeyError, IndexError, TypeError):
            continue  # what an earlier hurt took away
    text = json.dumps(raw[""])
    for mark, part in parts:
        text = text.replace(mark, part)
    _report_or_refused(text)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_report_cut_or_stirred_is_a_report_or_refused(data: st.DataObject) -> None:
    text = WHOLE.to_json()
    for _ in range(data.draw(st.integers(1, 4))):
        at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 40))
        text = text[:at] + data.draw(st.sampled_from(PARTS) | st.text(max_size=3)) + text[at + length :]
    _report_or_refused(text)


def _report_or_refused(text: str) -> None:
    """As it is, where the digest tells, and with the digest made again, where the rest has to."""
    texts = [text]
    with contextlib.suppress(ValueError, RecursionError):
        texts.append(resealed(Report, json.loads(text)))
    for each in texts:
        try:
            report = Report.from_json(each)
        except RefusedError as e:
            assert str(e).isprintable()  # noqa: PT017 - either outcome is fine, a traceback is not
            continue
        written = report.to_json()
        written.encode()
        assert Report.from_json(written) == report


def test_find_tells_counterparts_apart() -> None:
    make = {"probe": "p", "definition": "d", "source": "s"}
    results = (
        Result(name="n", modality="a", versus="b", value=1.0, **make),
        Result(name="n", modality="a", value=2.0, **make),
        Result(name="n", value=3.0, **make),
    )
    report = _report(results)
    found = [report.find("n", "a", "b"), report.find("n", "a"), report.find("n"), report.find("n", "b")]
    assert [f.value if f else None for f in found] == [1.0, 2.0, 3.0, None]
    assert [r.value for r in report.named("n")] == [1.0, 2.0, 3.0]


def test_the_schema_accepts_what_the_report_writes() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (extra: test)")
    jsonschema.validate(json.loads(_report().to_json()), Report.model_json_schema())


# -- collapsekit report ------------------------------------------------------------------------------------------------


def _run(*args: str) -> Any:
    from typer.testing import CliRunner

    from collapsekit.cli import app

    return CliRunner().invoke(app, ["report", *args], prog_name="collapsekit")


def test_the_command_refuses_what_is_no_report(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "deep").write_text("[" * 200_000)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "name").write_text(WHOLE.to_json().replace('"inconclusive"', '"\x1b[31m\\u001b[/x]::error::"'))
    (tmp_path / "odd").write_text(WHOLE.to_json().replace('"inconclusive"', '"\\u001b[31m[/x]\\n::error::gone"'))
    (tmp_path / "key").write_text(WHOLE.to_json().replace('"reason"', '"\\u001b[31m[/x]\\n::error::gone"'))
    for name, code in {
        **dict.fromkeys(("pipe", "loop", "deep", "empty", "name", "odd", "key", "/dev/null"), 3),
        **dict.fromkeys(("none", "x" * 300, "deep/below"), 2),
    }.items():
        done = _run(str(tmp_path / name))
        assert done.exit_code == code, (name, done.output)
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "\x1b" not in done.stderr
        assert "::error" not in done.stderr


def test_the_command_renders_names_that_act_harmlessly(tmp_path: Path) -> None:
    name = "<script>\x1b]8;;http://evil.example\x07[/x]\u202e\0\udcff=cmd|'/c calc'!A1%0A::error::gone"
    (tmp_path / "report.json").write_text(_report(name=name).to_json())
    for format_ in ("terminal", "md", "html", "json"):
        done = _run(str(tmp_path), "-f", format_)
        assert done.exit_code == 0, done.output
        assert not set(done.stdout) & set("\x1b\x07\0\udcff")
        if format_ != "json":  # where a reader takes names as they are
            assert "\u202e" not in done.stdout
            assert "::error" not in done.stdout
        if format_ in ("md", "html"):
            assert "<script" not in done.stdout
        to_file = _run(str(tmp_path), "-f", format_, "-o", str(tmp_path / format_))
        assert to_file.exit_code == 0, to_file.output
    assert Report.load(tmp_path / "json").subject.modalities[0] == name
