"""Engine: goes on where it was, and says what it was not given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from collapsekit.answers import Engine
from collapsekit.answers.engine import answered_in
from collapsekit.answers.scoring import AnswersMissingError
from collapsekit.errors import ConfigError, DataError, NothingEvaluatedError, RefusedError
from tests.answers.subjects import Asked, make_asked, make_text_asked


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    made = make_asked(tmp_path_factory.mktemp("asked"), ignored=["audio"], sizes={"train": 60, "val": 30, "test": 40})
    made.plan()
    return made


def test_a_run_that_ends_goes_on_where_it_was(asked: Asked, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    total = asked.engine().answer(asked.run, whole)
    calls = 0

    def failing(batch: dict[str, Any]) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise TimeoutError
        return asked.run(batch)

    with pytest.raises(TimeoutError):
        asked.engine().answer(failing, parts, batch_size=10)
    assert len(answered_in(parts)) == 30
    parts.write_bytes(parts.read_bytes()[:-7])  # as where the machine went down
    assert asked.engine().answer(asked.run, parts, batch_size=64) == total - 29
    assert asked.engine().answer(asked.run, parts) == 0
    lines = [json.loads(line) for line in parts.read_text().splitlines() if line.endswith("}")]
    assert {one["id"]: one["scores"] for one in lines} == {
        one["id"]: one["scores"] for one in map(json.loads, whole.read_text().splitlines())
    }


def test_scores_that_are_probabilities_are_no_logits(asked: Asked, tmp_path: Path) -> None:
    soft, named, one = (tmp_path / f"{name}.jsonl" for name in ("soft", "named", "one"))
    asked.engine().answer(lambda batch: torch.as_tensor(asked.run(batch)).softmax(1), soft)
    with pytest.raises(DataError, match="so they are probabilities, and scores are logits: give them as `probs`"):
        asked.score(soft)
    named.write_text(soft.read_text().replace('"scores"', '"probs"'))
    logits = tmp_path / "logits.jsonl"
    asked.engine().answer(asked.run, logits)
    found, expected = (asked.score(path).find("reliance.full_loss") for path in (named, logits))
    assert found is not None
    assert expected is not None
    assert found.value == pytest.approx(expected.value, rel=1e-3)
    asked.engine().answer(lambda batch: torch.as_tensor(asked.run(batch)).sigmoid(), one)
    assert "outputs_within_0_and_1" in [w.name for w in asked.score(one).warnings]


def test_missing_questions_are_written_and_answered_alone(asked: Asked, tmp_path: Path) -> None:
    some, again, rest = tmp_path / "some.jsonl", tmp_path / "again.jsonl", tmp_path / "rest.jsonl"
    total = asked.engine().answer(asked.run, some)
    lines = some.read_text().splitlines()
    some.write_text("\n".join(lines[:-5]) + "\n" + lines[-1][:-3])
    with pytest.raises(AnswersMissingError, match=f"5 of {total:,} questions have no answer.*1 lines.*again.jsonl"):
        asked.score(some, missing=again)
    assert asked.engine().answer(asked.run, rest, only=again) == 5
    assert asked.score(some, rest).modalities["audio"].verdict == "collapsed"


def test_jobs_answer_a_part_each_and_together_all(asked: Asked, tmp_path: Path) -> None:
    files = [tmp_path / f"{k}.jsonl" for k in range(3)]
    counts = [asked.engine().answer(asked.run, path, part=(k, 3), batch_size=16) for k, path in enumerate(files)]
    whole = tmp_path / "whole.jsonl"
    assert sum(counts) == asked.engine().answer(asked.run, whole)
    assert max(counts) - min(counts) <= 1
    assert asked.score(*files) == asked.score(whole)
    assert asked.engine().answer(asked.run, files[1], part=(1, 3)) == 0
    for part in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ConfigError, match="expected \\(k, n\\) with k from 0"):
            asked.engine().answer(asked.run, tmp_path / "none.jsonl", part=part)


def test_refusals_count_as_the_best_constant_and_too_many_end_it(asked: Asked, tmp_path: Path) -> None:
    path, counts = tmp_path / "a.jsonl", torch.bincount(load_file(asked.config["data"]["path"])["train/label"])
    asked.engine().answer(asked.run, path)
    ids = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    lines = dict(zip(ids, path.read_text().splitlines(), strict=True))

    def told(every: int, instead: dict[str, Any]) -> Path:
        out = [json.dumps({"id": x, **instead}) if i % every == 0 else lines[x] for i, x in enumerate(ids)]
        (tmp_path / "b.jsonl").write_text("\n".join(out))
        return tmp_path / "b.jsonl"

    constant = ((counts + 1.0).double() / (counts + 1.0).double().sum()).tolist()
    refused, prior = asked.score(told(20, {"refused": True})), asked.score(told(20, {"probs": constant}))
    assert [w.name for w in refused.warnings] == ["answers_refused"]
    assert refused.results == prior.results
    with pytest.raises(NothingEvaluatedError, match="more than 10%"):
        asked.score(told(5, {"refused": True}))


@pytest.mark.parametrize("answers", [[1, 2], {"a": 1}, None, "text"])
def test_a_function_that_does_not_answer_each_example_says_so(asked: Asked, tmp_path: Path, answers: Any) -> None:
    with pytest.raises(ConfigError, match="return one answer an example"):
        asked.engine().answer(lambda batch: answers, tmp_path / "a")


@pytest.mark.parametrize("row", [[float("nan"), 0, 0], {"probs": [float("inf"), 0, 0]}, {"text": object()}])
def test_what_is_no_answer_says_which_question(asked: Asked, tmp_path: Path, row: Any) -> None:
    with pytest.raises(ConfigError, match=r"answered question '[0-9a-f]{16}' with what is no finite number"):
        asked.engine().answer(lambda batch: [row] * len(batch["image"]), tmp_path / "a", batch_size=4)


def test_files_that_are_none_say_so(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no questions\n")
    with pytest.raises(ConfigError, match="is no file of questions"):
        asked.engine().answer(asked.run, tmp_path / "a", only=tmp_path / "text")
    with pytest.raises(ConfigError, match="cannot be read"):
        asked.engine().answer(asked.run, tmp_path / "a", only=tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be written"):
        asked.engine().answer(asked.run, tmp_path)


def test_other_data_and_other_configs_are_refused(asked: Asked, tmp_path: Path) -> None:
    other = make_asked(tmp_path, ignored=["audio"], sizes={"train": 60, "val": 30, "test": 40}, seed=1)
    with pytest.raises(ConfigError, match="is not the config"):
        Engine(asked.questions, config=other.config)
    path = Path(asked.config["data"]["path"])
    before = path.read_bytes()
    try:
        path.write_bytes(Path(other.config["data"]["path"]).read_bytes())
        with pytest.raises(RefusedError, match="is not what the questions were planned on"):
            asked.engine()
    finally:
        path.write_bytes(before)


def test_the_same_examples_in_another_order_are_refused(tmp_path: Path) -> None:
    """Questions name examples by their places: shuffled, an answer would be to another one's question."""
    asked = make_asked(tmp_path, sizes={"train": 60, "val": 30, "test": 40})
    asked.plan()
    asked.answer()
    arrays = load_file(asked.config["data"]["path"])
    turned = {k: v.flip(0).contiguous() if k.startswith("test/") else v for k, v in arrays.items()}
    save_file(turned, asked.config["data"]["path"])
    with pytest.raises(RefusedError, match="split 'test' is not what"):
        asked.score()


def test_whole_requests_need_no_engine(tmp_path: Path) -> None:
    asked = make_text_asked(tmp_path)
    asked.config["answers"] = {"choices": ["red", "green", "blue"], "model": "m"}
    manifest = asked.plan(format="openai-batch", limit=20)
    line = json.loads((asked.questions / manifest.shards[0].file).read_text().splitlines()[-1])
    kinds = [part["type"] for part in line["body"]["messages"][0]["content"]]
    assert kinds == ["image_url", "text", "text"]
    with pytest.raises(ConfigError, match="whole as they are"):
        asked.engine()
