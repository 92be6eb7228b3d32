"""What holds of any input: documented errors only, and whatever is located lies in its file and becomes a tensor."""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path

from collapsekit.checkpoint.formats.detect import LocatedWeights, UnreadableError, locate
from collapsekit.checkpoint.formats.layout import ITEM_BYTES, DamagedError, Extent, Located
from collapsekit.checkpoint.formats.worker import as_data
from collapsekit.checkpoint.formats.zip_archive import open_archive
from collapsekit.checkpoint.mmap import mapped
from collapsekit.errors import ConfigError, RefusedError

LONGEST_SENTENCE = 2000  # characters, paths aside


def check_locate(path: Path) -> LocatedWeights | None:
    """Locate, and hold the answer against the file; None where it was refused. Anything else raises."""
    try:
        found = locate(path)
    except (ConfigError, RefusedError) as e:
        if isinstance(e, UnreadableError):
            json.dumps([e.format, e.names, e.pickled], allow_nan=False)
        check_sentence(str(e), path)
        return None
    check_sentence(found.note, path)
    for tensor in found.tensors.values():
        _check_inside(tensor, found.files)
    answer = json.loads(json.dumps(as_data(found), allow_nan=False))
    try:
        tensors = mapped(answer["files"], answer["tensors"])
    except RefusedError:
        return found
    assert list(tensors) == list(found.tensors)
    for name, located in found.tensors.items():
        tensor = tensors[name]
        assert tuple(tensor.shape) == located.shape
        assert str(tensor.dtype) == f"torch.{located.dtype}"
        if tensor.numel():
            tensor[(0,) * tensor.dim()].item()
            tensor[(-1,) * tensor.dim()].item()
    return found


def _check_inside(tensor: Located, paths: list[Path]) -> None:
    filled = 0
    for chunk in tensor.chunks:
        assert chunk.path in paths
        count = math.prod(chunk.shape)
        last = sum((n - 1) * s for n, s in zip(chunk.shape, chunk.stride, strict=True)) + 1 if count else 0
        assert chunk.offset >= 0
        assert chunk.offset + last * ITEM_BYTES[tensor.dtype] <= chunk.path.stat().st_size
        filled += count
    assert filled == math.prod(tensor.shape)


def check_sentence(text: str, path: Path) -> None:
    """One line that a terminal shows as it is, and of bounded length."""
    rest = text.replace(str(path), "").replace(str(path.parent), "")
    hidden = [c for c in rest if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert not hidden, f"hidden characters {hidden[:5]} in {rest[:300]!r}"
    assert len(rest) <= LONGEST_SENTENCE, f"a sentence of {len(rest)} characters"


def check_archive(path: Path) -> None:
    """Every member lies in the file, and none within another."""
    size = path.stat().st_size
    try:
        found = open_archive(Extent(path, 0, size))
    except DamagedError:
        return
    end = 0
    for place in sorted(found.members.values(), key=lambda e: (e.start, e.length)):
        assert place.path == path
        assert end <= place.start
        end = place.start + place.length
    assert end <= size
