"""Examples made of questions: each modality's fields from the example that lends it, or a stand-in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapsekit.adapters.live.absence import Substitute, make_substitutes
from collapsekit.adapters.live.inputs import give_values, prepare_inputs
from collapsekit.adapters.live.presence import find_present
from collapsekit.answers.adapter import AnswersAdapter
from collapsekit.answers.question import LEFT_OUT, STAND_IN, UNCHANGED, Codes
from collapsekit.data.base import Batch, is_stored
from collapsekit.features.examples import Examples, SplitReader


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
