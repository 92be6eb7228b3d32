"""PEFT folders: what LoRA adds to which of a model's weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collapsekit.checkpoint.sidecars.document import folder_of, read_document
from collapsekit.errors import RefusedError
from collapsekit.io.safe_text import quote
from collapsekit.stats.linalg.spectrum import effective_rank

CONFIG = "adapter_config.json"
_OUTER = "base_model.model."
_PART = re.compile(
    r"(?P<path>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.(?!weight$|bias$)[^.]+)?(?P<bias>\.bias)?(\.weight)?"
)
_FACTORS = {
    "lora_A": "a",
    "lora_embedding_A": "a",
    "lora_B": "b",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
}
_MOST_GROUPS = 40
_MOST_NUMBERS = 1 << 26  # of a factor that is looked into without a model
_DEFAULT_ALPHA = 8  # of peft.LoraConfig
# Starting points for which the base was changed as well.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")
_NOT_DONE = (
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
)
_DONE = ("use_rslora", "use_dora")
_MERGE = "where it was trained, call `model.merge_and_unload().save_pretrained(DIR)` and give DIR"


@dataclass(frozen=True)
class LowRank:
    """What LoRA adds to one weight: ``scaling`` times B A, of rank r (Hu et al. 2022, LoRA)."""

    path: str  # of the module, in the model that was trained
    a: Tensor  # (r, in, ...)
    b: Tensor  # (out, r, ...)
    scaling: float
    embedding: bool = False  # whose weight is (numbers, out)
    transposed: bool = False  # whose weight is (in, out)
    magnitude: Tensor | None = None  # (out,): DoRA's
    bias: Tensor | None = None  # (out,): what B adds to the bias

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        plain = (self.b.shape[0], *self.a.shape[1:])
        return plain[::-1] if self.embedding or self.transposed else plain

    def merged(self, weight: Tensor) -> Tensor:
        """Compute the weight, of :attr:`shape`, with what is added, in float64.

        DoRA scales each output's weights to a length of its own (Liu et al. 2024, DoRA, equation 5).
        """
        product: Tensor = self.scaling * (self.b.flatten(1).double() @ self.a.flatten(1).double())
        turned = self.embedding or self.transposed
        whole = weight.double() + (product.T if turned else product.reshape(self.shape))
        if self.magnitude is None:
            return whole
        rows = whole.T if turned else whole
        scaled: Tensor = rows * (self.magnitude.double().flatten() / rows.norm(dim=1)).unsqueeze(1)
        return scaled.T if turned else scaled

    def singular_values(self) -> Tensor:
        """Compute the singular values of what is added, in float64, (min(r, out, in),)."""
        right = torch.linalg.qr(self.a.flatten(1).double().T).R
        left = torch.linalg.qr(self.b.flatten(1).double()).R
        sigma: Tensor = torch.linalg.svdvals(left @ right.T)
        return abs(self.scaling) * sigma


@dataclass(frozen=True)
class LoraAdapter:
    """What a folder of PEFT changes in its base."""

    parts: tuple[LowRank, ...]
    whole: Mapping[str, Tensor] = field(default_factory=dict)  # weights that it brings in full, by name in its base
    base: str | None = None  # what its base is called


def read_adapter(path: Path, tensors: Mapping[str, Tensor]) -> LoraAdapter | None:
    """Read what an adapter changes.

    Args:
        path: its weights, or their folder.
        tensors: the weights by name, of any shape.

    Returns:
        The adapter; None where there is no adapter_config.json beside them, or none of the tensors is of an adapter.

    Raises:
        RefusedError: where it is another method than LoRA, of a kind that is not merged here, or incomplete.
    """
    if not any("lora_" in name and _PART.fullmatch(name) for name in tensors):
        return None  # whatever lies beside them
    config = read_document(folder_of(path) / CONFIG)
    if config is None:
        return None
    _need_plain_lora(path, config)
    factors: dict[str, dict[str, Tensor]] = {}
    whole = {}
    embeddings = set()
    for name, tensor in tensors.items():
        found = _PART.fullmatch(name)
        if found is None:
            whole[_in_base(name)] = tensor
            continue
        place = _in_base(found["path"])
        kind = "bias" if found["bias"] else _FACTORS[found["part"]]
        factors.setdefault(place, {})[kind] = tensor
        embeddings |= {place} if "embedding" in found["part"] else set()
    base = config.get("base_model_name_or_path")
    parts = (_low_rank(path, config, place, each, place in embeddings) for place, each in factors.items())
    return LoraAdapter(tuple(parts), whole, base if isinstance(base, str) and base else None)


def describe_adapter(adapter: LoraAdapter) -> list[str]:
    """Say of each part of the base how many weights an adapter changes, how much is added, and over how many directions."""
    groups: dict[str, list[LowRank]] = {}
    for part in adapter.parts:
        groups.setdefault(_group(part.path), []).append(part)
    lines = [f"LoRA, trained on {quote(adapter.base, 100) if adapter.base else 'a base without a name'}"]
    for group, parts in list(groups.items())[:_MOST_GROUPS]:
        ranks = sorted({part.a.shape[0] for part in parts})
        rank = " to ".join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))
        of = f"{len(parts)} weight{'s' * (len(parts) > 1)} of rank {rank}"
        if any(max(part.a.numel(), part.b.numel()) > _MOST_NUMBERS for part in parts):
            lines.append(f"{quote(group, 100)}: {of}, too large to look into")
            continue
        sigmas = [part.singular_values() for part in parts]
        ranked = [effective_rank(s) for s in sigmas if bool(s.isfinite().all()) and bool(s.any())]
        norm = math.sqrt(sum(float(s.square().sum()) for s in sigmas))
        spread = f"effective rank {sum(ranked) / len(ranked):.1f}" if ranked else "nothing is added"
        lines.append(f"{quote(group, 100)}: {of}, {spread}, norm {norm:.4g}")
    if len(groups) > _MOST_GROUPS:
        lines.append(f"and {len(groups) - _MOST_GROUPS} more parts")
    if adapter.whole:
        count = len(adapter.whole)
        lines.append(f"{count} weight{'s' * (count > 1)} in full, such as {quote(next(iter(adapter.whole)), 100)}")
    return lines


def _group(path: str) -> str:
    """The part of a model that a module belongs to: its path up to a number, of three components at most."""
    parts = path.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: max(min(number, 3), 1)])


def _in_base(name: str) -> str:
    return re.sub(r"\.(modules_to_save\.[^.]+|base_layer|original_module)\.", ".", name.removeprefix(_OUTER))


def _need_plain_lora(path: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise RefusedError(
            f"{path} is an adapter of PEFT's method {quote(kind, 40)}, which is not merged here: {_MERGE}."
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise RefusedError(
            f"{path} is LoRA that began with {quote(start, 40)}, which changes its base as well: {_MERGE}."
        )
    odd = next((key for key in _unusual(config)), None)
    if odd is not None:
        raise RefusedError(f"{path} is LoRA with {quote(odd, 40)}, which is not merged here: {_MERGE}.")


def _unusual(config: Mapping[str, Any]) -> Iterator[str]:
    """Keys of what changes the formula in a way that is not known here."""
    for key, value in config.items():
        if value and (key in _NOT_DONE or (key.startswith("use_") and key not in _DONE)):
            yield key


def _low_rank(
    path: Path, config: Mapping[str, Any], place: str, factors: Mapping[str, Tensor], embedding: bool
) -> LowRank:
    a, b = factors.get("a"), factors.get("b")
    where = f"{path} has LoRA of {quote(place, 100)}"
    if a is None or b is None:
        raise RefusedError(f"{where} without its {'A' if a is None else 'B'}: save the adapter anew.")
    if a.ndim < 2 or b.ndim < 2 or a.shape[0] != b.shape[1] or b.flatten(1).shape[1] != b.shape[1] or not a.shape[0]:
        raise RefusedError(f"{where} of shapes {tuple(a.shape)} and {tuple(b.shape)}, which give no product: {_MERGE}.")
    rank = a.shape[0]
    alpha = _alpha(path, config, place)
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    turned = bool(config.get("fan_in_fan_out")) and not embedding
    magnitude, bias = factors.get("magnitude"), factors.get("bias")
    vectors = [v for v in (magnitude, bias) if v is not None]
    if any(v.numel() != b.shape[0] for v in vectors) or (magnitude is not None and (a.ndim != 2 or embedding)):
        raise RefusedError(
            f"{where} with DoRA of another layer than a linear one, or vectors of other lengths: {_MERGE}."
        )
    return LowRank(place, a, b, scaling, embedding, turned, magnitude, bias)


def _alpha(path: Path, config: Mapping[str, Any], place: str) -> float:
    """lora_alpha, or what alpha_pattern has for a module: patterns of whole components at its end."""
    patterns = config.get("alpha_pattern") or {}
    alpha = config.get("lora_alpha", _DEFAULT_ALPHA)
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        plain = pattern.replace("\\.", ".")
        if not re.fullmatch(r"\^?[\w.]+\$?", plain, re.ASCII):
            raise RefusedError(f"{path} has the alpha_pattern {quote(pattern, 60)}, which is not read here: {_MERGE}.")
        name = plain.removesuffix("$")
        if place == name.removeprefix("^") or (not name.startswith("^") and place.endswith(f".{name}")):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise RefusedError(f"{path} has a lora_alpha that is no number: save the adapter anew.")
    return float(alpha)
