"""What a repair writes: weights that load into the user's own model, and the report beside them."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from collapsekit.adapters.build import insert_into
from collapsekit.adapters.weights.load import load_weights
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.config.values import check_path, kind_name
from collapsekit.errors import ConfigError
from collapsekit.io.files import write_atomic
from collapsekit.io.transfer import named_to_cpu
from collapsekit.report.repair import FILE, WEIGHTS, structure_of


def export_weights(model: nn.Module, folder: Path) -> Path:
    """Write the model's state_dict; tensors that share memory are each written whole. Raises ConfigError where it
    holds what is no tensor, or cannot be written."""
    state = model.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ConfigError(
            f"the model's state_dict holds {odd[0]!r}, which is no tensor and cannot be exported: keep it out of "
            "get_extra_state."
        )
    plain = {k: v.contiguous().clone() for k, v in named_to_cpu(state).items()}
    # One entry only: safetensors writes several in any order, and the same repair gives the same bytes.
    return write_atomic(folder / WEIGHTS, save(plain, {"format": "pt"}))


def load_repaired(folder: str | Path, model: nn.Module) -> nn.Module:
    """Load a repair's weights into the user's own model, changed in place, and return it in eval mode.

    ``folder`` is what ``collapsekit repair -o`` wrote. Raises ConfigError where it holds no repair or its weights do
    not fit, RefusedError where a file is damaged.
    """
    check_path("folder", folder)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is {kind_name(model)}, expected the module to load into, after the folder.")
    place = Path(folder)
    if not (place / FILE).is_file() or not (place / WEIGHTS).is_file():
        raise ConfigError(f"{place} holds no repair: expected {FILE} and {WEIGHTS}, as `collapsekit repair -o` writes.")
    insert_into(model, structure_of(place))
    load_weights(model, read_checkpoint(place / WEIGHTS))
    return model.eval()
