"""The same by hand, without collapsekit: exchange each input among peptides, and look at what its branch gives."""

from __future__ import annotations

from pathlib import Path

import torch
from model import build
from safetensors.torch import load_file

FOLDER = Path(__file__).parent
BRANCHES = {"atoms": "ConvAtomComp", "pairs": "ConvDiatomComp", "one_hot": "OneHot", "whole": "ConvGlobal"}


def main() -> None:
    """Print a line for each input."""
    model = build()
    # weights_only: nothing in the file is executed
    model.load_state_dict(torch.load(FOLDER / "IM2DeepUni.ckpt", map_location="cpu", weights_only=True)["state_dict"])
    model.eval()
    data = load_file(FOLDER / "data.safetensors")
    inputs = {name: data[f"test/{name}"] for name in BRANCHES}
    truth, order = data["test/ccs"], torch.randperm(len(data["test/ccs"]), generator=torch.Generator().manual_seed(0))
    given: dict[str, torch.Tensor] = {}
    for branch in BRANCHES.values():
        model.get_submodule(branch).register_forward_hook(lambda _, __, out, b=branch: given.update({b: out}))
    with torch.no_grad():
        answer = model(**inputs)
        features, weight = dict(given), model.get_submodule("Concat.0.linear").weight
        error = (answer - truth).abs()
        print(f"as it is: mean error {error.mean():.1f} square ångström, R² {r2(answer, truth):.3f}")
        start = 0
        for name, branch in BRANCHES.items():
            changed = model(**{**inputs, name: inputs[name][order]})
            block = weight[:, start : start + features[branch].shape[1]]
            start += features[branch].shape[1]
            print(
                f"{name:<8} exchanged: R² {r2(changed, truth):6.3f}, {int((changed != answer).sum()):>4} of {len(truth)} "
                f"answers change; its branch varies by {features[branch].std(0).max():.1e}, "
                f"its weights have norm {block.norm():.3f} of {weight.norm():.1f}"
            )


def r2(answer: torch.Tensor, truth: torch.Tensor) -> float:
    """The share of the variance that an answer explains."""
    return float(1 - (answer - truth).square().mean() / truth.var(correction=0))


if __name__ == "__main__":
    main()
