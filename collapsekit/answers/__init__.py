"""Questions and answers through files: what is asked of a model that is elsewhere, read back, and judged as a model here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Engine"]

if TYPE_CHECKING:
    from collapsekit.answers.engine import Engine
else:

    def __getattr__(name: str) -> Any:  # reading answers is not to wait for torch
        if name != "Engine":
            raise AttributeError(f"module 'collapsekit.answers' has no attribute {name!r}")
        from collapsekit.answers.engine import Engine

        return Engine
