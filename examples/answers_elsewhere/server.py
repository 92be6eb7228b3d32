"""A stand-in for a server of a vision-language model, on the loopback alone: `python server.py [PORT] [--faulty] [--looks]`.

It speaks as much of OpenAI's chat completions as `ask.py` needs. Its "model" reads the hint, and, with --looks, the picture
as well. With --faulty it is busy (429), fails (500), hangs up, or answers nonsense, now and then.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import struct
import sys
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

COLOURS = ("red", "green", "blue")


def read_png(url: str) -> np.ndarray[Any, Any]:
    """The pixels (h, w, 3) of a PNG without filters in a data URL."""
    data, at, parts = base64.b64decode(url.partition(",")[2]), 8, {}
    while at < len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        kind = data[at + 4 : at + 8]
        parts[kind] = parts.get(kind, b"") + data[at + 8 : at + 8 + length]
        at += 12 + length
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    return rows[:, 1:].reshape(height, width, 3)


def answer(body: dict[str, Any], looks: bool) -> dict[str, Any]:
    """A chat completion: log-probabilities of the first token."""
    parts = body["messages"][0]["content"]
    hint = " ".join(part["text"] for part in parts[:-1] if part["type"] == "text")
    evidence = np.array([1.5 * (colour in hint) for colour in COLOURS])
    for part in parts if looks else []:
        if part["type"] == "image_url":
            evidence += read_png(part["image_url"]["url"]).mean((0, 1)) / 40
    logs = evidence - math.log(np.exp(evidence).sum())
    top = [{"token": c, "logprob": round(float(x), 6)} for c, x in zip(COLOURS, logs, strict=True)]
    best = COLOURS[int(logs.argmax())]
    return {
        "model": body["model"],
        "choices": [
            {
                "message": {"role": "assistant", "content": best},
                "logprobs": {"content": [{"token": best, "logprob": 0.0, "top_logprobs": top}]},
                "finish_reason": "stop",
            }
        ],
    }


class Handler(BaseHTTPRequestHandler):
    """Answers POST /v1/chat/completions."""

    faulty = looks = False
    count = itertools.count(1)

    def do_POST(self) -> None:
        """One request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        turn = next(self.count) if self.faulty else 0
        if turn and turn % 11 == 0:
            self.close_connection = True  # hangs up without a word
            return
        if turn and turn % 7 == 0:
            self.reply(429, {"error": "busy"})
        elif turn and turn % 13 == 0:
            self.reply(500, {"error": "out of memory"})
        else:
            self.reply(200, answer(body, self.looks), cut=bool(turn) and turn % 17 == 0)

    def reply(self, code: int, told: dict[str, Any], *, cut: bool = False) -> None:
        """Send JSON; ``cut``: half of it."""
        data = json.dumps(told).encode()
        data = data[: len(data) // 2] if cut else data
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing of each request."""


def serve(port: int = 0, *, faulty: bool = False, looks: bool = False) -> ThreadingHTTPServer:
    """Make the server, on the loopback alone; port 0: any that is free."""
    kind = type("Chosen", (Handler,), {"faulty": faulty, "looks": looks, "count": itertools.count(1)})
    return ThreadingHTTPServer(("127.0.0.1", port), kind)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    server = serve(*(numbers or [8000]), faulty="--faulty" in sys.argv, looks="--looks" in sys.argv)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
