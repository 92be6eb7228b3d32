"""Whether Theorem 3.1 of Kim et al. 2025 says when a blend raises the effective rank: random blends of one channel that
meet its conditions, as docs/repair-methods.md reads them, and what the rank did.

python -m benchmarks.conditions --blends 4000
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from collapsekit.stats.linalg import exchange as ex
from collapsekit.stats.linalg.spectrum import effective_rank, singular_values_svd

EXAMPLES, CHANNELS = 200, 16
NOVEL = 1e-6  # share of a channel outside the dominant directions beyond which it is not rounding


def features(generator: torch.Generator) -> Tensor:
    """Draw features (200, 16) whose singular values fall at a random rate, at a random scale."""
    fall, scale = torch.rand(2, generator=generator).tolist()
    values = torch.exp(-fall * torch.arange(CHANNELS).double()) * 10 ** (2 * scale - 1)
    turn = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=generator, dtype=torch.float64))[0]
    return torch.randn(EXAMPLES, CHANNELS, generator=generator, dtype=torch.float64) * values @ turn


def blend(generator: torch.Generator, weakest: bool) -> tuple[bool, bool, float]:
    """Blend one channel of one modality into the same of another.

    Args:
        generator: of all that is drawn.
        weakest: whether it is the receiver's of least energy, else any.

    Returns:
        Whether the conditions hold, whether the giver's channel varies less than the receiver's, and how far the effective
        rank rose.
    """
    own, other = features(generator), features(generator)
    share = float(torch.rand(1, generator=generator)) * 0.9 + 0.05
    any_one = torch.randint(CHANNELS, (1,), generator=generator)
    to = ex.weakest(ex.channel_scores(own, "energy"), 1) if weakest else any_one
    blended = ex.exchange(own, other, to, to, share)
    found = ex.injection(own, other[:, to], blended, to)
    met = 2 * found.norm < found.gap and bool((found.novelty > NOVEL).all())
    before, after = (effective_rank(singular_values_svd(x - x.mean(0))) for x in (own, blended))
    return met, bool(other[:, to].std() < own[:, to].std()), after - before


def main() -> None:
    """Print how many blends met the conditions, and of how many of these the rank fell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blends", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for weakest in (False, True):
        generator = torch.Generator().manual_seed(args.seed)
        drawn = [blend(generator, weakest) for _ in range(args.blends)]
        met = [(quieter, rise) for holds, quieter, rise in drawn if holds]
        fell, quiet = sum(rise < 0 for _, rise in met), [rise < 0 for quieter, rise in met if quieter]
        which = "the weakest channel" if weakest else "any channel"
        print(
            f"{which}: conditions met by {len(met)} of {len(drawn)} blends; the rank fell in {fell}, in "
            f"{sum(quiet)} of the {len(quiet)} whose giver's channel varies less than the receiver's"
        )


if __name__ == "__main__":
    main()
