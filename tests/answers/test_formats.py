"""What every format of questions and answers keeps to, and what each one's lines are."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collapsekit.answers.formats import formats, get_format, read_answer
from collapsekit.answers.formats._chat import to_png
from collapsekit.answers.formats._format import AskedExample
from collapsekit.answers.manifest import json_line
from collapsekit.answers.question import Question, to_id
from collapsekit.answers.reading import ANSWERED, FAILED, REFUSED, read_answers
from collapsekit.errors import ConfigError, RefusedError
from tests.answers.making import make_manifest, write_lines

ID = "00000000000000ff"
IMAGE = (np.arange(5 * 4 * 3).reshape(5, 4, 3) * 4).astype(np.uint8)
ASKED = AskedExample((("image", IMAGE), ("text", "Is it red?")), ("yes", "no", "maybe"), None, "m", 3)
QUESTION = Question("test", 4, {"image": 7}, {"text": 0})


def completion(**message: Any) -> dict[str, Any]:
    """A line of a batch's output."""
    logprobs = message.pop("logprobs", None)
    choice = {"message": {"role": "assistant", **message}, "logprobs": logprobs, "finish_reason": "stop"}
    return {
        "id": "r",
        "custom_id": ID,
        "error": None,
        "response": {"status_code": 200, "body": {"model": "m", "choices": [choice]}},
    }


def top(**chances: float) -> dict[str, Any]:
    """Log-probabilities of first tokens."""
    listed = [{"token": t, "logprob": math.log(p)} for t, p in chances.items()]
    return {"content": [{"token": "x", "logprob": -9, "top_logprobs": listed}]}


ANSWERS = {
    "plain": ({"id": ID, "scores": [1.0, 2.0, 0.5]}, {"id": ID, "refused": True}, {"id": ID, "error": "429"}),
    "parquet": ({"id": ID, "scores": [1.0, 2.0, 0.5]}, {"id": ID, "refused": True}, {"id": ID, "error": "429"}),
    "openai-batch": (
        completion(content="no", logprobs=top(yes=0.2, no=0.7, maybe=0.1)),
        completion(content=None, refusal="I cannot"),
        {"custom_id": ID, "response": {"status_code": 429, "body": {}}, "error": None},
    ),
    "vllm": (
        completion(content="maybe"),
        completion(content="", refusal="no"),
        {"custom_id": ID, "response": None, "error": {"code": "expired"}},
    ),
}


@pytest.mark.parametrize("name", formats())
def test_a_format_writes_ids_and_reads_its_answers(name: str, tmp_path: Path) -> None:
    kind = get_format(name)
    line = kind.write(ID, QUESTION, ASKED)
    assert line[kind.id_key] == ID
    assert json.loads(json.dumps(line)) == line
    assert kind.read(line) is None
    assert kind.read({"of": "another"}) is None
    assert kind.name == name
    assert kind.summary
    number = np.array([int(ID, 16)], np.uint64)
    for answer, state in zip(ANSWERS[name], (ANSWERED, REFUSED, FAILED), strict=True):
        path = write_lines(tmp_path / "a", [answer])
        table = read_answers(make_manifest(1, choices=ASKED.choices), number, [path])
        assert table.states.tolist() == [state]


@pytest.mark.parametrize("name", formats())
def test_a_file_of_questions_holds_the_lines_it_was_made_of(name: str, tmp_path: Path) -> None:
    kind = get_format(name)
    if kind.mark:
        pytest.importorskip("polars")
    asked = (QUESTION, Question("test", 5, {}, {"a\n\x1b": 3}), Question("val", 0))
    lines = [kind.write(to_id(n), question, ASKED) for n, question in enumerate(asked)]
    text = "".join(map(json_line, lines))
    data = kind.pack(text)
    assert data == kind.pack(text)
    assert list(kind.unpack(tmp_path, data)) == json.loads(f"[{','.join(text.splitlines())}]")
    assert kind.numbers_in(tmp_path, data).tolist() == [0, 1, 2]
    with pytest.raises(RefusedError, match=r"no question|cannot be read"):
        list(kind.unpack(tmp_path, data[:-9]))


@pytest.mark.parametrize("name", formats())
def test_no_other_format_reads_its_answers(name: str) -> None:
    for answer in ANSWERS[name]:
        told = get_format(name).read(answer)
        assert told is not None
        assert told == read_answer(answer)


def test_a_chat_gets_parts_in_order_and_is_asked_for_one_token() -> None:
    body = get_format("openai-batch").write(ID, QUESTION, ASKED)["body"]
    image, text, told = body["messages"][0]["content"]
    assert (text["text"], told["text"]) == ("Is it red?", "Answer with one of these and nothing else: yes, no, maybe")
    assert (body["max_tokens"], body["temperature"], body["logprobs"]) == (1, 0, True)
    kind, data = image["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    pil = pytest.importorskip("PIL.Image")
    assert np.array_equal(np.asarray(pil.open(io.BytesIO(base64.b64decode(data)))), IMAGE)


def test_vllm_is_read_offline_by_the_log_probabilities_of_prompts(tmp_path: Path) -> None:
    """Each choice stands behind the question, in a prompt of its own, as `LLM.chat` and `prompt_logprobs` give it."""

    def of(token: int, chance: float) -> dict[str, Any]:
        entries = [None, {"2": {"logprob": -3.0, "rank": 4, "decoded_token": "is"}}]
        last = {str(token): {"logprob": math.log(chance), "rank": 1, "decoded_token": "x"}}
        return {"prompt_token_ids": [1, 2, token], "prompt_logprobs": [*entries, last]}

    line = {"custom_id": ID, "model": "m", "prompts": {"yes": of(5, 0.2), "no": of(6, 0.5), "maybe": of(7, 0.05)}}
    told = read_answer(line)
    assert told is not None
    assert told == get_format("vllm").read(line)
    number = np.array([int(ID, 16)], np.uint64)
    table = read_answers(make_manifest(1, choices=ASKED.choices), number, [write_lines(tmp_path / "a", [line])])
    chances = np.exp(table.values[0])
    assert (chances / chances.sum()).tolist() == pytest.approx([0.2 / 0.75, 0.5 / 0.75, 0.05 / 0.75], rel=1e-5)
    assert table.model == "m"
    del line["prompts"]["maybe"]  # type: ignore[attr-defined]
    with pytest.raises(RefusedError, match="line 1 has prompts for 'yes', 'no', expected one for each"):
        read_answers(make_manifest(1, choices=ASKED.choices), number, [write_lines(tmp_path / "a", [line])])


def test_vllm_holds_the_text_to_the_choices() -> None:
    body = get_format("vllm").write(ID, QUESTION, ASKED)["body"]
    assert body["structured_outputs"] == {"choice": ["yes", "no", "maybe"]}


@pytest.mark.parametrize("image", [IMAGE[..., 0], np.moveaxis(IMAGE, 2, 0), (IMAGE / 255).astype(np.float32)])
def test_images_lie_as_data_have_them(image: np.ndarray[Any, Any]) -> None:
    pil = pytest.importorskip("PIL.Image")
    found = np.asarray(pil.open(io.BytesIO(to_png(image, "image"))))
    assert np.array_equal(found, IMAGE if image.ndim == 3 else IMAGE[..., 0])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": None}, "requests name a model"),
        ({"choices": ()}, "name the classes"),
        ({"parts": (("state", np.zeros(4)),)}, "'state' is an array of shape"),
        ({"parts": (("image", IMAGE - 300.0),)}, "values from -300"),
        ({"parts": (("image", np.zeros((5, 4, 2), np.uint8)),)}, "channels"),
    ],
)
def test_what_a_chat_cannot_be_given_says_so(changes: dict[str, Any], why: str) -> None:
    asked = AskedExample(**{**vars(ASKED), **changes})
    with pytest.raises(ConfigError, match=why):
        get_format("openai-batch").write(ID, QUESTION, asked)


def test_a_format_that_is_misspelt_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'plain'"):
        get_format("plian")
