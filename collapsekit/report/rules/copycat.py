"""Whether a policy replays its state: a sentence that follows from results and verdicts alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from collapsekit.io.safe_text import quote
from collapsekit.report.parts import Curve, ModalityVerdict, ReportWarning, Result

ALL_BUT = 0.05  # share of what the model gains that it may lose without all but the state
# What a robot's state of itself is called: observation.state, proprio, qpos, joint_positions.
_STATE = re.compile(
    r"(?<![a-z])(?<!environment_)(?<!env_)(agent_pos|joints?|proprio\w*|q?pos|qvel|state)(?![a-z])", re.IGNORECASE
)


def find_replay(
    results: Sequence[Result], each: Mapping[str, ModalityVerdict], inputs: Mapping[str, Sequence[str]], metric: str
) -> ReportWarning | None:
    """Find out whether a model answers from its state alone what others are due credit for.

    That is so where the state by itself, all else of other examples, leaves the model all but a part ``ALL_BUT`` of what it
    gains from everything, and another modality is collapsed.

    Args:
        results: of the probes; the subsets of ``reliance`` are read.
        each: the verdicts, by modality.
        inputs: the batch keys of each modality, by which a state is known.
        metric: what the task metric is called.

    Returns:
        The warning; None where it is not so, or nothing is known.
    """
    states = [m for m in each if any(map(is_state, (m, *inputs.get(m, ()))))]
    ignored = [m for m, v in each.items() if v.verdict == "collapsed" and m not in states]
    loss, scores = (_curve(results, name) for name in ("reliance.subsets", "reliance.subsets_metric"))
    if len(states) != 1 or not ignored or not loss or not scores:
        return None
    (state,) = states
    nothing, everything, alone = loss.get("(none)"), loss.get("+".join(each)), loss.get(state)
    if nothing is None or everything is None or alone is None or nothing <= everything:
        return None
    if alone - everything > ALL_BUT * (nothing - everything):
        return None
    return ReportWarning(
        name="replays_state",
        sentence=f"The policy replays its state: from {quote(state)} alone it reaches {scores[state]:.2f} {metric}, from "
        f"everything {scores['+'.join(each)]:.2f}, and gives {' and '.join(map(quote, ignored))} none of the credit due. "
        "Where the state tells what was done before, a policy that repeats it scores well on recordings and fails when it "
        "acts.",
    )


def is_state(name: str) -> bool:
    """Tell whether a modality or batch key is called as robots' states of themselves are."""
    return _STATE.search(name.rpartition(".")[2]) is not None


def _curve(results: Sequence[Result], name: str) -> dict[str, float]:
    """A curve over subsets, by their names."""
    found: Curve | None = next((r.curve for r in results if r.name == name and r.curve is not None), None)
    return {} if found is None else {str(x): float(y) for x, y in zip(found.x, found.y, strict=True)}
