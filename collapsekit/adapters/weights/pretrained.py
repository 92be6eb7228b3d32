"""Models of transformers, whose library renames what a file holds: read as its from_pretrained does."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.build import preserve_rng_state
from collapsekit.user_code.process_state import user_code


@dataclass(frozen=True)
class PretrainedFit:
    """What a library made of a file's tensors: the model's, by name, and the names on either side that have no other."""

    tensors: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def read_as_pretrained(model: nn.Module, tensors: Mapping[str, Tensor]) -> PretrainedFit | None:
    """Read a file's tensors as the library of the model does: its ``from_pretrained`` renames, joins and ties them.

    The model itself is not touched; another one of its class is made meanwhile.

    Args:
        model: a model of transformers, or a module that holds one and no tensor beside it.
        tensors: of any shape, by their names in the file.

    Returns:
        What came of it; None where there is no such model, and where the library refuses the file.
    """
    transformers = sys.modules.get("transformers")  # a model of it has imported it
    kind = getattr(transformers, "PreTrainedModel", None)
    if transformers is None or not isinstance(kind, type):
        return None
    place = _place(model, kind)
    if place is None:
        return None
    path, module = place
    prefix = f"{path}." if path else ""
    version = str(getattr(transformers, "__version__", "4"))
    key = "torch_dtype" if version.startswith("4.") else "dtype"
    kinds = [p.dtype for p in module.parameters() if p.is_floating_point()]
    how: dict[str, Any] = {key: kinds[0] if kinds else torch.float32, "output_loading_info": True}
    state = {name: tensor.detach() for name, tensor in tensors.items()}
    maker: Any = type(module)
    try:
        with preserve_rng_state(), _quiet(), user_code("the model's from_pretrained"):
            made, about = maker.from_pretrained(None, config=getattr(module, "config", None), state_dict=state, **how)
    except Exception:  # noqa: BLE001 - of a library, and of the user's class; what does not fit is said in our own words
        return None
    values = {f"{prefix}{name}": v for name, v in made.state_dict().items() if isinstance(v, Tensor)}
    missing = tuple(f"{prefix}{name}" for name in sorted(about.get("missing_keys", ())))
    wrong = about.get("mismatched_keys") or about.get("error_msgs")
    return None if wrong else PretrainedFit(values, missing, tuple(sorted(about.get("unexpected_keys", ()))))


def _place(model: nn.Module, kind: type[Any]) -> tuple[str, nn.Module] | None:
    """The outermost model of the library that holds all that the state_dict has."""
    names = list(model.state_dict())
    for path, module in model.named_modules():
        if isinstance(module, kind) and all(name.startswith(f"{path}." if path else "") for name in names):
            return path, module
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and tables that the library shows while it loads."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
