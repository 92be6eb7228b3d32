"""What a plan says its text costs: tokens, counted before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collapsekit.answers.manifest import Manifest, read_shards
from collapsekit.cli.commands.plan import describe_cost
from collapsekit.errors import ConfigError
from tests.answers.subjects import Asked, make_asked, make_text_asked

CHOICES = ["red", "green", "blue"]


def make_chat(folder: Path, **answers: Any) -> Asked:
    asked = make_text_asked(folder)
    asked.config["answers"] = {"choices": CHOICES, "model": "m", **answers}
    return asked


def texts_of(asked: Asked, manifest: Manifest) -> list[str]:
    """Every text of every request."""
    bodies = [line["body"] for line in read_shards(asked.questions, manifest)]
    return [part["text"] for body in bodies for part in body["messages"][0]["content"] if part["type"] == "text"]


def write_tokenizer(folder: Path) -> Path:
    """One token a character."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_words_are_counted_where_no_tokenizer_is_named(tmp_path: Path) -> None:
    asked = make_chat(tmp_path)
    manifest = asked.plan(format="openai-batch", limit=20)
    words = sum(-(-4 * len(text.split()) // 3) for text in texts_of(asked, manifest))
    assert (manifest.cost.tokens, manifest.cost.tokens_by) == (words, "words")
    assert f"about {words:,} tokens of text (by words, 4 for 3), images aside." in describe_cost(manifest)


@pytest.mark.parametrize("whole", [True, False])
def test_a_tokenizer_that_is_named_counts(whole: bool, tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path)
    asked = make_chat(tmp_path, tokenizer=str(path if whole else tmp_path))
    manifest = asked.plan(format="openai-batch", limit=20)
    assert manifest.cost.tokens == sum(map(len, texts_of(asked, manifest)))
    assert "(by `answers.tokenizer`), images aside." in describe_cost(manifest)


def test_what_counts_tokens_is_no_part_of_the_questions(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path)
    named, plain = make_text_asked(tmp_path / "a"), make_text_asked(tmp_path / "b")
    named.config["answers"] = {"tokenizer": str(path)}
    assert named.plan().key == plain.plan().key


def test_without_text_there_are_none(tmp_path: Path) -> None:
    cost = make_asked(tmp_path).plan().cost
    assert (cost.tokens, cost.tokens_by) == (None, None)


@pytest.mark.parametrize(
    ("content", "why"), [("{}", "is no tokenizer"), (json.dumps([1]), "is no tokenizer"), (None, "cannot be read")]
)
def test_what_is_no_tokenizer_says_so(content: str | None, why: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "t.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=rf"`answers\.tokenizer` of config.*{why}") as caught:
        make_chat(tmp_path, tokenizer=str(path)).plan()
    assert "\n" not in str(caught.value)
