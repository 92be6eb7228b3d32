"""Engine: the examples of a plan, for any function that answers them, and its answers in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from collapsekit.answers.adapter import AnswerBook, AnswersAdapter
from collapsekit.answers.formats import get_format, read_answer
from collapsekit.answers.formats._format import AnswerFormat
from collapsekit.answers.manifest import MAX_BYTES, Manifest, json_line, read_shards
from collapsekit.answers.materials import Materials
from collapsekit.answers.passes import ElsewhereSubject
from collapsekit.answers.planning import config_digest, key_of
from collapsekit.answers.scoring import need_same_data
from collapsekit.config.schema import Config
from collapsekit.context import Progress
from collapsekit.data.memory import with_data
from collapsekit.diagnosis import settle_config
from collapsekit.errors import ConfigError, RefusedError
from collapsekit.features.examples import SplitReader
from collapsekit.io.files import append_text, is_file, read_bytes, reason
from collapsekit.io.limits import MEMORY
from collapsekit.io.spill import SpillBuffer

Examples = dict[str, Any]
NAMES = {"classes": "scores", "labels": "scores", "values": "value"}  # what rows of numbers are called in a file


class Engine:
    """Makes the examples of a plan's questions, gives them to a function of yours, and writes what it answers.

    The function takes a batch as a model in process would be given it: by field an array (n, ...), scaled as the config
    says, or a list of n values, such as text; None for what the questions leave out, as those of the text alone do. It
    returns n rows of numbers (logits, or the values of a regression), or n mappings as the format ``plain`` has them, such
    as ``{"probs": [0.2, 0.8]}``, ``{"text": "yes"}``, ``{"refused": true}``.

    Example:
        >>> from collapsekit.answers import Engine
        >>> Engine("questions", config="elsewhere.yaml").answer(my_model, "answers.jsonl", model="v3")
        28240
    """

    def __init__(
        self,
        questions: str | Path,
        *,
        config: str | Path | Mapping[str, Any] | Config | None = None,
        data: Mapping[str, Any] | str | Path | None = None,
    ) -> None:
        """Open a plan's questions and their data.

        Args:
            questions: The folder that ``collapsekit plan`` wrote, in the format ``plain``.
            config: As for ``diagnose``.
            data: As for ``diagnose``.

        Raises:
            CollapsekitError: Where they do not belong together, and for whatever else the caller can mend.
        """
        self.folder = Path(questions)
        self.manifest = manifest = Manifest.load(self.folder)
        if get_format(manifest.format).needs_examples:
            raise ConfigError(
                f"{self.folder} holds requests in the format {manifest.format!r}, which are whole as they are: send them, "
                "or plan with `--format plain`."
            )
        settled, source = with_data(settle_config(config, None, command="plan"), data)
        if config_digest(settled) != manifest.config_sha256:
            raise ConfigError(f"{settled.origin} is not the config that {self.folder} was planned with: name that one.")
        subject = ElsewhereSubject.of(settled, source, manifest.limit, manifest.seed)
        adapter = AnswersAdapter(settled, subject.source, AnswerBook(), manifest.answer.width)
        reader = SplitReader(adapter, manifest.limit, manifest.seed, SpillBuffer(MEMORY))
        need_same_data(manifest, reader)
        if key_of(subject, manifest.data) != manifest.key:
            raise RefusedError(f"{self.folder} contradicts itself: its key is not that of its data; plan them again.")
        self._materials = Materials(adapter, reader)

    def answer(
        self,
        answer: Callable[[Examples], Any],
        output: str | Path,
        *,
        batch_size: int = 64,
        model: str | None = None,
        progress: Progress | None = None,
        only: str | Path | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> int:
        """Answer what is not answered in a file yet, and append it batch by batch.

        What is there already is kept, so that a run that ended goes on where it was. An error of the function ends the run;
        what was answered before it is in the file.

        Args:
            answer: Takes a batch, and returns as many answers.
            output: The file of answers, JSON lines.
            batch_size: How many examples at a time.
            model: The model's name and version, by which answers of several are told apart.
            progress: Told of each batch.
            only: A file of questions to answer no others than, such as ``score --missing`` writes; None: all.
            part: (k, n): the k-th of n parts of the questions, k from 0; where n jobs answer, each into a file of its own.

        Returns:
            How many questions were answered now.

        Raises:
            ConfigError: Where the function does not return one answer an example, or there is no such part.
        """
        path, count = Path(output), 0
        _check_part(part)
        end_last_line(path)
        asked = self._wanted(answered_in(path), only, part)
        for split, ids, codes in _batches(asked, self._materials, batch_size):
            given = self._materials.make_batch(split, codes)
            rows = _rows_of(answer(given), len(ids))
            lines = [self._line(id_, row, model) for id_, row in zip(ids, rows, strict=True)]
            append_text(path, "".join(map(json_line, lines)))
            count += len(ids)
            if progress is not None:
                progress.step("questions answered", count, None)
        return count

    def _wanted(self, done: set[str], only: str | Path | None, part: tuple[int, int]) -> Iterator[dict[str, Any]]:
        """The lines of questions that are to be answered, in order; of n parts each gets every n-th question."""
        named = None if only is None else ids_in(Path(only), get_format(self.manifest.format))
        first, step = part
        for line in islice(read_shards(self.folder, self.manifest), first, None, step):
            if not {"id", "split"} <= line.keys() or line["split"] not in self.manifest.data:
                raise RefusedError(f"{self.folder} holds a line that is no question: plan the questions again.")
            if line["id"] not in done and (named is None or line["id"] in named):
                yield line

    def _line(self, id_: str, row: Any, model: str | None) -> dict[str, Any]:
        told = dict(row) if isinstance(row, Mapping) else {NAMES[self.manifest.answer.kind]: _plain_row(row)}
        about = {"plan": self.manifest.key, **({} if model is None else {"model": model})}
        line = {"id": id_, **about, **told}
        try:
            json_line(line)
        except (TypeError, ValueError):
            raise ConfigError(
                f"the function answered question {id_!r} with what is no finite number or plain text: return "
                '{"error": "..."} for an example that it cannot answer.'
            ) from None
        return line


def _check_part(part: tuple[int, int]) -> None:
    """Raise ConfigError for no part of the questions."""
    number, count = part
    if not 0 <= number < count:
        raise ConfigError(
            f"part ({number}, {count}) is none, expected (k, n) with k from 0 to n - 1: count the jobs from 0, or say how "
            "many there are."
        )


def answered_in(path: Path) -> set[str]:
    """Find the ids that a file of answers has answers to, errors aside; a line that was cut is none."""
    found = set()
    if is_file(path):
        with path.open("rb") as file:
            for line in file:
                try:
                    answer = read_answer(json.loads(line))
                except (ValueError, AttributeError):
                    continue
                if answer is not None and answer.get("error") is None:
                    found.add(str(answer["id"]))
    return found


def ids_in(path: Path, kind: AnswerFormat) -> set[str]:
    """Read the ids of questions in a file of theirs, of a format. Raises ConfigError for another file."""
    try:
        return {str(line["id"]) for line in kind.unpack(path, read_bytes(path, MAX_BYTES))}
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {reason(e)}.") from None
    except (RefusedError, LookupError, TypeError):
        raise ConfigError(
            f"{path} is no file of questions: name one that `collapsekit score --missing` wrote."
        ) from None


def end_last_line(path: Path) -> None:
    """Make ready a file of answers to go on with; what was cut at its end gets a line of its own. Raises ConfigError."""
    cut = False
    if path.suffix == ".parquet":
        raise ConfigError(f"{path} is named as a table, and answers are appended as JSON lines: name a file `.jsonl`.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_file(path) and path.stat().st_size:
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                cut = file.read(1) != b"\n"
    except OSError as e:
        raise ConfigError(f"{path} cannot be written: {reason(e)}.") from None
    append_text(path, "\n" if cut else "")


def _batches(lines: Iterator[dict[str, Any]], materials: Materials, size: int) -> Iterator[tuple[str, list[str], Any]]:
    """Questions of one split that leave out the same modalities, so many at a time: split, ids, codes."""
    alike: tuple[str, list[str]] = "", []
    ids: list[str] = []
    codes: list[list[int]] = []
    for line in lines:
        try:
            code = materials.codes_of(line["split"], line["example"], line["edit"])
            now = line["split"], [m for m, how in line["edit"].items() if how.get("left_out")]
        except (LookupError, TypeError, AttributeError):
            raise RefusedError(f"question {line['id']!r} is not about these data: plan the questions again.") from None
        if ids and (now != alike or len(ids) == size):
            yield alike[0], ids, np.array(codes, np.int64)
            ids, codes = [], []
        alike = now
        ids.append(line["id"])
        codes.append(code)
    if ids:
        yield alike[0], ids, np.array(codes, np.int64)


def _rows_of(answers: Any, count: int) -> Sequence[Any]:
    """What a function returned, one an example."""
    if isinstance(answers, torch.Tensor):
        answers = answers.detach().float().cpu().numpy()
    rows = list(answers) if hasattr(answers, "__iter__") else None
    if rows is None or isinstance(answers, Mapping | str) or len(rows) != count:
        found = f"{len(rows)} answers" if rows is not None else type(answers).__name__
        raise ConfigError(f"the function returned {found} for {count} examples: return one answer an example.")
    return rows


def _plain_row(row: Any) -> list[float]:
    return [float(x) for x in np.asarray(row, np.float64).reshape(-1)]
