"""Ask vLLM without a server, by the log-probability of each choice: `python offline.py QUESTIONS OUT MODEL`.

For questions of `collapsekit plan --format vllm`. Each choice is put behind the request as the model's own turn, and vLLM
says how likely each token of that was: choices may be of several tokens, and each costs a forward. It goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams

AT_ONCE = 64  # questions of which vLLM makes batches


def answered_in(path: Path) -> set[str]:
    """Ids that have an answer already; a line that was cut has none."""
    found = set()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.add(json.loads(line)["custom_id"])
        except ValueError:
            continue
    return found


def requests_in(place: Path, done: set[str]) -> Iterator[dict[str, Any]]:
    """The requests of a folder that `collapsekit plan` wrote, or of one file, that have no answer yet."""
    for file in sorted(place.glob("questions-*.jsonl")) if place.is_dir() else [place]:
        with file.open(encoding="utf-8") as lines:
            yield from (one for one in map(json.loads, lines) if one["custom_id"] not in done)


def scored(output: Any) -> dict[str, Any]:
    """A prompt's tokens and how likely each was after those before it."""
    logs = [
        entry and {str(token): {"logprob": one.logprob} for token, one in entry.items()}
        for entry in output.prompt_logprobs
    ]
    return {"prompt_token_ids": list(output.prompt_token_ids), "prompt_logprobs": logs}


def main(questions: str, output: str, model: str) -> None:
    """Ask whatever has no answer yet."""
    path = Path(output)
    left = requests_in(Path(questions), answered_in(path))
    cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    llm, how = LLM(model=model), SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    with path.open("a", encoding="utf-8") as out:
        out.write("\n" if cut else "")
        while some := list(islice(left, AT_ONCE)):
            pairs = [(one, choice) for one in some for choice in one["body"]["structured_outputs"]["choice"]]
            chats = [[*one["body"]["messages"], {"role": "assistant", "content": choice}] for one, choice in pairs]
            answers: dict[str, dict[str, Any]] = {one["custom_id"]: {} for one in some}
            for (one, choice), found in zip(pairs, llm.chat(chats, how, add_generation_prompt=False), strict=True):
                answers[one["custom_id"]][choice] = scored(found)
            for id_, prompts in answers.items():
                out.write(json.dumps({"custom_id": id_, "model": model, "prompts": prompts}) + "\n")
            out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:4])
