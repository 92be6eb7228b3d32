"""Plans: what is asked, what it costs, and what changes it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from collapsekit import registry
from collapsekit.answers.adapter import KINDS, check_elsewhere
from collapsekit.answers.manifest import NAME, Manifest, read_ids, read_shards
from collapsekit.answers.planning import make_plan
from collapsekit.config.load import check_config
from collapsekit.config.options import PlanOptions
from collapsekit.errors import CollapsekitError, ConfigError, RefusedError
from tests.answers.subjects import DRAWS, SIZES, Asked, make_asked


def manifest_of(asked: Asked, **options: Any) -> Manifest:
    options.setdefault("options", DRAWS)
    return make_plan(check_config(asked.config, base=asked.folder), PlanOptions.make(**options)).manifest


def test_two_modalities_are_asked_as_often_as_reckoned_by_hand(tmp_path: Path) -> None:
    """Of two modalities that move whole, one coalition is asked, and its answers are those of the other as well."""
    asked = make_asked(tmp_path)
    manifest = asked.plan()
    draws = DRAWS["reliance"]["draws"]
    lines = list(read_shards(asked.questions, manifest))
    plain = [line for line in lines if not line["edit"]]
    assert len(plain) == sum(SIZES.values())
    asked_of = {split: sum(line["split"] == split for line in lines) - n for split, n in SIZES.items()}
    assert asked_of["train"] == 0
    for split in ("test", "val"):  # a draw and the coalition's rest, as far as draws are not each other's inverse
        assert draws * SIZES[split] <= asked_of[split] <= 2 * draws * SIZES[split]
    assert manifest.cost.questions == len(lines) == len({line["id"] for line in lines})
    assert all(one["example"] != line["example"] for line in lines for one in line["edit"].values())


def test_the_same_is_asked_again_and_other_things_have_other_ids(tmp_path: Path) -> None:
    asked = make_asked(tmp_path)
    first, again = manifest_of(asked), manifest_of(asked)
    assert first == again
    keys = {first.key, manifest_of(asked, seed=1).key, manifest_of(asked, limit=50).key}
    asked.config["task"], asked.config["metric"] = "classification", "macro_f1"
    keys.add(manifest_of(asked).key)
    assert len(keys) == 4


def test_more_draws_ask_what_fewer_ask_and_more(tmp_path: Path) -> None:
    asked = make_asked(tmp_path)
    few = asked.plan(options={"reliance": {"draws": 4}})
    ids = set(read_ids(asked.questions, few).tolist())
    more = Asked(asked.model, asked.config, tmp_path / "more")
    many = more.plan(options={"reliance": {"draws": 8}})
    assert few.key == many.key
    assert ids < set(read_ids(more.questions, many).tolist())


def test_a_budget_takes_draws_away(tmp_path: Path) -> None:
    asked = make_asked(tmp_path)
    whole = manifest_of(asked).cost.questions
    manifest = manifest_of(asked, budget=whole * 3 // 4)
    assert whole // 2 < manifest.cost.questions <= whole * 3 // 4
    assert manifest.draws["test"] < DRAWS["reliance"]["draws"]
    with pytest.raises(ConfigError, match="--budget 10 is less than"):
        manifest_of(asked, budget=10)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"fusion": "fusion"}, "fusion"),
        ({"model": {"factory": "m:build"}}, "model.factory"),
        ({"modalities": {"image": {"encoder": "e"}, "audio": None}}, "modalities.image.encoder"),
        ({"task": "retrieval"}, "'retrieval', whose answers cannot be asked"),
        ({"answers": {"choices": ["a", "b"]}}, "label 2 has no name"),
        ({"answers": {"choices": ["a", "A", "c"]}}, "told apart"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    asked = make_asked(tmp_path)
    asked.config.update(change)
    with pytest.raises(CollapsekitError, match=why):
        manifest_of(asked)


def test_a_folder_is_never_half_another_plan(tmp_path: Path) -> None:
    asked = make_asked(tmp_path)
    manifest = asked.plan()
    with pytest.raises(ConfigError, match="holds questions already"):
        asked.plan()
    shard = asked.questions / manifest.shards[0].file
    shard.write_bytes(shard.read_bytes().replace(b'"example":1,', b'"example":2,', 1))
    with pytest.raises(RefusedError, match="was changed"):
        list(read_shards(asked.questions, manifest))
    told = json.loads((asked.questions / NAME).read_text())
    for bad in ({"shards": [{"file": "../a", "questions": 1, "sha256": "0" * 64}]}, {"key": "x"}, {"more": 1}):
        (asked.questions / NAME).write_text(json.dumps({**told, **bad}))
        with pytest.raises(RefusedError, match="plan the questions again"):
            Manifest.load(asked.questions)
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        Manifest.load(tmp_path)


def test_the_page_says_which_tasks_go_through_files() -> None:
    page = (Path(__file__).parents[2] / "docs" / "elsewhere.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[\w:]+`(?:, )?)+) \| (yes|no) \|", page, re.MULTILINE)
    said = {name: answer == "yes" for names, answer in rows for name in re.findall(r"`([\w:]+)`", names)}
    registry.load_builtins()
    assert said.pop("module:callable") is False
    assert said == {name: name in KINDS for name in registry.TASKS}


@pytest.mark.parametrize("task", ["retrieval", "survival", "tokens"])
def test_a_task_that_does_not_go_through_files_is_named(task: str) -> None:
    config = check_config({"modalities": {"a": None, "b": None}, "task": task, "data": {"path": "none"}}, base=Path())
    with pytest.raises(ConfigError, match=f"the task '{task}', whose answers cannot be asked through files"):
        check_elsewhere(config)
