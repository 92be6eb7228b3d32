"""dequantise: weights that were packed into a few bits, as the numbers that they stand for."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.errors import RefusedError
from collapsekit.io.safe_text import quote

WORD = 32  # bits that several numbers share in GPTQ's and AWQ's tensors
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column of eight that each four bits of a word are of, from the lowest on
STATE = ".weight.quant_state.bitsandbytes__"
STATE_BYTES = 4096  # of its JSON text at most
UNREAD = (".W_q", ".q_weight", ".weight_packed")  # as HQQ, EXL2 and compressed-tensors name theirs


@dataclass(frozen=True)
class PackedWeights:
    """What of a checkpoint was packed into a few bits."""

    scheme: str  # how
    weights: tuple[str, ...]  # names


def dequantise(
    tensors: Mapping[str, Tensor], wanted: Collection[str]
) -> tuple[dict[str, Tensor], PackedWeights | None]:
    """Turn packed weights into floating ones, by the formulas of GPTQ, AWQ and bitsandbytes.

    With q the whole numbers, z zero points, s scales: (q - z) s a group of inputs (GPTQ, Frantar et al. 2023; AWQ, Lin et
    al. 2024), q s / 127 a row (LLM.int8(), Dettmers et al. 2022), and a table's values times the largest of each block (NF4
    and FP4, Dettmers et al. 2023, the largest ones packed likewise where they are nested).

    Args:
        tensors: by name, of any shapes, as a checkpoint has them; those of a weight (outputs, inputs) stand under its path.
        wanted: names of the model's own weights: where it has packed ones itself, nothing is changed.

    Returns:
        The tensors by name, without those that only described packed ones; and what was packed, None where nothing was.

    Raises:
        RefusedError: for packed weights that none of these formulas reads.
    """
    if any(name.endswith((".qweight", ".SCB", *UNREAD)) for name in wanted):
        return dict(tensors), None
    out = dict(tensors)
    found: dict[str, str] = {}  # name of a weight -> its scheme
    for name in tensors:
        path, _, kind = name.rpartition(".")
        if kind == "qweight":
            out[f"{path}.weight"], found[f"{path}.weight"] = _packed(path, out)
        elif kind == "SCB" and f"{path}.weight" in tensors:
            out[f"{path}.weight"], found[f"{path}.weight"] = _rows(path, out), "bitsandbytes (8 bits)"
        elif STATE in name:
            path = name[: name.index(STATE)]
            out[f"{path}.weight"], found[f"{path}.weight"] = _blocks(path, name, out), "bitsandbytes (4 bits)"
        elif f".{kind}" in UNREAD:
            raise RefusedError(_refusal(path, "in a way that is not read here"))
    return out, PackedWeights(" and ".join(sorted(set(found.values()))), tuple(found)) if found else None


def _refusal(path: str, why: str) -> str:
    return (
        f"the weights of {quote(path)} are packed {why}: save them as floating ones where they can be loaded, with "
        "`model.dequantize().save_pretrained(folder)` in transformers, and give that folder."
    )


def _packed(path: str, out: dict[str, Tensor]) -> tuple[Tensor, str]:
    """A weight (outputs, inputs) of GPTQ or AWQ, whose parts are taken out of ``out``."""
    parts = {kind: out.pop(f"{path}.{kind}", None) for kind in ("qweight", "qzeros", "scales", "g_idx")}
    q, zeros, scales, index = parts["qweight"], parts["qzeros"], parts["scales"], parts["g_idx"]
    if q is None or zeros is None or scales is None or {q.ndim, zeros.ndim, scales.ndim} != {2}:
        raise RefusedError(_refusal(path, "without `qzeros` and `scales` of two axes"))
    groups, outputs = scales.shape
    if zeros.shape[0] != groups or not zeros.shape[1] or WORD * zeros.shape[1] % outputs:
        raise RefusedError(_refusal(path, f"with zero points of shape {tuple(zeros.shape)}"))
    bits = WORD * zeros.shape[1] // outputs
    if bits not in (2, 4, 8):
        raise RefusedError(_refusal(path, f"in {bits} bits"))
    if q.shape[1] == outputs:
        values, offsets, scheme = _unpack(q.T, bits).T, _unpack(zeros, bits), f"GPTQ ({bits} bits)"
        offsets = offsets + _one_less(path, offsets, bits)
    elif bits == 4 and q.shape[1] == zeros.shape[1]:
        values, offsets = _unpack(q, bits, AWQ_ORDER), _unpack(zeros, bits, AWQ_ORDER)
        scheme = "AWQ (4 bits)"
    else:
        raise RefusedError(_refusal(path, f"in a tensor of shape {tuple(q.shape)}"))
    inputs = len(values)
    if index is None:
        index = torch.arange(inputs) // max(1, -(-inputs // groups))
    if len(index) != inputs or int(index.min()) < 0 or int(index.max()) >= groups:
        raise RefusedError(_refusal(path, f"with {len(index)} groups' numbers for {inputs} inputs"))
    index = index.long()
    return ((values - offsets[index]) * scales.float()[index]).T.contiguous(), scheme


def _rows(path: str, out: dict[str, Tensor]) -> Tensor:
    """A weight (outputs, inputs) of which bitsandbytes packed each row in eight bits; its parts are taken out of ``out``."""
    weight, largest = out[f"{path}.weight"], out.pop(f"{path}.SCB")
    out.pop(f"{path}.weight_format", None)
    if weight.dtype != torch.int8 or weight.ndim != 2 or largest.shape != weight.shape[:1]:
        raise RefusedError(_refusal(path, f"as {weight.dtype} of shape {tuple(weight.shape)}"))
    return weight.float() * largest.float()[:, None] / 127


def _unpack(words: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Whole numbers (n, k · 32 / bits) that words (n, k) hold, lowest bits first, or in the places that ``order`` says."""
    shifts = torch.arange(0, WORD, bits)
    values: Tensor = (words.long()[..., None] >> shifts) & (2**bits - 1)
    if order is not None:
        values = values[..., torch.tensor(order).argsort()]
    return values.reshape(len(words), -1)


def _one_less(path: str, zeros: Tensor, bits: int) -> int:
    """How much less than the zero point GPTQ's file says: one in its first format, nothing in the second. Only where all
    are the middle does the file itself say which it is."""
    middle = 2 ** (bits - 1)
    if bool((zeros == middle - 1).all()):
        return 1
    if bool((zeros == middle).all()):
        return 0
    raise RefusedError(_refusal(path, "with zero points of their own, which two formats of GPTQ read otherwise"))


def _blocks(path: str, name: str, out: dict[str, Tensor]) -> Tensor:
    """A weight that bitsandbytes packed in blocks of four bits, whose parts are taken out of ``out``."""
    state = _state(path, out.pop(name))
    table, largest = (out.pop(f"{path}.weight.{kind}", torch.zeros(0)) for kind in ("quant_map", "absmax"))
    packed, shape, size = (
        out.get(f"{path}.weight", torch.zeros(0)).reshape(-1),
        state.get("shape"),
        state.get("blocksize"),
    )
    if not (isinstance(shape, list) and all(isinstance(x, int) and x > 0 for x in shape) and shape):
        raise RefusedError(_refusal(path, "with a description that says no shape"))
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or 2 * len(packed) != count + count % 2:
        raise RefusedError(_refusal(path, f"in {len(packed)} bytes for {count} numbers"))
    if not isinstance(size, int) or size < 1 or table.shape != (16,) or largest.shape != (-(-count // size),):
        raise RefusedError(_refusal(path, "with blocks or a table of other sizes than its description says"))
    if f"{path}.weight.nested_absmax" in out:
        largest = _nested(path, largest, state, out)
    places = torch.stack([packed >> 4, packed & 15], 1).reshape(-1)[:count].long()
    return (table.float()[places] * largest.float().repeat_interleave(size)[:count]).reshape(shape)


def _nested(path: str, packed: Tensor, state: Mapping[str, object], out: dict[str, Tensor]) -> Tensor:
    """The largest value of each block (k,), themselves packed in eight bits."""
    table = out.pop(f"{path}.weight.nested_quant_map", torch.zeros(0))
    largest = out.pop(f"{path}.weight.nested_absmax")
    size, offset = state.get("nested_blocksize"), state.get("nested_offset", 0.0)
    fits = isinstance(size, int) and size > 0 and largest.shape == (-(-len(packed) // size),)
    if not fits or not isinstance(offset, int | float) or table.shape != (256,) or packed.dtype != torch.uint8:
        raise RefusedError(_refusal(path, "with nested blocks of other sizes than its description says"))
    assert isinstance(size, int)
    return table.float()[packed.long()] * largest.float().repeat_interleave(size)[: len(packed)] + offset


def _state(path: str, text: Tensor) -> dict[str, object]:
    if text.dtype != torch.uint8 or text.numel() > STATE_BYTES:
        raise RefusedError(_refusal(path, "with a description that is no short text"))
    try:
        found = json.loads(bytes(text.tolist()).decode("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RefusedError(_refusal(path, "with a description that is no JSON"))
    return found
