"""Answers in tables: reduced to the very bytes of the same answers in lines, and refused where they are not sound."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.answers import KEY, make_manifest
from collapsekit.answers.formats import parquet as module
from collapsekit.answers.question import to_id
from collapsekit.answers.reading import ANSWERED, MISSING, AnswerTable, read_answers
from collapsekit.errors import CollapsekitError, ConfigError, RefusedError
from tests.answers.making import make_answers, make_numbers, write_lines
from tests.answers.subjects import Asked, make_asked

pl = pytest.importorskip("polars")
COUNT = 6
NUMBERS = make_numbers(COUNT)
SOUND = make_answers(NUMBERS)
CHOICES = ("a", "b", "c")
TYPES = {
    "id": pl.String,
    "plan": pl.String,
    "model": pl.String,
    "text": pl.String,
    "error": pl.String,
    "refused": pl.Boolean,
    "scores": pl.List(pl.Float64),
    "logprobs": pl.List(pl.Float64),
    "probs": pl.List(pl.Float64),
    "value": pl.List(pl.Float64),
}
IDS = st.sampled_from([*(to_id(int(n)) for n in NUMBERS), *(to_id(int(n)) for n in NUMBERS), "0" * 16, "no id"])
FLOATS = st.floats(-5, 5, allow_nan=False) | st.sampled_from([0.0, 1.0, 1e-40, 1e39])
ROWS = {
    "scores": st.lists(FLOATS, min_size=3, max_size=3),
    "logprobs": st.lists(FLOATS, min_size=3, max_size=3),
    "probs": st.lists(st.floats(0, 1), min_size=3, max_size=3) | st.lists(FLOATS, min_size=2, max_size=3),
    "value": st.lists(FLOATS, min_size=1, max_size=3),
    "text": st.sampled_from(["a", " B.", "neither"]),
    "error": st.just("429"),
    "refused": st.booleans(),
}


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as a table that has the columns that some of them have."""
    kinds = {name: kind for name, kind in TYPES.items() if any(name in row for row in rows) or name == "id"}
    pl.DataFrame(rows, schema=kinds, orient="row").write_parquet(path, row_group_size=4)
    return path


def outcome(path: Path, **shape: Any) -> AnswerTable | str:
    """What comes of a file: its table, or which error."""
    try:
        return read_answers(make_manifest(COUNT, **shape), NUMBERS, [path])
    except CollapsekitError as e:
        return type(e).__name__


@st.composite
def files(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Answers as lines: most of them sound, of one kind; some of others, some of other plans or models."""
    kind = draw(st.sampled_from(["scores", "logprobs", "probs", "value"]))
    out: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 9))):
        name = draw(st.sampled_from([kind] * 6 + list(ROWS)))
        about = draw(st.sampled_from([{}, {"plan": KEY}] * 4 + [{"plan": "c" * 64}, {"model": "m"}, {"model": "n"}]))
        out.append({"id": draw(IDS), **about, name: draw(ROWS[name])})
    return out


@settings(max_examples=300, deadline=None)
@given(rows=files(), shape=st.sampled_from(["classes", "labels", "values"]), step=st.sampled_from([2, 5, 100]))
def test_lines_and_tables_are_reduced_alike(
    rows: list[dict[str, Any]], shape: str, step: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("a")
    about = {"kind": shape, "choices": CHOICES if shape == "classes" else ()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "STEP", step)
        found = outcome(write_table(folder / "a.parquet", rows), **about)
    right = outcome(write_lines(folder / "a.jsonl", rows), **about)
    assert isinstance(found, str) == isinstance(right, str)
    if isinstance(found, AnswerTable) and isinstance(right, AnswerTable):
        assert found.digest() == right.digest()
        for count in ("lines", "damaged"):  # which of two is the repeated one hangs on which is read first
            assert getattr(found.tally, count) == getattr(right.tally, count)
        assert found.model == right.model
    else:
        assert found == right


def test_rows_and_lines_of_one_run_go_together(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a", SOUND[:4])  # whatever it is called
    both = read_answers(make_manifest(COUNT), NUMBERS, [table, write_lines(tmp_path / "b", SOUND[3:])])
    whole = read_answers(make_manifest(COUNT), NUMBERS, [write_lines(tmp_path / "c", SOUND)])
    assert both.digest() == whole.digest()
    assert both.tally.repeated == 1


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{**SOUND[0], "plan": "c" * 64}, *SOUND[1:]], "row 1 is an answer to another plan's question"),
        ([{**SOUND[0], "model": "a"}, {**SOUND[1], "model": "b"}], "answers are of 2 models"),
        ([*SOUND, {**SOUND[3], "scores": [9.0, 9.0, 9.0]}], f"contradict one another .ids {SOUND[3]['id']}"),
        (
            [*SOUND, {"id": "0123456789abcdef", "scores": [1.0, 2.0, 3.0]}],
            "1 of 7 answers are to questions that are not",
        ),
        ([SOUND[0], {**SOUND[1], "scores": [1.0, 2.0]}], "row 2 has 2 scores, expected 3"),
    ],
)
def test_what_contradicts_or_is_of_others_is_refused_by_name(
    rows: list[dict[str, Any]], why: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=why):
        read_answers(make_manifest(COUNT), NUMBERS, [write_table(tmp_path / "a", rows)])


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("scores", [s["scores"] for s in SOUND], pl.Array(pl.Float32, 3)),
        pl.Series("scores", [[round(x) for x in s["scores"]] for s in SOUND], pl.List(pl.Int16)),
        pl.Series("probs", [{"a": 0.5, "b": 0.25, "x": None}] * COUNT),
    ],
)
def test_columns_of_other_types_are_read(column: Any, tmp_path: Path) -> None:
    ids = pl.Series("id", [s["id"] for s in SOUND])
    path = tmp_path / "a.parquet"
    pl.DataFrame([ids, column]).write_parquet(path)
    table = read_answers(make_manifest(COUNT, choices=CHOICES), NUMBERS, [path])
    lines = [{"id": i, column.name: v} for i, v in zip(ids.to_list(), column.to_list(), strict=True)]
    for line in lines:
        if isinstance(line["probs" if "probs" in line else "scores"], dict):
            line["probs"] = {k: v for k, v in line["probs"].items() if v is not None}
    right = read_answers(make_manifest(COUNT, choices=CHOICES), NUMBERS, [write_lines(tmp_path / "b", lines)])
    assert table.digest() == right.digest()


def test_numbers_one_a_row_are_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    values = [1.5, None, float("inf"), 0.0, 2.0, -1.0]
    pl.DataFrame({"id": [s["id"] for s in SOUND], "value": values}).write_parquet(path)
    with pytest.raises(RefusedError, match="row 3 has value that are no finite numbers"):
        read_answers(make_manifest(COUNT, kind="values", width=1), NUMBERS, [path])
    pl.DataFrame({"id": [s["id"] for s in SOUND], "value": [*values[:2], 3.0, *values[3:]]}).write_parquet(path)
    table = read_answers(make_manifest(COUNT, kind="values", width=1), NUMBERS, [path])
    assert (table.count(ANSWERED), table.count(MISSING)) == (COUNT - 1, 1)


def sound_file() -> bytes:
    out = io.BytesIO()
    pl.DataFrame(SOUND).write_parquet(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (sound_file()[:-20], "cannot be read as Parquet"),
        (sound_file()[:6], "cannot be read as Parquet"),
        (b"PAR1" + bytes(200) + b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_damaged_table_ends_in_one_sentence(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    with pytest.raises(RefusedError, match=why) as caught:
        read_answers(make_manifest(COUNT), NUMBERS, [path])
    assert "\n" not in str(caught.value)


def test_no_changed_byte_gives_another_answer_in_silence(tmp_path: Path) -> None:
    """Bytes of a table that were changed: refused, or read as whatever it says then; never an error of another kind."""
    whole, path = sound_file(), tmp_path / "a.parquet"
    r = np.random.default_rng(3)
    for _ in range(300):
        data = bytearray(whole)
        for at in r.integers(4, len(data), 3):
            data[at] = r.integers(256)
        path.write_bytes(data)
        assert isinstance(outcome(path), AnswerTable | str)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"nummer": [1]}, "has the columns nummer, expected id as text"),
        ({"id": [1], "scores": [[1.0]]}, "expected id as text"),
        ({"id": ["a"]}, "and one of scores"),
        ({"id\x1b[31m\n": ["a"]}, r"id\\x1b\[31m\\n"),
    ],
)
def test_other_columns_are_named(columns: dict[str, Any], why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(RefusedError, match=why):
        read_answers(make_manifest(COUNT), NUMBERS, [path])


def test_more_rows_than_answers_could_be_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"id": [""] * 1000, "text": ["a"] * 1000}).write_parquet(path)
    with pytest.raises(RefusedError, match="1,000 rows for 6 questions"):
        read_answers(make_manifest(COUNT), NUMBERS, [path])


def test_without_polars_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "a.parquet", SOUND)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ConfigError, match=r"pip install 'collapsekit\[polars\]', or use JSON lines"):
        read_answers(make_manifest(COUNT), NUMBERS, [path])


def test_a_plan_in_tables_is_that_in_lines(tmp_path: Path) -> None:
    asked = make_asked(tmp_path)
    tables = Asked(asked.model, asked.config, tmp_path / "tables")
    lines, packed = asked.plan(), tables.plan(format="parquet")
    assert packed.key == lines.key
    assert {shard.file.rpartition(".")[2] for shard in packed.shards} == {"parquet"}
    asked.answer()
    assert tables.answer() == packed.cost.questions
    assert asked.score().to_json() == tables.score(tables.answers).to_json()
    answers = tmp_path / "answers.parquet"
    pl.read_ndjson(tables.answers).write_parquet(answers)
    assert asked.score(answers).to_json() == asked.score().to_json()


def test_what_is_missing_is_written_as_a_table_and_asked_again(tmp_path: Path) -> None:
    asked = make_asked(tmp_path)
    manifest = asked.plan(format="parquet")
    asked.answer()
    kept = asked.answers.read_text().splitlines()[5:]
    asked.answers.write_text("\n".join(kept) + "\n")
    missing = tmp_path / "missing.parquet"
    with pytest.raises(CollapsekitError, match="5 of"):
        asked.score(missing=missing)
    assert pl.read_parquet(missing).height == 5
    assert asked.answer(only=missing) == 5
    assert asked.score().subject.engine == "answers"
    assert manifest.format == "parquet"


def test_a_table_of_answers_is_no_file_to_append_to(tmp_path: Path) -> None:
    asked = make_asked(tmp_path)
    asked.plan()
    with pytest.raises(ConfigError, match="JSON lines"):
        asked.engine().answer(asked.run, tmp_path / "answers.parquet")


def test_lines_are_read_without_polars() -> None:
    code = "import sys, collapsekit.answers.reading as r; r.find_table(b''); sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
