"""Weights that were packed into a few bits, packed here as the papers' own programs lay them out, number by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from collapsekit import diagnose
from collapsekit.adapters.weights.load import load_weights
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.errors import RefusedError

INPUTS, OUTPUTS, GROUP = 64, 16, 32
MIDDLE = 8


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Linear(INPUTS, OUTPUTS), nn.Linear(INPUTS, OUTPUTS)
        self.head = nn.Linear(OUTPUTS, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.tanh(self.a(a) + self.b(b)))


def whole(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers (inputs, outputs), scales and zero points (groups, outputs)."""
    g = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 16, (INPUTS, OUTPUTS), generator=g)
    scales = torch.rand(INPUTS // GROUP, OUTPUTS, generator=g) + 0.5
    return q, scales, torch.full_like(scales, MIDDLE).long()


def words(values: list[int], bits: int = 4) -> int:
    """One word of 32 bits, lowest bits first, as a signed number."""
    total = sum(value << (bits * i) for i, value in enumerate(values))
    return total - (1 << 32) if total >= 1 << 31 else total


def gptq(q: Tensor, scales: Tensor, zeros: Tensor, index: Tensor | None = None, bits: int = 4) -> dict[str, Tensor]:
    """Packed along inputs; zero points along outputs."""
    each = 32 // bits
    packed = [[words(q[i : i + each, o].tolist(), bits) for o in range(q.shape[1])] for i in range(0, len(q), each)]
    points = [[words(row[o : o + each].tolist(), bits) for o in range(0, len(row), each)] for row in zeros]
    out = {
        "qweight": torch.tensor(packed, dtype=torch.int32),
        "qzeros": torch.tensor(points, dtype=torch.int32),
        "scales": scales.half(),
    }
    return out if index is None else out | {"g_idx": index.int()}


def awq(q: Tensor, scales: Tensor, zeros: Tensor) -> dict[str, Tensor]:
    """Packed along outputs, columns 0, 2, 4, 6, 1, 3, 5, 7 of each eight from the lowest bits on."""

    def pack(x: Tensor) -> Tensor:
        rows = [[words([int(r[o + c]) for c in (0, 2, 4, 6, 1, 3, 5, 7)]) for o in range(0, len(r), 8)] for r in x]
        return torch.tensor(rows, dtype=torch.int32)

    return {"qweight": pack(q), "qzeros": pack(zeros), "scales": scales.half()}


def blocks(weight: Tensor, nested: bool = False) -> dict[str, Tensor]:
    """NF4-like: the nearest of 16 values, times the largest of each 64, two numbers a byte, the first in the high bits."""
    table = torch.linspace(-1, 1, 16)
    flat = weight.reshape(-1, 64)
    largest = flat.abs().amax(1)
    places = (flat / largest[:, None] - table[:, None, None]).abs().argmin(0).reshape(-1)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(weight.shape)}
    out = {"weight": (places[::2] * 16 + places[1::2]).to(torch.uint8)[:, None], "weight.quant_map": table}
    if nested:
        eight, offset = torch.linspace(-1, 1, 256), float(largest.mean())
        centred = largest - offset
        top = centred.reshape(-1, 8).abs().amax(1)
        near = (centred.reshape(-1, 8) / top[:, None] - eight[:, None, None]).abs().argmin(0).reshape(-1)
        out |= {"weight.absmax": near.to(torch.uint8), "weight.nested_absmax": top, "weight.nested_quant_map": eight}
        state |= {"nested_blocksize": 8, "nested_offset": offset}
    else:
        out["weight.absmax"] = largest
    text = json.dumps(state).encode()
    return out | {"weight.quant_state.bitsandbytes__nf4": torch.tensor(list(text), dtype=torch.uint8)}


def loaded(tmp_path: Path, parts: dict[str, Tensor], model: nn.Module | None = None) -> nn.Module:
    """The model with a packed ``a`` and all else as another seed made it."""
    model = model or Both()
    rest = {k: v.clone() + 1 for k, v in model.state_dict().items() if k != "a.weight"}
    save_file(rest | {f"a.{k}": v.contiguous() for k, v in parts.items()}, tmp_path / "weights.safetensors")
    load_weights(model, read_checkpoint(tmp_path / "weights.safetensors"))
    assert torch.equal(model.state_dict()["b.weight"], rest["b.weight"])
    return model


@pytest.mark.parametrize("first", [True, False])
def test_gptq(tmp_path: Path, first: bool) -> None:
    """Both of its formats: the first one says one less than each zero point."""
    q, scales, zeros = whole()
    model = loaded(tmp_path, gptq(q, scales, zeros - int(first)))
    want = (q - MIDDLE) * scales.half().float().repeat_interleave(GROUP, 0)
    assert torch.allclose(model.a.weight.detach(), want.T)


def test_gptq_with_groups_in_another_order(tmp_path: Path) -> None:
    q, scales, zeros = whole()
    index = torch.randint(0, 2, (INPUTS,), generator=torch.Generator().manual_seed(3))
    model = loaded(tmp_path, gptq(q, scales, zeros - 1, index))
    assert torch.allclose(model.a.weight.detach(), ((q - MIDDLE) * scales.half().float()[index]).T)


def test_gptq_of_eight_bits(tmp_path: Path) -> None:
    q = torch.randint(0, 256, (INPUTS, OUTPUTS), generator=torch.Generator().manual_seed(0))
    _, scales, zeros = whole()
    model = loaded(tmp_path, gptq(q, scales, torch.full_like(zeros, 127), bits=8))
    assert torch.allclose(model.a.weight.detach(), ((q - 128) * scales.half().float().repeat_interleave(GROUP, 0)).T)


def test_awq(tmp_path: Path) -> None:
    q, scales, _ = whole()
    zeros = torch.randint(0, 16, scales.shape, generator=torch.Generator().manual_seed(2))
    model = loaded(tmp_path, awq(q, scales, zeros))
    want = (q - zeros.repeat_interleave(GROUP, 0)) * scales.half().float().repeat_interleave(GROUP, 0)
    assert torch.allclose(model.a.weight.detach(), want.T)


def test_eight_bits_a_row(tmp_path: Path) -> None:
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(0))
    largest = weight.abs().amax(1)
    q = (weight * 127 / largest[:, None]).round().to(torch.int8)
    model = loaded(tmp_path, {"weight": q, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)})
    assert torch.allclose(model.a.weight.detach(), weight, atol=float(largest.max()) / 127)
    assert torch.equal(model.a.weight.detach(), q.float() * largest[:, None] / 127)


@pytest.mark.parametrize("nested", [True, False])
def test_four_bits_in_blocks(tmp_path: Path, nested: bool) -> None:
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(0))
    model = loaded(tmp_path, blocks(weight, nested))
    apart = (model.a.weight.detach() - weight).abs().reshape(-1, 64) / weight.reshape(-1, 64).abs().amax(1)[:, None]
    assert float(apart.max()) <= 1 / 15 + (0.02 if nested else 1e-6)  # half of the table's steps
    assert len(model.a.weight.detach().unique()) > 16


def test_a_report_says_so(tmp_path: Path) -> None:
    q, scales, zeros = whole()
    g = torch.Generator().manual_seed(0)
    data = {
        s: {
            "a": torch.randn(80, INPUTS, generator=g),
            "b": torch.randn(80, INPUTS, generator=g),
            "label": torch.arange(80) % 2,
        }
        for s in ("train", "val", "test")
    }
    loaded(tmp_path, gptq(q, scales, zeros - 1))
    found = diagnose(
        tmp_path / "weights.safetensors",
        model=Both(),
        data=data,
        config={"modalities": {"a": "a", "b": "b"}},
        profile="quick",
        probes=["reliance"],
    )
    sentence = {w.name: w.sentence for w in found.warnings}["weights_dequantised"]
    assert sentence.startswith("1 weight of the checkpoint was packed by GPTQ (4 bits)")


def test_a_model_of_packed_weights_takes_them_as_they_are(tmp_path: Path) -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in gptq(*whole()).items():
                self.register_buffer(name, torch.zeros_like(value))

    class Holder(Both):
        def __init__(self) -> None:
            super().__init__()
            self.a = Packed()  # type: ignore[assignment]

    model = Holder()
    rest = {k: v.clone() for k, v in model.state_dict().items()}
    wanted = {f"a.{k}": v for k, v in gptq(*whole()).items()}
    save_file(rest | wanted, tmp_path / "weights.safetensors")
    load_weights(model, read_checkpoint(tmp_path / "weights.safetensors"))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in wanted.items())


def state(**more: Any) -> Tensor:
    text = {"blocksize": 64, "shape": [OUTPUTS, INPUTS]} | more
    return torch.tensor(list(json.dumps(text).encode()), dtype=torch.uint8)


WEIGHT = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(0))
NAME = "weight.quant_state.bitsandbytes__nf4"
BROKEN: dict[str, tuple[dict[str, Tensor], str]] = {
    "zero points of their own": (gptq(*whole()[:2], torch.arange(32).reshape(2, 16) % 16), "two formats of GPTQ"),
    "three bits": (gptq(*whole()) | {"qzeros": torch.zeros(2, 3, dtype=torch.int32)}, "in 6 bits"),
    "a part of a bit": (
        gptq(*whole()) | {"qzeros": torch.zeros(2, 1, dtype=torch.int32)[:, :0]},
        "zero points of shape",
    ),
    "one bit": (gptq(*whole()) | {"qzeros": torch.zeros(2, 16, dtype=torch.int32)}, "in 32 bits"),
    "no scales": ({k: v for k, v in gptq(*whole()).items() if k != "scales"}, "without `qzeros` and `scales`"),
    "a tensor of another shape": (gptq(*whole()) | {"qweight": torch.zeros(8, 5, dtype=torch.int32)}, r"\(8, 5\)"),
    "groups beyond the last": (gptq(*whole(), torch.full((INPUTS,), 7)), "64 groups' numbers"),
    "groups of other inputs": (gptq(*whole(), torch.zeros(5)), "5 groups' numbers"),
    "rows of another number": ({"weight": WEIGHT.to(torch.int8), "SCB": torch.ones(3)}, "torch.int8"),
    "rows that are not packed": ({"weight": WEIGHT, "SCB": torch.ones(OUTPUTS)}, "torch.float32"),
    "no shape": (blocks(WEIGHT) | {NAME: state(shape=None)}, "says no shape"),
    "a huge shape": (blocks(WEIGHT) | {NAME: state(shape=[2**40, 2**40])}, "numbers"),
    "another shape": (blocks(WEIGHT) | {NAME: state(shape=[3, 3])}, "512 bytes for 9 numbers"),
    "blocks of another size": (blocks(WEIGHT) | {NAME: state(blocksize=5)}, "other sizes"),
    "a block of nothing": (blocks(WEIGHT) | {NAME: state(blocksize=0)}, "other sizes"),
    "a short table": (blocks(WEIGHT) | {"weight.quant_map": torch.ones(3)}, "other sizes"),
    "nested blocks of another size": (
        blocks(WEIGHT, nested=True) | {NAME: state(nested_blocksize=5)},
        "nested blocks of other sizes",
    ),
    "an offset that is text": (
        blocks(WEIGHT, nested=True) | {NAME: state(nested_blocksize=8, nested_offset="x")},
        "nested blocks of other sizes",
    ),
    "no JSON": (blocks(WEIGHT) | {NAME: torch.tensor([123, 7], dtype=torch.uint8)}, "no JSON"),
    "a list": (blocks(WEIGHT) | {NAME: torch.tensor(list(b"[1]"), dtype=torch.uint8)}, "no JSON"),
    "a long text": (blocks(WEIGHT) | {NAME: torch.zeros(5000, dtype=torch.uint8)}, "no short text"),
    "a way that is not read": ({"W_q": torch.zeros(3, 3, dtype=torch.uint8)}, "not read here"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_does_not_hang_together_is_refused_with_the_next_step(tmp_path: Path, what: str) -> None:
    parts, message = BROKEN[what]
    with pytest.raises(RefusedError, match=rf"(?s)the weights of 'a' are packed.*{message}.*save_pretrained"):
        loaded(tmp_path, parts)
