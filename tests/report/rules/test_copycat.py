"""A policy that answers from its state alone is told, and one that does not is not."""

from __future__ import annotations

from typing import Any

import pytest

from collapsekit.report.parts import Curve, ModalityVerdict, Result
from collapsekit.report.rules.copycat import find_replay, is_state

INPUTS = {"top": ("observation.images.top",), "joints": ("observation.state",)}


def verdicts(top: str = "collapsed", joints: str = "used") -> dict[str, ModalityVerdict]:
    """What is said of a camera and a state."""
    made: Any = {"top": top, "joints": joints}
    return {m: ModalityVerdict(verdict=v, score=None, reason="") for m, v in made.items()}


def subsets(nothing: float, top: float, joints: float, everything: float) -> list[Result]:
    """Losses over subsets, and the metric: 1 minus the loss."""
    loss, names = (nothing, top, joints, everything), ("(none)", "top", "joints", "top+joints")
    out = []
    for name, values in (("reliance.subsets", loss), ("reliance.subsets_metric", tuple(1 - x for x in loss))):
        curve = Curve(x=names, y=values, x_label="modalities present", y_label="loss")
        out.append(Result(name=name, probe="reliance", curve=curve, definition="", source=""))
    return out


REPLAYS = subsets(1.0, 0.99, 0.31, 0.3)


def test_it_is_told_of_a_policy_that_replays_its_state() -> None:
    found = find_replay(REPLAYS, verdicts(), INPUTS, "r2")
    assert found is not None
    assert found.name == "replays_state"
    assert "from 'joints' alone it reaches 0.69 r2, from everything 0.70, and gives 'top' none" in found.sentence


@pytest.mark.parametrize(
    ("results", "said", "inputs"),
    [
        (REPLAYS, verdicts(top="used"), INPUTS),
        (REPLAYS, verdicts(top="uninformative"), INPUTS),
        (REPLAYS, verdicts(top="inconclusive"), INPUTS),
        (subsets(1.0, 0.9, 0.5, 0.3), verdicts(), INPUTS),  # together they say more
        (subsets(1.0, 1.0, 1.0, 1.0), verdicts(), INPUTS),  # it gains nothing from anything
        ([], verdicts(), INPUTS),
        (REPLAYS, verdicts(), {**INPUTS, "top": ("robot_qpos",)}),  # nothing but states
    ],
)
def test_else_it_is_not(
    results: list[Result], said: dict[str, ModalityVerdict], inputs: dict[str, tuple[str, ...]]
) -> None:
    assert find_replay(results, said, inputs, "r2") is None


def test_it_is_not_told_of_what_is_no_state() -> None:
    said = {"top": verdicts()["top"], "sound": verdicts()["joints"]}
    renamed = [r.model_copy(update={"curve": _renamed(r.curve)}) for r in REPLAYS if r.curve is not None]
    assert find_replay(renamed, said, {}, "r2") is None
    said = {"top": said["top"], "state": said["sound"]}
    assert find_replay(
        [r.model_copy(update={"curve": _renamed(r.curve, "state")}) for r in renamed if r.curve], said, {}, "r2"
    )


def _renamed(curve: Curve, to: str = "sound") -> Curve:
    return curve.model_copy(update={"x": ("(none)", "top", to, f"top+{to}")})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("observation.state", True),
        ("state", True),
        ("proprioception", True),
        ("robot_qpos", True),
        ("agent_pos", True),
        ("joint_positions", True),
        ("statement", False),
        ("estate", False),
        ("observation.images.top", False),
        ("task", False),
        ("observation.environment_state", False),
    ],
)
def test_a_state_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_state(name) is expected
