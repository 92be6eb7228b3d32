"""read_document: a JSON object beside weights, as plain data within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collapsekit.errors import RefusedError
from collapsekit.io.files import is_file, read_text, reason
from collapsekit.io.json import parse_json
from collapsekit.io.limits import check_plain

MAX_BYTES = 1_000_000
_MAX_VALUES = 100_000


def folder_of(path: Path) -> Path:
    """Return the folder whose files say what the weights at ``path`` are."""
    return path if path.is_dir() else path.parent


def read_document(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no file. Raises RefusedError where it is another thing, or too much."""
    if not is_file(path):
        return None
    try:
        found = parse_json(read_text(path, MAX_BYTES), str(path))
        check_plain(found, values=_MAX_VALUES)
    except (OSError, ValueError) as e:
        why = reason(e) if isinstance(e, OSError) else str(e)
        raise RefusedError(
            f"{path} cannot be read ({why}): get it anew, or take it away from beside the weights."
        ) from None
    except RefusedError:
        raise RefusedError(f"{path} is not JSON: get it anew, or take it away from beside the weights.") from None
    if not isinstance(found, dict):
        raise RefusedError(f"{path} holds no JSON object: get it anew, or take it away from beside the weights.")
    return found
