"""Questions about pictures and sounds, as rows or as chats, for a generative model of transformers and its processor.

A row becomes an example of plain fields, of which collapsekit exchanges some before the processor sees them: another
example's picture, or another question, and never its answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from collapsekit.ext import ConfigError, DataError

IGNORED = -100  # the label of a place that is no answer
MEDIA = ("image", "audio")
QUESTION, CHAT, ANSWER = "question", "chat", "answer"  # fields of an example beside its media
_HOLE: dict[str, str] = {"type": QUESTION}  # where the question stands in the chat


def loaders(
    splits: Mapping[str, Iterable[Mapping[str, Any]]],
    processor: Any,
    *,
    batch_size: int = 16,
    columns: Mapping[str, str] | None = None,
) -> dict[str, DataLoader[dict[str, Any]]]:
    """Make the loaders that collapsekit takes as data, of rows by split.

    A row is ``{"image": ..., "question": ..., "answer": ...}`` (``audio`` in the place of ``image``, or both), or a chat:
    ``{"messages": [...]}``, whose last message is the assistant's and whose last but one is the question. Rows of a
    Hugging Face dataset are such mappings. Pictures are PIL images, arrays (h, w, 3) or (3, h, w) from 0 to 255, or paths;
    sounds are one-dimensional arrays at the processor's sampling rate, or mappings with such an ``array``.

    Args:
        splits: rows by the name of their split.
        processor: the model's own (``AutoProcessor``). Without a chat template the picture stands before the question,
            as the processor's own text has it.
        batch_size: rows a batch.
        columns: names of the rows' columns, by ``image``, ``audio``, ``question``, ``answer`` or ``messages``, where they
            are called otherwise.

    Returns:
        A loader a split. Its dataset is the list of examples; its ``collate_fn`` runs the processor. A batch has what the
        processor makes and ``labels`` (n, T): at each place the token that the model has to say next, -100 where none.

    Raises:
        DataError: for a row that cannot be read, with its split and number.
    """
    named = columns or {}
    collate = partial(_collate, processor)
    made = {}
    for split, rows in splits.items():
        examples = [_example(row, named, f"row {i} of split {split!r}") for i, row in enumerate(rows)]
        made[split] = DataLoader(examples, batch_size=batch_size, collate_fn=collate)  # type: ignore[arg-type]
    return made


def from_files(
    processor: str, files: Mapping[str, str], batch_size: int = 16, columns: Mapping[str, str] | None = None
) -> dict[str, DataLoader[dict[str, Any]]]:
    """Make :func:`loaders` of JSONL files, for ``data: {factory: collapsekit_transformers.chat:from_files}``.

    Args:
        processor: folder with the processor's files, as save_pretrained leaves them beside the model's. Nothing is fetched.
        files: by split a file with a row a line; a picture is a path, from the file's folder on.
        batch_size: rows a batch.
        columns: as for :func:`loaders`.

    Raises:
        ConfigError: where the folder holds no processor.
        DataError: for a file or a row that cannot be read.
    """
    from transformers import AutoProcessor  # takes seconds, which loading the plugin should not

    try:
        made = AutoProcessor.from_pretrained(processor, local_files_only=True, trust_remote_code=False)
    except Exception as e:
        raise ConfigError(
            f"{processor} gives no processor ({type(e).__name__}: {' '.join(str(e).split())[:200]}): name the folder that "
            "save_pretrained of the model's processor wrote."
        ) from e
    rows = {split: list(_read_rows(Path(path))) for split, path in files.items()}
    return loaders(rows, made, batch_size=batch_size, columns=columns)


def _read_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise DataError(f"{path} cannot be read ({e}): give a file with a row of JSON a line.") from e
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DataError(f"{path}, line {i + 1}, is no JSON ({e}): a row is one object a line.") from e
        yield _beside(row, path.parent)


def _beside(value: Any, folder: Path) -> Any:
    """A row with the paths of its pictures from the file's folder on."""
    if isinstance(value, Mapping):
        return {
            k: str(folder / v) if k == "image" and isinstance(v, str) else _beside(v, folder) for k, v in value.items()
        }
    return [_beside(v, folder) for v in value] if isinstance(value, list) else value


def _example(row: Any, columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """A row as an example: each medium by name, ``question``, ``chat`` around it, ``answer``."""
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is {type(row).__name__}, expected a mapping of columns.")
    found = {name: row.get(columns.get(name, name)) for name in (*MEDIA, QUESTION, ANSWER, "messages")}
    if found["messages"] is not None:
        chat, media, question, answer = _read_chat(found["messages"], where)
    else:
        media = {m: found[m] for m in MEDIA if found[m] is not None}
        content = [{"type": m} for m in media]
        chat, question, answer = (
            [{"role": "user", "content": [*content, _HOLE]}],
            found[QUESTION],
            found[ANSWER],
        )
    for name, text in ((QUESTION, question), (ANSWER, answer)):
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{where} has {name} {text!r}, expected a text; name its column as columns: {{{name}: ...}}."
            )
    return {
        **{m: _medium(m, value, where) for m, value in media.items()},
        QUESTION: question,
        CHAT: chat,
        ANSWER: answer,
    }


def _read_chat(messages: Any, where: str) -> tuple[list[dict[str, Any]], dict[str, Any], str | None, str | None]:
    """The chat with a hole for the question and marks for media, the media, the question and the answer."""
    roles = [m.get("role") if isinstance(m, Mapping) else None for m in messages] if isinstance(messages, list) else []
    if roles[-2:] != ["user", "assistant"]:
        raise DataError(f"{where} has messages of roles {roles}, expected a chat that ends with user and assistant.")
    media: dict[str, Any] = {}
    chat = []
    for message in messages[:-1]:
        parts = _parts(message.get("content"))
        for part in parts:
            kind = part.get("type")
            if kind in MEDIA:
                if kind in media:
                    raise DataError(f"{where} has several parts of type {kind}, and one is read: split the row.")
                media[str(kind)] = next((v for k, v in part.items() if k != "type"), None)
        chat.append(
            {"role": message["role"], "content": [{"type": p["type"]} if p.get("type") in MEDIA else p for p in parts]}
        )
    last = chat[-1]["content"]
    texts = [p for p in last if p.get("type") == "text"]
    question = "\n".join(str(p.get("text", "")) for p in texts) if texts else None
    if texts:
        first = next(i for i, p in enumerate(last) if p.get("type") == "text")
        chat[-1]["content"] = [_HOLE if i == first else p for i, p in enumerate(last) if i == first or p not in texts]
    answer = "".join(str(p.get("text", "")) for p in _parts(messages[-1].get("content")) if p.get("type") == "text")
    return chat, media, question, answer


def _parts(content: Any) -> list[dict[str, Any]]:
    """A message's content as parts; a text alone is one."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [dict(p) for p in content if isinstance(p, Mapping)] if isinstance(content, list) else []


def _medium(kind: str, value: Any, where: str) -> Tensor:
    """A picture as bytes (3, h, w), or a sound as numbers (samples,)."""
    if isinstance(value, Mapping) and "array" in value:
        value = value["array"]
    try:
        if kind == "audio":
            return torch.as_tensor(value, dtype=torch.float32).flatten()
        return _picture(value)
    except (OSError, TypeError, ValueError, RuntimeError) as e:
        raise DataError(f"{where}: its {kind} cannot be read ({' '.join(str(e).split())[:200]}).") from e


def _picture(value: Any) -> Tensor:
    import numpy as np

    if isinstance(value, str | Path):
        from PIL import Image

        with Image.open(value) as opened:
            value = opened.convert("RGB")
    elif hasattr(value, "convert"):
        value = value.convert("RGB")
    pixels = torch.as_tensor(np.array(value)) if not isinstance(value, Tensor) else value
    if pixels.ndim == 3 and pixels.shape[0] != 3 and pixels.shape[2] == 3:
        pixels = pixels.permute(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"expected (h, w, 3) or (3, h, w), found {tuple(pixels.shape)}")
    return pixels.to(torch.uint8).contiguous()


def _collate(processor: Any, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Run the processor on prompts, put answers behind them, and say where each is due."""
    written = [_write(processor, e) for e in examples]
    given: dict[str, Any] = {
        _argument(m): [[e[m]] if m == "image" else e[m].numpy() for e in examples] for m in MEDIA if m in examples[0]
    }
    batch = dict(
        processor(
            text=[prompt for prompt, _ in written],
            **given,
            padding=True,
            padding_side="right",
            add_special_tokens=not _has_template(processor),
            return_tensors="pt",
        )
    )
    answers = [processor.tokenizer(said, add_special_tokens=False)["input_ids"] for _, said in written]
    return _with_answers(batch, answers, processor.tokenizer.pad_token_id or 0)


def _argument(medium: str) -> str:
    return "images" if medium == "image" else medium


def _has_template(processor: Any) -> bool:
    return bool(getattr(processor, "chat_template", None))


def _write(processor: Any, example: Mapping[str, Any]) -> tuple[str, str]:
    """The prompt of an example, and its answer as the template would write it behind that."""
    chat = [
        {
            **m,
            "content": [{"type": "text", "text": example[QUESTION]} if p == _HOLE else p for p in m["content"]],
        }
        for m in example[CHAT]
    ]
    if not _has_template(processor):
        marks = "".join(getattr(processor, f"{m}_token", "") or "" for m in MEDIA if m in example)
        return f"{marks}{example[QUESTION]}", example[ANSWER]
    prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    reply = {"role": "assistant", "content": [{"type": "text", "text": example[ANSWER]}]}
    whole = processor.apply_chat_template([*chat, reply], tokenize=False)
    behind = whole[len(prompt) :] if whole.startswith(prompt) else ""
    end = behind.find(example[ANSWER])
    return prompt, behind[: end + len(example[ANSWER])] if end >= 0 else example[ANSWER]


def _with_answers(batch: dict[str, Any], answers: Sequence[list[int]], pad: int) -> dict[str, Any]:
    """Put all tokens of an answer but its last behind its prompt, and make labels: what comes next at each place."""
    mask = batch["attention_mask"].bool()
    shape = batch["input_ids"].shape
    longest = max(int(row.sum()) + len(a) - 1 for row, a in zip(mask, answers, strict=True))
    by_place = [k for k, v in batch.items() if isinstance(v, Tensor) and v.shape == shape]
    for key in by_place:
        grown = batch[key].new_full((shape[0], longest), pad if key == "input_ids" else 0)
        for i, (row, answer) in enumerate(zip(mask, answers, strict=True)):
            own, length = batch[key][i][row], int(row.sum())
            grown[i, :length] = own
            behind = {"input_ids": torch.tensor(answer[:-1], dtype=grown.dtype), "attention_mask": 1}.get(key, 0)
            grown[i, length : length + len(answer) - 1] = behind
        batch[key] = grown
    labels = torch.full((shape[0], longest), IGNORED)
    for i, (row, answer) in enumerate(zip(mask, answers, strict=True)):
        first = int(row.sum()) - 1
        labels[i, first : first + len(answer)] = torch.tensor(answer)
    return {**batch, "labels": labels}
