"""The name of what a model of one modality predicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from collapsekit.config.load import check_config
from collapsekit.errors import ConfigError


def test_the_label_is_no_prediction_of_a_modality() -> None:
    section = {"encoder": "audio", "predictions": "y"}
    known = check_config({"modalities": {"audio": section}, "data": {"label": "label"}}, base=Path())
    assert known.modalities["audio"].predictions == "y"
    with pytest.raises(ConfigError, match="predictions of modality 'audio' are 'y', the label"):
        check_config({"modalities": {"audio": section}, "data": {"label": "y"}}, base=Path())
