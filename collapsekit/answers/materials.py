"""Examples made of questions: each modality's fields from the example that lends it, or a stand-in."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from collapsekit.adapters.live.absence import Substitute, make_substitutes
from collapsekit.adapters.live.inputs import give_values, prepare_inputs
from collapsekit.adapters.live.presence import find_present
from collapsekit.answers.adapter import AnswersAdapter
from collapsekit.answers.question import LEFT_OUT, STAND_IN, UNCHANGED, Codes
from collapsekit.config.schema import Config
from collapsekit.data.base import Batch, is_stored
from collapsekit.errors import ConfigError
from collapsekit.features.examples import Examples, SplitReader
from collapsekit.io.files import is_file, read_text, reason
from collapsekit.io.safe_text import inline
from collapsekit.user_code.frames import one_line

MOST_TOKENIZER = 256 << 20  # bytes of a tokenizer's file


def choose_counter(config: Config) -> tuple[Callable[[str], int], Literal["tokenizer", "words"]]:
    """Choose what tokens of a text are counted by: the config's tokenizer, else its words.

    Args:
        config: of the subject.

    Returns:
        Tokens of one text, and what they are counted by. Of words, 3 are about 4 tokens (OpenAI's rule of thumb).

    Raises:
        ConfigError: for a tokenizer that cannot be read.
    """
    if config.answers.tokenizer is None:
        return lambda text: -(-4 * len(text.split()) // 3), "words"
    path = config.resolve(config.answers.tokenizer)
    path = path if is_file(path) else path / "tokenizer.json"
    where = f"`answers.tokenizer` of {config.origin}"
    try:
        tokenizer = importlib.import_module("tokenizers").Tokenizer.from_str(read_text(path, MOST_TOKENIZER))
    except ImportError:
        raise ConfigError(
            f"{where} is read by tokenizers, which is not installed: pip install tokenizers, or leave it out, and words are "
            "counted."
        ) from None
    except OSError as e:
        raise ConfigError(
            f"{where}, {path}, cannot be read: {reason(e)}; name a tokenizer.json or its folder."
        ) from None
    except Exception as e:  # noqa: BLE001 - the library raises nothing narrower
        what = inline(one_line(e))
        raise ConfigError(f"{where}, {path}, is no tokenizer ({what}): name a tokenizer.json or its folder.") from None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False)), "tokenizer"


class Materials:
    """Makes the examples that questions are about."""

    def __init__(self, adapter: AnswersAdapter, reader: SplitReader) -> None:
        self.adapter, self.reader = adapter, reader
        self._splits: dict[str, tuple[Examples, Tensor, Mapping[str, Substitute]]] = {}

    def _of(self, split: str) -> tuple[Examples, Tensor, Mapping[str, Substitute]]:
        """The examples, the row of each place, and what stands for absent modalities."""
        if split not in self._splits:
            examples = self.reader.of(split)
            rows = torch.empty_like(examples.order)
            rows[examples.order] = torch.arange(len(rows))
            present = find_present(self.adapter, examples.columns)
            stands = make_substitutes(self.adapter, examples.columns, present, self.reader.seed)
            self._splits[split] = examples, rows, stands
        return self._splits[split]

    def columns_of(self, split: str, codes: Codes) -> Batch:
        """Gather the columns of examples that are asked about.

        Args:
            split: of the examples.
            codes: (q, 1 + m).

        Returns:
            (q, ...) by key. Of an input that several modalities share, the last one of them that is exchanged decides, as in
            a diagnosis.
        """
        examples, row_of, stands = self._of(split)
        told = torch.from_numpy(np.ascontiguousarray(codes))
        own = row_of[told[:, 0]]
        sources = dict.fromkeys(self.adapter.batch_keys, own)
        for i, m in enumerate(self.adapter.modalities, 1):
            code = told[:, i]
            for key in self.adapter.input_keys(m):
                sources[key] = torch.where(code >= 0, row_of[code.clamp_min(0)], sources[key])
        out = {key: examples.columns[key].index_select(0, rows) for key, rows in sources.items()}
        for i, m in enumerate(self.adapter.modalities, 1):
            absent = (told[:, i] <= STAND_IN) & (told[:, i] > LEFT_OUT)
            if bool(absent.any()):
                for key, values in stands[m].inputs.items():
                    out[key][absent] = values.index_select(0, STAND_IN - told[absent, i]).to(out[key].dtype)
        return out

    def count_tokens(self, questions: Mapping[str, Codes], count: Callable[[str], int]) -> int | None:
        """Count the tokens of the texts that questions are about.

        Args:
            questions: codes (q, 1 + m) by split.
            count: the tokens of one text.

        Returns:
            Their sum; None where no modality is text. A stand-in for a text counts as the text in whose place it is.
        """
        found, objects = None, self.adapter.source.objects
        for split, codes in questions.items():
            examples, row_of, _ = self._of(split)
            for i, m in enumerate(self.adapter.modalities, 1):
                for key in self.adapter.input_keys(m):
                    column = examples.columns[key]
                    if not is_stored(objects, key, column):
                        continue
                    texts = objects[key].take(column)
                    if not any(isinstance(text, str) for text in texts):
                        continue
                    sizes = np.array([count(text) if isinstance(text, str) else 0 for text in texts], np.int64)
                    places = np.where(codes[:, i] >= 0, codes[:, i], codes[:, 0])  # a text is never left out
                    found = (found or 0) + int(sizes[row_of.numpy()[places]].sum())
        return found

    def make_batch(self, split: str, codes: Codes) -> dict[str, Any]:
        """Make what a model in process would be given, tensors as NumPy arrays.

        Args:
            split: of the examples.
            codes: (q, 1 + m), which leave out the same modalities.

        Returns:
            By name arrays (q, ...), lists of q values that do not stack, or None, as of what is left out.
        """
        ready = prepare_inputs(self.adapter, self.columns_of(split, codes))
        values = give_values(self.adapter, {k: v for k, v in ready.items() if k in self.adapter.fields.model_keys})
        gone = self._left_out(codes[0])
        return {key: None if key in gone else _as_numpy(value) for key, value in values.items()}

    def _left_out(self, code: Any) -> set[str]:
        """The keys of modalities that one row of codes leaves out."""
        modalities = [m for m, one in zip(self.adapter.modalities, code[1:], strict=True) if one == LEFT_OUT]
        return {key for m in modalities for key in self.adapter.input_keys(m)}

    def parts_of(self, split: str, code: Any) -> tuple[tuple[str, Any], ...]:
        """Return one example's modalities with the values of their fields, as the data have them, in order: text, arrays."""
        columns = self.columns_of(split, np.asarray(code)[None])
        objects, found, gone = self.adapter.source.objects, [], self._left_out(code)
        for m in self.adapter.modalities:
            for key in self.adapter.input_keys(m):
                column = columns[key]
                value = objects[key].take(column)[0] if is_stored(objects, key, column) else column[0]
                found.append((m, None if key in gone else _as_numpy(value)))
        return tuple(found)

    def codes_of(self, split: str, example: int, edit: Mapping[str, Mapping[str, int]]) -> list[int]:
        """Write a question of a shard as one row of codes.

        Args:
            split: of the example.
            example: its place in the split.
            edit: by modality, ``{"example": place}``, ``{"absent": number}`` or ``{"left_out": true}``.

        Returns:
            1 + m codes.

        Raises:
            LookupError, TypeError, AttributeError: for what is no question about these data.
        """
        count = len(self._of(split)[1])
        codes = [example]
        for m in self.adapter.modalities:
            asked = edit.get(m)
            if asked is not None and asked.get("left_out"):
                codes.append(LEFT_OUT)
            elif asked is not None and "absent" in asked:
                codes.append(STAND_IN - range(self._of(split)[2][m].count)[asked["absent"]])
            else:
                codes.append(UNCHANGED if asked is None else range(count)[asked["example"]])
        return [range(count)[example], *codes[1:]]


def _as_numpy(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_numpy(one) for one in value]
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value
