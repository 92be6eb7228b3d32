"""The first rules of verdicts: reports written under them are read by them.

A modality was informative when its readout alone gained INFORMATIVE of the prior loss, or the balanced reference credited it
with as much. Of an informative one the ratio of its credit to what was due decided, whatever the reference was.
"""

from __future__ import annotations

from collections.abc import Sequence

from collapsekit.report.parts import ModalityState, OverallState, Result
from collapsekit.report.rules.evidence import Estimate, ModalityEvidence

COLLAPSED, USED, INFORMATIVE, NOTHING, SHARE = 0.15, 0.4, 0.01, 0.02, 0.02
_DECIDING = ("reliance", "utilisation")


def judge_states(
    results: Sequence[Result], modalities: Sequence[str]
) -> tuple[OverallState, dict[str, ModalityState], tuple[str, ...]]:
    """Judge from results alone: the whole and each modality, and what else the summary has to say.

    Args:
        results: Of the probes, in any order.
        modalities: The subject's.

    Returns:
        The verdict of the whole, one a modality, and ``not asked`` or ``guesses`` where that is so.
    """
    states = {m: _state(ModalityEvidence(results, m)) for m in modalities}
    ended = any(r.error is not None and r.probe in _DECIDING for r in results)
    if ended:
        states = {m: s if s == "collapsed" else "inconclusive" for m, s in states.items()}
    if not ended and not {"utilisation.credit", "reliance.shapley"} & {r.name for r in results}:
        return overall_of(list(states.values())), states, ("not asked",)
    found = {r.name: r.value for r in results if r.name in ("reliance.full_loss", "utilisation.prior_loss")}
    loss, prior = found.get("reliance.full_loss"), found.get("utilisation.prior_loss")
    guesses = loss is not None and prior is not None and loss >= prior
    return overall_of(list(states.values())), states, ("guesses",) if guesses else ()


def overall_of(states: Sequence[ModalityState]) -> OverallState:
    """Judge the whole by the verdicts of its modalities."""
    if "collapsed" in states:
        return "collapsed"
    return "inconclusive" if "inconclusive" in states else "healthy"


def _state(evidence: ModalityEvidence) -> ModalityState:
    gain, prior = evidence.get("utilisation.alone_gain"), evidence.get("utilisation.prior_loss")
    credit, share = evidence.get("utilisation.credit"), evidence.get("utilisation.share")
    if gain is None or prior is None or credit is None:
        return _by_reliance(evidence)
    due, ratio = evidence.get("utilisation.reference_credit"), evidence.get("utilisation.ratio")
    least = INFORMATIVE * prior.value
    if ratio is not None and any(e is not None and e.low > 0 and e.value >= least for e in (gain, due)):
        return _by_ratio(ratio)
    if share is not None and share.low > 0 and share.value >= SHARE:
        return "used"
    most = max(gain.high, due.high if due is not None else 0.0)
    if (share is None or share.high < SHARE) and most < NOTHING * prior.value:
        return "uninformative"
    return "inconclusive"


def _by_ratio(ratio: Estimate) -> ModalityState:
    if ratio.high < COLLAPSED:
        return "collapsed"
    if ratio.low <= COLLAPSED:
        return "inconclusive"
    return "used" if ratio.value >= USED else "underused"


def _by_reliance(evidence: ModalityEvidence) -> ModalityState:
    credit = evidence.get("reliance.shapley")
    if credit is None:
        return "inconclusive"
    full, empty = evidence.get("reliance.full_loss"), evidence.get("reliance.empty_loss")
    gained = max(0.0, empty.value - full.value, 1e-4 * empty.value) if full is not None and empty is not None else 0.0
    return "used" if credit.low > SHARE * gained else "inconclusive"
