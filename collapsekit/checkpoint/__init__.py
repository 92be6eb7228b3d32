"""Any file -> named tensors, safely: nothing in the file is executed, and what is damaged is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collapsekit.checkpoint.match import match_state_dict
    from collapsekit.checkpoint.read import Checkpoint, read_checkpoint

# Imported when first asked for, so that looking into a file that is refused does not wait for torch.
_WHERE = {"Checkpoint": "read", "match_state_dict": "match", "read_checkpoint": "read"}

__all__ = ["Checkpoint", "match_state_dict", "read_checkpoint"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'collapsekit.checkpoint' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"collapsekit.checkpoint.{_WHERE[name]}"), name)
