"""Gradients along a direction are torch's to the bit, and do not bring sympy along."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from collapsekit.errors import NumericsError
from collapsekit.interventions.gradients import gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_direction_gives_the_bits_of_grad_outputs(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randn(*shape, generator=g, dtype=dtype).requires_grad_() for shape in ((40, 7), (7, 5)))
    y, way = (x @ w).tanh(), torch.randn(40, 5, generator=g, dtype=dtype)
    found = gradients(y, [x, w, torch.ones(2, requires_grad=True)], way, again=True)
    expected = torch.autograd.grad(y, [x, w], way)
    assert found[2] is None
    for a, b in zip(found[:2], expected, strict=True):
        assert a is not None
        assert torch.equal(a, b)


def test_what_has_no_gradient_is_refused() -> None:
    with pytest.raises(NumericsError, match="no gradient reaches"):
        gradients(torch.ones(3), [torch.ones(3, requires_grad=True)], torch.ones(3))


def test_sympy_is_not_imported() -> None:
    code = (
        "import sys, torch\n"
        "from collapsekit.interventions.gradients import gradients\n"
        "p = torch.ones(2, requires_grad=True)\n"
        "(g,) = gradients(p * 3, [p], torch.tensor([1.0, 2.0]))\n"
        "print('sympy' in sys.modules, g.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False [3.0, 6.0]\n"
