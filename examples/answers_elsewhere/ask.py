"""Send requests to a server that speaks OpenAI's chat completions, append the responses: `python ask.py QUESTIONS OUT URL`.

It goes on where it was: what is answered in OUT is not asked again. A request that fails is tried again, later each time;
after TRIES it is written down as an error, for `collapsekit score --missing` to list. The standard library is enough.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

TRIES, AT_ONCE, SECONDS = 8, 8, 60.0
FIRST_WAIT = float(os.environ.get("ASK_FIRST_WAIT", "1"))  # seconds before the second try; then twice as long each time


def requests_in(place: Path) -> Iterator[dict[str, Any]]:
    """The requests of a folder that `collapsekit plan` wrote, or of one file."""
    for file in sorted(place.glob("questions-*.jsonl")) if place.is_dir() else [place]:
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def answered_in(path: Path) -> set[str]:
    """Ids that have a response already; a line that was cut has none."""
    found = set()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if told.get("error") is None:
            found.add(told["custom_id"])
    return found


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request, tried again where the server is busy, gone or slow."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('API_KEY', 'none')}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    error = "no try"
    for attempt in range(TRIES):
        if attempt:
            time.sleep(FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as reply:
                return {"response": {"status_code": reply.status, "body": json.loads(reply.read())}, "error": None}
        except urllib.error.HTTPError as e:
            error = f"HTTP {e.code}"
            if e.code != 429 and e.code < 500:  # the request itself is wrong: no other try will do
                break
        except (OSError, ValueError, HTTPException) as e:  # refused, reset, timed out, cut short
            error = type(e).__name__
    return {"response": None, "error": {"message": error}}


def main(questions: str, output: str, url: str) -> None:
    """Ask whatever has no answer yet."""
    path = Path(output)
    done = answered_in(path)
    left = (one for one in requests_in(Path(questions)) if one["custom_id"] not in done)
    cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a", encoding="utf-8") as out, ThreadPoolExecutor(AT_ONCE) as pool:
        out.write("\n" if cut else "")

        def answer(one: dict[str, Any]) -> dict[str, Any]:
            return {"custom_id": one["custom_id"], **ask(url + one["url"], one["body"])}

        for told in pool.map(answer, left):
            out.write(json.dumps(told) + "\n")
            out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:4])
