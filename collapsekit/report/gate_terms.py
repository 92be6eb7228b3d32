"""Words and numbers of the gate that its options, the config and its reports share. Imports nothing."""

from __future__ import annotations

from typing import Literal, get_args

Situation = Literal["auto", "paired", "retrained"]
Watched = Literal["metric", "use", "missing"]
WATCHED: tuple[Watched, ...] = get_args(Watched)
ALPHA = 0.05  # most false alarms over everything compared, where none is named
