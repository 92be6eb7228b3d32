"""LeRobot policies: config.json says which cameras and states go in, which actions come out, and how they are scaled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapsekit.checkpoint.sidecars.described import Described, fields_of, is_identifier, mapping, sizes, text
from collapsekit.checkpoint.sidecars.document import read_document

# Type of a policy -> module of LeRobot and class.
_POLICIES = {
    "act": ("act.modeling_act", "ACTPolicy"),
    "diffusion": ("diffusion.modeling_diffusion", "DiffusionPolicy"),
    "vqbet": ("vqbet.modeling_vqbet", "VQBeTPolicy"),
    "tdmpc": ("tdmpc.modeling_tdmpc", "TDMPCPolicy"),
    "smolvla": ("smolvla.modeling_smolvla", "SmolVLAPolicy"),
    "pi0": ("pi0.modeling_pi0", "PI0Policy"),
}
_SAMPLING = ("diffusion", "pi0", "smolvla", "vqbet")
_MODES = {"MEAN_STD": "mean_std", "MIN_MAX": "min_max"}
_STEPS = ("n_obs_steps", "chunk_size", "horizon", "n_action_steps")


def read_lerobot(folder: Path) -> Described | None:
    """Read a policy's config.json: features, or shapes as versions before 2 have them; None where it is another's."""
    config = read_document(folder / "config.json") or {}
    features = _features(config, "input")
    if not features:
        return None
    outputs = _features(config, "output")
    kind = text(config.get("type"))
    scaling = mapping(config.get("normalization_mapping"))
    modes = mapping(config.get("input_normalization_modes"))
    inputs = fields_of(
        (_short(key, features), key, None, _about(about, scaling, modes.get(key))) for key, about in features.items()
    )
    label = next((key for key in outputs if key == "action"), next(iter(outputs), None))
    steps = [f"{name} {text(config[name])}" for name in _STEPS if text(config.get(name))]
    sentences = [
        f"its output {text(key)} is {sizes(about.get('shape')) or 'of no known shape'}"
        for key, about in outputs.items()
    ]
    if steps:
        sentences.append(", ".join(steps))
    if scaling or modes:
        sentences.append("inputs and actions are normalised as said there: the factory, or the data, has to do that")
    return Described(
        f"LeRobot policy {kind}".strip(),
        tuple(sentences),
        inputs,
        "regression",
        text(label, 200) or None,
        "dict",
        _code(kind),
        kind in _SAMPLING,
        _episodes(config, {**_kinds(features), **_kinds(outputs)}, scaling),
    )


def _features(config: Mapping[str, Any], side: str) -> dict[str, dict[str, Any]]:
    """Key -> type and shape."""
    features = {k: v for k, v in mapping(config.get(f"{side}_features")).items() if isinstance(v, dict)}
    shapes = {k: {"shape": v} for k, v in mapping(config.get(f"{side}_shapes")).items() if isinstance(v, list)}
    return features or shapes


def _short(key: str, features: Mapping[str, Any]) -> str:
    """A key's last component, or more of them where several keys end alike."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in features) == 1:
            return end
    return key


def _about(feature: Mapping[str, Any], scaling: Mapping[str, Any], mode: Any) -> str:
    kind = text(feature.get("type"))
    return ", ".join(filter(None, [kind, sizes(feature.get("shape")), text(scaling.get(kind) or mode)]))


def _kinds(features: Mapping[str, Any]) -> dict[str, str]:
    return {key: text(about.get("type")) for key, about in features.items()}


def _episodes(config: Mapping[str, Any], kinds: Mapping[str, str], scaling: Mapping[str, Any]) -> dict[str, Any]:
    """How frames of a recording become what the policy is given, and what it answers."""
    steps = {name: config[name] for name in _STEPS if type(config.get(name)) is int}
    horizon = next((steps[n] for n in ("chunk_size", "n_action_steps", "horizon") if steps.get(n, 0) > 0), None)
    observed = steps.get("n_obs_steps", 1)
    modes = {key: _MODES[mode] for key, kind in kinds.items() if (mode := text(scaling.get(kind))) in _MODES}
    out: dict[str, Any] = {} if horizon is None else {"horizon": horizon}
    out |= {"observed": observed} if observed > 1 else {}
    return out | ({"normalise": modes} if modes else {})


def _code(kind: str) -> tuple[str, ...]:
    module, name = _POLICIES.get(kind, ("", ""))
    if not is_identifier(name):
        return ()
    return (
        "import torch",
        f"from lerobot.policies.{module} import {name}",
        "class Chunk(torch.nn.Module):",
        "    def __init__(self, folder):",
        "        super().__init__()",
        f"        self.policy = {name}.from_pretrained(folder)",
        "    def forward(self, batch):",
        "        return self.policy.predict_action_chunk(batch)",
    )
