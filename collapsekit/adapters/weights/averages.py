"""Averaged weights (EMA) as those of the whole model: named, and completed by what is not averaged."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from collapsekit.checkpoint.match import Shapes, fit_names
from collapsekit.errors import ConfigError
from collapsekit.io.safe_text import quote

# What keeps averages counts beside them: LitEma, ema_pytorch, torch_ema.
_COUNTERS = ("decay", "num_updates", "initted", "step", "updates", "n_averaged")


def complete_averages(
    model: nn.Module, shapes: Shapes, averages: Mapping[str, Tensor], beside: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Give averages the model's names, and what has no average (buffers, frozen weights) the model's own weights.

    Args:
        model: that they are of.
        shapes: its names and shapes.
        averages: by name, or by place among the model's parameters; of any shape.
        beside: the model's own weights in the same file.
        where: the averages lay in the file.

    Returns:
        The tensors by name, and which of the model's names have no average.

    Raises:
        ConfigError: where they are no averages of this model.
    """
    kept = {n: t for n, t in averages.items() if n in shapes or n.rpartition(".")[2] not in _COUNTERS or t.numel() != 1}
    named = _by_place(model, kept, where) if all(n.isdigit() for n in kept) else _dotted(shapes, kept)
    fit = fit_names(shapes, named)
    if not fit.pairs:
        raise ConfigError(
            f"the averages (EMA) under {quote(where, 100)} are of none of the model's tensors: leave `weights: ema` out of "
            "the config, or check model.factory."
        )
    to_model = {there: name for name, there in fit.pairs.items()}
    tensors = {to_model.get(n, fit.here(n)): t for n, t in named.items()}
    plain = fit_names(shapes, beside)
    to_model = {there: name for name, there in plain.pairs.items()}
    own = {to_model.get(n, plain.here(n)): t for n, t in beside.items() if n in to_model or not plain.is_beside(n)}
    lacking = tuple(n for n in shapes if n in own and n not in tensors)
    return {**own, **tensors}, lacking


def _by_place(model: nn.Module, averages: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Averages in the order of the model's parameters: of all of them, or of those that are trained."""
    every = list(model.named_parameters())
    tensors = [averages[n] for n in sorted(averages, key=int)]
    for parameters in (every, [(n, p) for n, p in every if p.requires_grad]):
        if [p.shape for _, p in parameters] == [t.shape for t in tensors]:
            return {name: t for (name, _), t in zip(parameters, tensors, strict=True)}
    raise ConfigError(
        f"the averages (EMA) under {quote(where, 100)} are a list of {len(tensors)} tensors without names, and not of the "
        f"shapes of the model's {len(every)} parameters in their order: check model.factory and model.kwargs."
    )


def _dotted(shapes: Shapes, averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LitEma writes names without their dots."""
    plain = {name.replace(".", ""): name for name in shapes}
    if len(plain) < len(shapes) or any("." in name and name not in shapes for name in averages):
        return dict(averages)
    return {plain.get(name, name): t for name, t in averages.items()}
