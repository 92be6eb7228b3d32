"""What a recording says of a config: its cameras, states and actions, without reading a frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collapsekit.checkpoint.sidecars.described import Described, fields_of, mapping, sizes, text
from collapsekit.data.episodes.lerobot import TASK, read_info, read_tasks
from collapsekit.data.episodes.recording import FIELDS

_LABEL = "action"


def describe_recording(folder: Path) -> Described:
    """Describe a recording of LeRobot's as a policy's files are described. Raises ConfigError, RefusedError."""
    features = {k: v for k, v in mapping(read_info(folder).get("features")).items() if isinstance(v, dict)}
    inputs = [k for k in features if k not in FIELDS and k != _LABEL and not k.startswith("next.")]
    shown = fields_of((k.rpartition(".")[2], k, None, _about(features[k])) for k in inputs)
    return Described("LeRobot recording", (), shown, "regression", _LABEL, "dict")


def compare_keys(folder: Path, policy: Described) -> list[str]:
    """Say which inputs of a policy a recording does not have, and how many tasks in words it does."""
    recorded = list(mapping(read_info(folder).get("features")))
    there = ", ".join(text(key, 100) for key in recorded if key not in FIELDS)
    out = [
        f"the recording has no {field.key}: it has {there}"
        for field in policy.inputs
        if field.key not in recorded and recorded
    ]
    tasks = len(read_tasks(folder))
    if tasks > 1:
        out.append(
            f"the recording has {tasks} tasks in words: where the policy reads them, add `task: {{input: {TASK}}}`"
        )
    return out


def _about(feature: dict[str, Any]) -> str:
    return ", ".join(filter(None, [text(feature.get("dtype")), sizes(feature.get("shape"))]))
