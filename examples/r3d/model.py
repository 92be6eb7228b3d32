"""The network that the config names, as ``train.py`` trains it: R3D behind an encoder of depth images and one of joints."""

from __future__ import annotations

from torch import nn

from collapsekit.reproduce.anticipation.data import UTD_SIDE
from collapsekit.reproduce.anticipation.study import SIZES
from collapsekit.reproduce.models.r3d import R3D, DepthEncoder, ExchangedShare, SkeletonEncoder

PROPORTION = 0.3


def build() -> nn.Module:
    """The factory that the config names."""
    size = SIZES["utd_mhad"]
    encoders = {
        "depth": DepthEncoder(UTD_SIDE, size.width, size.dropout),
        "skeleton": SkeletonEncoder(20, size.width, size.dropout),
    }
    return R3D(encoders, size, ExchangedShare(PROPORTION))
