"""What was diagnosed, and under what: the parts of a report that no probe measures."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.weights.offloaded import find_offloaded, read_offloaded
from collapsekit.checkpoint.read import Checkpoint
from collapsekit.io.hub import name_of
from collapsekit.io.transfer import stream_to_cpu
from collapsekit.report.diagnosis import ReportWarning, Subject
from collapsekit.session.session import Session
from collapsekit.user_code.process_state import model_settings


def subject_of(session: Session) -> Subject:
    """Describe the model, the split and the examples; a live model is known by the digest of its state_dict."""
    adapter, features = session.adapter, session.features
    read: Checkpoint | None = adapter.checkpoint
    adapter.steady()  # the digest is of the weights as they were found
    if (there := adapter.elsewhere) is not None:
        name, sha256 = there.name, there.sha256
    elif read is not None:
        name, sha256 = name_of(read.path), read.sha256
    else:
        name, sha256 = f"live {type(adapter.model).__name__}", weights_digest(adapter)
    return Subject(
        checkpoint=name,
        sha256=sha256,
        modalities=adapter.modalities,
        task=adapter.task.name,
        metric=adapter.task.metric_name,
        split=features.split,
        examples=len(features),
        seed=session.seed,
        engine=None if there is None else there.engine,
    )


def process_warnings() -> tuple[ReportWarning, ...]:
    """Warn where the model's code set what numbers may rest on, such as the default dtype."""
    said = model_settings()
    return () if said is None else (ReportWarning(name="process_state", sentence=said),)


def weights_by_name(adapter: Adapter) -> dict[str, str]:
    """Compute the SHA-256 of each of the model's weights and buffers, as they are now."""
    found = {}
    for name, value in _weights(adapter):
        kind = f"{value.dtype} {tuple(value.shape)}".encode()
        found[name] = hashlib.sha256(kind + _bytes(value)).hexdigest()
    return found


def changed_weights(before: Mapping[str, str], after: Mapping[str, str]) -> frozenset[str]:
    """List names of the weights that are not what they were, or are on one side only."""
    return frozenset(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _bytes(value: Tensor) -> bytes:
    return value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def _weights(adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    """Weights and buffers by name, on the CPU a few at a time."""
    state = {k: v for k, v in adapter.model.state_dict().items() if isinstance(v, Tensor)}
    waiting = find_offloaded(adapter.model)
    values = (read_offloaded(k, waiting[k]) if k in waiting else v for k, v in state.items())
    return zip(state, stream_to_cpu(values), strict=True)


def weights_digest(adapter: Adapter) -> str:
    """Compute the SHA-256 over names and values of the model's weights and buffers, as they are now."""
    digest = hashlib.sha256()
    for name, value in _weights(adapter):
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def environment() -> dict[str, Any]:
    """Describe what ran it; no time, so that the same run gives the same bytes."""
    import numpy
    import scipy

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(terse=True),
        "threads": torch.get_num_threads(),
    }
