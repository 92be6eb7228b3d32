"""A test that fails when a multimodal model ignores a modality; imports torch only when it is called."""

from __future__ import annotations

from collapsekit_pytest.check import assert_not_collapsed

__all__ = ["assert_not_collapsed"]
