"""How many rows a forward takes, whatever the batches of the data."""

from __future__ import annotations

from collapsekit.features.features import Features

CHUNK = 512  # rows a forward; fixed, so that results do not depend on the data's batch size
SHARED, SHARED_BYTES = 2048, 4 << 20  # rows, and bytes of what is given, of a forward that answers many questions


def chunk_of(features: Features) -> int:
    """Choose how many rows a forward takes: CHUNK, or the data's batches where an example's answer depends on the
    others in its batch.
    """
    return CHUNK if features.batch is None else features.batch


def shared_rows(features: Features) -> int:
    """Choose how many rows a forward takes that many questions share: CHUNK at least, more where an example is small."""
    tensors = [*features.inputs.values(), *(t for r in features.recorded.values() for t in r)]
    return max(CHUNK, min(SHARED, SHARED_BYTES // max(1, sum(t[:1].nbytes for t in tensors))))
