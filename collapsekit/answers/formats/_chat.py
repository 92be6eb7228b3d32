"""Requests for a chat completion and their responses, as several formats have them."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from collapsekit.answers.formats._format import AskedExample
from collapsekit.errors import ConfigError

TOP = 20  # likeliest tokens whose log-probabilities are asked for: the most that servers give
COLOURS = {1: 0, 3: 2, 4: 6}  # channels -> PNG's colour type


def chat_body(example: AskedExample) -> dict[str, Any]:
    """Write the body of a request: the example's parts in order, then the instruction; one token of the answer, with
    log-probabilities, and nothing sampled. Raises ConfigError for what a chat cannot be given."""
    if example.model is None:
        raise ConfigError("requests name a model: write `answers: {model: NAME}` into the config.")
    if not example.choices:
        raise ConfigError(
            "a chat answers in words: name the classes as the model is to write them, in the order of labels, as "
            "`answers: {choices: [A, B]}` in the config."
        )
    content = [part_of(modality, value) for modality, value in example.parts if value is not None]
    return {
        "model": example.model,
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": example.closing}]}],
        "max_tokens": 1,
        "temperature": 0,
        "seed": example.seed % 2**31,
        "logprobs": True,
        "top_logprobs": TOP,
    }


def part_of(modality: str, value: Any) -> dict[str, Any]:
    """Write one value as a part of a message: text as it is, an image as a data URL. Raises ConfigError for others."""
    if isinstance(value, str):
        return {"type": "text", "text": value}
    array = np.asarray(value) if hasattr(value, "__array__") or hasattr(value, "__array_interface__") else None
    if array is None or array.ndim not in (2, 3) or array.dtype.kind not in "uif":
        found = type(value).__name__ if array is None else f"an array of shape {array.shape}"
        raise ConfigError(
            f"modality {modality!r} is {found}, expected text, or an image of shape (h, w), (c, h, w) or (h, w, c): use "
            "`--format plain`, with an engine of yours."
        )
    data = base64.b64encode(to_png(array, modality)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def to_png(array: np.ndarray[Any, Any], modality: str) -> bytes:
    """Encode an image without loss.

    Args:
        array: (h, w), (c, h, w) or, where the first axis can be none of channels, (h, w, c), of 1, 3 or 4 of them; whole
            numbers from 0 to 255, or floats from 0 to 1 (or to 255, where one is above 1).
        modality: that it is of, for messages.

    Returns:
        The file's bytes, the same for the same numbers.

    Raises:
        ConfigError: for another shape or range.
    """
    image = array[..., None] if array.ndim == 2 else array
    if array.ndim == 3 and image.shape[0] in COLOURS:
        image = np.moveaxis(image, 0, -1)
    least, most = float(image.min()), float(image.max())
    if image.shape[-1] not in COLOURS or least < 0 or most > 255:
        raise ConfigError(
            f"modality {modality!r} has an image of shape {array.shape} with values from {least:g} to {most:g}, expected 1, "
            "3 or 4 channels of 0 to 255, or of 0 to 1: give the data unnormalised, or use `--format plain`."
        )
    if image.dtype.kind == "f" and most <= 1:
        image = image * 255
    pixels = np.ascontiguousarray(np.rint(image).astype(np.uint8))
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, COLOURS[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def read_batch_line(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Read a line of a batch's output or error file as the format ``plain`` has it; None for what is none."""
    if not isinstance(line.get("custom_id"), str) or not ("response" in line or "error" in line):
        return None
    about = {"id": line["custom_id"]}
    response = line.get("response")
    body = response.get("body") if isinstance(response, Mapping) else None
    status = response.get("status_code", 200) if isinstance(response, Mapping) else None
    if line.get("error") is not None or status != 200 or not isinstance(body, Mapping):
        return {**about, "error": str(line.get("error") or status)[:200]}
    if isinstance(body.get("model"), str):
        about["model"] = body["model"]
    return {**about, **read_completion(body)}


def read_completion(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read a chat completion: the first token's log-probabilities where it has them, else its text."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    message = first.get("message")
    message = message if isinstance(message, Mapping) else {}
    if message.get("refusal") or first.get("finish_reason") == "content_filter":
        return {"refused": True}
    tokens = _first_tokens(first.get("logprobs"))
    text = message.get("content")
    if tokens is None and not isinstance(text, str):
        return {"error": "the response has no content"}
    return {"tokens": tokens or {}, "text": text if isinstance(text, str) else ""}


def _first_tokens(logprobs: Any) -> dict[str, float] | None:
    """Log-probabilities of the likeliest first tokens; of spellings that differ in white space, the sum is made later."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    first = content[0] if isinstance(content, list) and content else None
    listed = first.get("top_logprobs") if isinstance(first, Mapping) else None
    if not isinstance(listed, list):
        return None
    pairs = [(one.get("token"), one.get("logprob")) for one in listed if isinstance(one, Mapping)]
    found = {t: p for t, p in pairs if isinstance(t, str) and isinstance(p, int | float) and not isinstance(p, bool)}
    return found or None
