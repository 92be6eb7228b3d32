"""Items of the papers: their names, what they print, orders, records that are kept, and the command."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from click.testing import Result
from typer.testing import CliRunner

from collapsekit.cli import app
from collapsekit.errors import ConfigError, NumericsError, RefusedError
from collapsekit.report.base import sealed
from collapsekit.report.reproduction import Reproduction
from collapsekit.reproduce.item import Item, Order, Point, State, Trial, columns_in_order, load_items, rows_in_order
from collapsekit.reproduce.run import FILE, RECORDS, run_item
from collapsekit.reproduce.studies import datasets
from collapsekit.reproduce.summary import order_here
from collapsekit.stats.inference.wilcoxon import signed_rank
from tests.render.sample_reproduction import make_reproduction

EVERY = load_items()
# Every table and figure of the papers, as far as their texts name them.
S1 = {f"s1.figure{n}" for n in range(1, 11)} | {f"s1.table{n}" for n in range(1, 12)}
S2 = {f"s2.figure{n}" for n in range(1, 12)} | {f"s2.table{n}" for n in range(1, 10)}


def fake(values: dict[int, list[Point]], **facts: object) -> Item:
    """An item that gives these points by seed, and counts how often it is asked."""
    asked: list[int] = []

    def measure(trial: Trial) -> list[Point]:
        asked.append(trial.seed)
        return values[trial.seed]

    found = Item("s1.table99", "A table", rows=("a", "b"), columns=("x", "y"), measure=measure, **facts)  # type: ignore[arg-type]
    found.__dict__["asked"] = asked
    return found


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["reproduce", *arguments], env={"COLUMNS": "80"}, prog_name="collapsekit")


def test_every_item_says_what_it_is() -> None:
    for name, item in EVERY.items():
        assert re.fullmatch(r"s[12]\.(table|figure)\d+", name), name
        assert item.state in get_args(State)
        assert item.title
        assert bool(item.why) != item.runs, f"{name} runs, or says why not"
        if item.runs:
            assert item.claim
            assert item.here
            assert item.measured
            assert set(item.data) <= {datasets.EMBEDDED, *datasets.SOURCES}


def test_what_the_papers_print_and_order_is_of_the_cells() -> None:
    for name, item in EVERY.items():
        assert set(item.printed) <= set(item.rows), name
        assert all(len(numbers) <= len(item.columns) for numbers in item.printed.values()), name
        for order in item.orders:
            assert len(order.steps) > 1, name
            for cells in order.steps.values():
                assert cells, name
                assert {(r, c) for r, c in cells} <= {(r, c) for r in item.rows for c in item.columns}, name


def test_an_order_is_of_means_over_seeds_and_of_each_seed() -> None:
    order = rows_in_order("falls", ("a", "b"), ("x", "y"), rises=False)
    values = [{("a", "x"): 4.0, ("a", "y"): 2.0, ("b", "x"): 1.0, ("b", "y"): 1.0}] * 3
    values += [{("a", "x"): 0.0, ("a", "y"): 0.0, ("b", "x"): 1.0, ("b", "y"): 1.0}]
    found = order_here(order, values)
    assert found is not None
    assert found.here == (2.25, 1.0)
    assert (found.same, found.seeds_in_order, found.seeds, found.p) == ("yes", 3, 4, None)
    up = order_here(order._replace(rises=True), values)
    assert up is not None
    assert (up.same, up.seeds_in_order) == ("no", 1)


def test_an_order_of_three_steps_holds_in_part_where_only_its_ends_do() -> None:
    order = columns_in_order("rises", ("x", "y", "z"), ("a",), rises=True)
    found = order_here(order, [{("a", "x"): 1.0, ("a", "y"): 3.0, ("a", "z"): 2.0}])
    assert found is not None
    assert (found.same, found.seeds_in_order) == ("in part", 0)
    level = order_here(order, [{("a", "x"): 1.0, ("a", "y"): 2.0, ("a", "z"): 2.0}])
    assert level is not None
    assert level.same == "in part"  # equal is not in order


def test_an_order_is_tested_from_six_seeds_on() -> None:
    order = Order("rises", {"a": [("a", "x")], "b": [("b", "x")]}, True)
    values = [{("a", "x"): 0.1 * n, ("b", "x"): 0.1 * n + 1 + n} for n in range(6)]
    found = order_here(order, values)
    assert found is not None
    assert found.p == signed_rank([v["b", "x"] for v in values], [v["a", "x"] for v in values]).p == 2 / 2**6
    assert order_here(order, values[:5]).p is None  # type: ignore[union-attr]


def test_a_seed_that_lacks_a_cell_is_left_out_of_an_order() -> None:
    order = Order("rises", {"a": [("a", "x")], "b": [("b", "x")]}, True)
    found = order_here(order, [{("a", "x"): 1.0, ("b", "x"): 2.0}, {("a", "x"): 9.0}])
    assert found is not None
    assert (found.here, found.seeds) == ((1.0, 2.0), 1)
    assert order_here(order, [{("a", "x"): 9.0}]) is None


def test_what_is_measured_is_kept_and_not_measured_again(tmp_path: Path) -> None:
    item = fake({n: [Point("a", "x", n), Point("b", "y", 2.0 * n)] for n in range(3)}, printed={"a": (7.0,)})
    run_item(item, tmp_path, [0, 1])
    run_item(item, tmp_path, [0, 1, 2])
    assert item.__dict__["asked"] == [0, 1, 2]
    made = Reproduction.load(tmp_path / FILE)
    cells = {(c.row, c.column): c for c in made.cells}
    assert (cells["a", "x"].here, cells["a", "x"].sd, cells["a", "x"].paper) == (1.0, 1.0, 7.0)
    assert cells["b", "y"].here == 2.0
    assert ("a", "y") not in cells
    assert len((tmp_path / RECORDS).read_text().splitlines()) == 3
    once = (tmp_path / FILE).read_bytes()
    run_item(item, tmp_path, [0, 1, 2])
    assert (tmp_path / FILE).read_bytes() == once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1 is no record"),
        ('{"item": "s1.table99"}', "line 1 is no record"),
        ('{"item": "s1.table99", "quick": false, "seed": 0, "points": [["a", "x"]]}', "line 1 is no record"),
        (
            '{"item": "s1.table98", "quick": false, "seed": 0, "points": []}',
            "a full run of s1.table98, not a full run of s1.table99",
        ),
        (
            '{"item": "s1.table99", "quick": true, "seed": 0, "points": []}',
            "a quick run of s1.table99, not a full run of s1.table99",
        ),
    ],
)
def test_records_of_something_else_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / RECORDS).write_text(text + "\n")
    with pytest.raises(ConfigError, match=said):
        run_item(fake({0: []}), tmp_path, [0])


@pytest.mark.parametrize("point", [Point("a", "z", 1.0), Point("c", "x", 1.0), Point("a", "x", float("nan"))])
def test_a_number_of_no_cell_or_that_is_none_is_never_written(point: Point, tmp_path: Path) -> None:
    with pytest.raises(NumericsError):
        run_item(fake({0: [point]}), tmp_path, [0])
    assert not (tmp_path / FILE).exists()


def test_data_that_are_not_there_or_another_file_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = replace(fake({0: []}), data=("mfeat", "avmnist1500"))
    monkeypatch.delenv(datasets.FOLDER, raising=False)
    with pytest.raises(ConfigError, match="COLLAPSEKIT_DATA is not set"):
        run_item(item, tmp_path / "out", [0])
    monkeypatch.setenv(datasets.FOLDER, str(tmp_path))
    with pytest.raises(ConfigError, match=r"avmnist1500\.safetensors is not in"):
        run_item(item, tmp_path / "out", [0])
    (tmp_path / "avmnist1500.safetensors").write_bytes(b"another")
    found = datasets.describe("avmnist1500")
    assert found.sha256 == hashlib.sha256(b"another").hexdigest()
    assert "another file" in found.about
    with pytest.raises(ConfigError, match="no safetensors file"):
        datasets.load_file("avmnist1500")


def test_the_embedded_data_are_whole_and_scaled_by_the_training_split() -> None:
    arrays = datasets.load("mfeat")
    assert {k: len(v) for k, v in arrays.items() if k.endswith("/label")} == {
        "train/label": 1200,
        "val/label": 300,
        "test/label": 500,
    }
    for view in datasets.VIEWS:
        x = arrays[f"train/{view}"].double()
        assert float(x.mean(0).abs().max()) < 1e-4
        assert float((x.std(0) - 1).abs().max()) < 1e-3


def test_the_list_names_every_item_in_80_columns() -> None:
    done = cli("list")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    named = [line.split()[0] for line in lines if re.match(r"  s[12]\.", line)]
    assert named == list(EVERY)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "name the items"),
        (("s1.table7", "--all"), 2, "name the items"),
        (("list", "--all"), 2, "name the items"),
        (("s1.tabel7",), 2, "did you mean 's1.table7'"),
        (("s1.figure1",), 2, "does not run"),
    ],
)
def test_what_is_typed_wrong_is_said_in_one_sentence(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = cli(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_all_runs_what_it_has_data_for_and_says_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = fake({0: [Point("a", "x", 0.25)]}, claim="c", here="h", measured="m")
    away = replace(fake({}), name="s1.table98", data=("avmnist1500",))
    drawn = Item("s1.figure99", "Drawn", state="nothing to measure", why="it is drawn")
    monkeypatch.setattr("collapsekit.reproduce.item.load_items", lambda: {i.name: i for i in (here, away, drawn)})
    monkeypatch.delenv(datasets.FOLDER, raising=False)
    done = cli("--all", "--quick", "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["s1.table99"]
    assert here.__dict__["asked"] == [0]
    assert "s1.table98 left out: avmnist1500.safetensors is not found" in " ".join(done.stderr.split())
    monkeypatch.setattr("collapsekit.reproduce.item.load_items", lambda: {i.name: i for i in (away, drawn)})
    assert cli("--all", "-o", str(tmp_path / "none")).exit_code == 5


def test_an_outcome_is_rendered_again_by_report(tmp_path: Path) -> None:
    run_item(fake({0: [Point("a", "x", 0.25)]}), tmp_path, [0])
    done = CliRunner().invoke(app, ["report", str(tmp_path)], env={"COLUMNS": "80"}, prog_name="collapsekit")
    assert done.exit_code == 0
    assert "s1.table99: A table" in done.stdout
    assert "0.25" in done.stdout
    refused = CliRunner().invoke(app, ["report", str(tmp_path), "--figures", str(tmp_path / "f")])
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": ["image", "image"]}, "the row 'image' is in it twice"),
        ({"columns": ["2", "2"]}, "the column '2' is in it twice"),
        ({"rows": ["image", "sound"]}, "is none of its rows and columns"),
        ({"seeds": [0]}, "has more seeds than it"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change: dict[str, object], said: str) -> None:
    raw = json.loads(make_reproduction(("image", "audio")).to_json())
    with pytest.raises(RefusedError, match=said):
        Reproduction.from_data(sealed(Reproduction, raw | change))
    assert Reproduction.from_data(raw) == make_reproduction(("image", "audio"))


def test_an_order_has_a_mean_a_step() -> None:
    raw = json.loads(make_reproduction(("image", "audio")).to_json())
    raw["orders"][0]["here"] = [0.5]
    with pytest.raises(RefusedError, match="3 steps and 1 means"):
        Reproduction.from_data(sealed(Reproduction, raw))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, item in EVERY.items() if item.runs])
def test_a_quick_run_writes_every_file(name: str, tmp_path: Path) -> None:
    absent = datasets.missing(EVERY[name].data)
    if absent is not None:
        pytest.skip(absent)
    done = cli(name, "--quick", "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    folder = tmp_path / "out" / name
    assert {p.name for p in folder.iterdir()} == {
        RECORDS,
        FILE,
        "reproduction.md",
        "reproduction.html",
        "figure.png",
    }
    report = Reproduction.load(folder / FILE)
    assert report.quick
    assert any(c.here is not None for c in report.cells)
    assert "its numbers mean nothing" in (folder / "reproduction.md").read_text()
    assert json.loads((folder / RECORDS).read_text().splitlines()[0])["item"] == name
