"""Results to verdicts. Reads nothing but results, so a verdict can be checked from the report alone.

The rule (docs/verdicts.md): a modality is informative when its best readout alone gains at least INFORMATIVE of
the prior loss, or the balanced reference credits it with as much, beyond the interval. Of an informative one, the
utilisation ratio decides: collapsed when its interval lies under COLLAPSED, used when it lies over COLLAPSED and
the ratio reaches USED, underused between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from collapsekit.report.base import Interval
from collapsekit.report.parts import ModalityState, ModalityVerdict, OverallState, Result

COLLAPSED = 0.15  # utilisation ratio under which the model is said not to use a modality
USED = 0.4  # utilisation ratio from which the model is said to use it
INFORMATIVE = 0.01  # share of the prior loss a readout alone has to gain, or the balanced reference to credit
NOTHING = 0.02  # share of the prior loss that either has to be surely under for a modality to say nothing
TWICE = 2.0  # the ratio is given up to this
KEPT = 0.7  # part of what its encoder can learn alone from which a collapsed modality is said to be lost later
FAILED = "probe_failed"  # the name of the warning that an error ended a probe
DECIDING = ("reliance", "utilisation")  # probes without which there is no verdict that could pass
SHARE = 0.02  # share of all credit under which a modality that says nothing alone counts as not used
# Words of a summary that say what follows for the whole.
IGNORES = "The model ignores "
UNDECIDED = "The evidence does not decide about "
EVERY = "The model uses every modality."
NONE_IGNORED = "no modality is ignored."
NOT_ASKED = "No verdict was asked for"
GUESSES = "As a whole it predicts no better than a constant guess."


class _Evidence:
    """The results about one modality, by name; which of them were read is kept for the verdict."""

    def __init__(self, results: Sequence[Result], modality: str) -> None:
        # A result about the whole (no modality) is everyone's, but never takes the place of one's own.
        near = sorted((r for r in results if r.modality in (modality, None)), key=lambda r: r.modality is not None)
        self._known = {(r.name, r.versus): r for r in near}
        self.read: list[str] = []

    def get(self, name: str, versus: str | None = None) -> tuple[float, Interval] | None:
        result = self._known.get((name, versus))
        if result is None or result.value is None:
            return None
        if name not in self.read:
            self.read.append(name)
        return result.value, result.interval or (result.value, result.value)

    def why_not(self, name: str) -> str | None:
        result = self._known.get((name, None))
        return None if result is None else result.skipped


def judge(
    results: Iterable[Result], modalities: Sequence[str], metric: str
) -> tuple[OverallState, str, dict[str, ModalityVerdict]]:
    """Judge from results alone: the whole, and each modality.

    Args:
        results: of the probes, in any order.
        modalities: the subject's.
        metric: what the task metric is called, for reasons.

    Returns:
        The overall verdict, a sentence for the whole, and one verdict a modality.
    """
    known = list(results)
    each = {m: _judge_one(_Evidence(known, m), m, modalities, metric) for m in modalities}
    ended = dict.fromkeys(r.probe for r in known if r.error is not None and r.probe in DECIDING)
    if ended:
        each = {m: _undecided(v, m, " and ".join(ended)) for m, v in each.items()}
    overall = overall_of([v.verdict for v in each.values()])
    summary = _summary(overall, each)
    if not ended and not {"utilisation.credit", "reliance.shapley"} & {r.name for r in known}:
        summary = f"{NOT_ASKED}: neither reliance nor utilisation ran."
    elif _no_better_than_guessing(known):
        summary += f" {GUESSES}"
    return overall, summary, each


def _undecided(verdict: ModalityVerdict, name: str, ended: str) -> ModalityVerdict:
    """What an error in a deciding probe leaves of a verdict: a collapse that the other shows, and nothing that passes."""
    if verdict.verdict == "collapsed":
        return verdict
    reason = (
        f"Whether the model uses {name} is not known, because an error ended {ended}: see its `error` in the results."
    )
    return verdict.model_copy(update={"verdict": "inconclusive", "reason": reason})


def _no_better_than_guessing(results: Sequence[Result]) -> bool:
    found = {r.name: r.value for r in results if r.name in ("reliance.full_loss", "utilisation.prior_loss")}
    loss, prior = found.get("reliance.full_loss"), found.get("utilisation.prior_loss")
    return loss is not None and prior is not None and loss >= prior


def overall_of(states: Sequence[ModalityState]) -> OverallState:
    """Judge the whole by the verdicts of its modalities."""
    if "collapsed" in states:
        return "collapsed"
    return "inconclusive" if "inconclusive" in states else "healthy"


def _summary(overall: OverallState, each: dict[str, ModalityVerdict]) -> str:
    def listed(state: ModalityState) -> str:
        return ", ".join(m for m, v in each.items() if v.verdict == state)

    if overall == "collapsed":
        rest = f" It underuses {listed('underused')}." if listed("underused") else ""
        carry = "carry" if [v.verdict for v in each.values()].count("collapsed") > 1 else "carries"
        return f"{IGNORES}{listed('collapsed')}, which {carry} label information.{rest}"
    if overall == "inconclusive":
        return f"{UNDECIDED}{listed('inconclusive')}: the reason of each says what would."
    said = [f"underuses {listed('underused')}"] if listed("underused") else []
    if listed("uninformative"):
        said.append(f"leaves out {listed('uninformative')}, which says nothing about the label")
    return f"The model {' and '.join(said)}; {NONE_IGNORED}" if said else EVERY


def misstatement(summary: str, right: str, each: Mapping[str, ModalityVerdict]) -> str | None:
    """Find what a summary says of the whole, in words of ours, that the right one does not say.

    Other words are let through, as another release may have put them otherwise.

    Args:
        summary: the one to check.
        right: the one that follows from the results.
        each: the verdicts, by modality.

    Returns:
        The words; None where there are none.
    """
    for words in (IGNORES, UNDECIDED, EVERY, NONE_IGNORED, NOT_ASKED, GUESSES):
        if words in summary and words not in right:
            return words.strip()
    for words, state, end in ((IGNORES, "collapsed", ","), (UNDECIDED, "inconclusive", ":")):
        named = words + ", ".join(m for m, v in each.items() if v.verdict == state) + end
        if words in summary and named not in summary:
            return words.strip()
    return None


def _judge_one(evidence: _Evidence, name: str, modalities: Sequence[str], metric: str) -> ModalityVerdict:
    costs_now = evidence.get("utilisation.costs_now")
    missing = {}
    for other in modalities:
        cost = evidence.get("utilisation.costs_if_missing", other) if other != name else None
        if cost is not None:
            missing[other] = max(0.0, cost[0])
    state, reason = _state(evidence, name, metric)
    score = evidence.get("utilisation.score")
    if state in ("collapsed", "underused"):
        reason += _cost_words(costs_now, missing, metric)
    return ModalityVerdict(
        verdict=state,
        score=None if score is None else score[0],
        interval=None if score is None else score[1],
        costs_now=None if costs_now is None else max(0.0, costs_now[0]),
        costs_if_missing=missing,
        reason=reason,
        evidence=tuple(evidence.read),
    )


def _state(evidence: _Evidence, name: str, metric: str) -> tuple[ModalityState, str]:
    gain, prior = evidence.get("utilisation.alone_gain"), evidence.get("utilisation.prior_loss")
    credit, share = evidence.get("utilisation.credit"), evidence.get("utilisation.share")
    if gain is None or prior is None or credit is None:
        why = (
            evidence.why_not("utilisation.credit")
            or evidence.why_not("utilisation")
            or "the utilisation probe did not run"
        )
        return _by_reliance(evidence, name, why)
    due = evidence.get("utilisation.reference_credit")
    least = INFORMATIVE * prior[0]
    alone = gain[1][0] > 0 and gain[0] >= least
    together = due is not None and due[1][0] > 0 and due[0] >= least
    ratio = evidence.get("utilisation.ratio")
    if (alone or together) and ratio is not None:
        return _by_ratio(evidence, name, ratio, alone, metric)
    if share is not None and share[1][0] > 0 and share[0] >= SHARE:
        return "used", (
            f"The model uses {name} ({share[0]:.0%} of all credit), though alone it says next to nothing about the "
            "label: its information is in the combination."
        )
    most = max(gain[1][1], due[1][1] if due is not None else 0.0)
    if (share is None or share[1][1] < SHARE) and most < NOTHING * prior[0]:
        return "uninformative", (
            f"The model does not use {name}, and nothing could be learned from it: not by a readout of {name} alone, nor by "
            "a network on all modalities together."
        )
    return "inconclusive", (
        f"The intervals do not decide whether {name} is informative (gain alone {gain[0]:.3g}) and used (credit "
        f"{credit[0]:.3g}): more examples would."
    )


def _by_ratio(
    evidence: _Evidence, name: str, ratio: tuple[float, Interval], alone: bool, metric: str
) -> tuple[ModalityState, str]:
    value, (low, high) = ratio
    said = f"{value:.0%} [{low:.0%}, {high:.0%}] of the credit a balanced reference gives it"
    if value >= TWICE:
        said = "at least twice the credit a balanced reference gives it"
    if high < COLLAPSED:
        reached = evidence.get("utilisation.alone_metric")
        able = (
            f"reaches {reached[0]:.2f} {metric} alone" if reached is not None else "carries label information by itself"
        )
        if not alone:
            able = "carries label information together with another modality"
        return "collapsed", f"{name} {able}, yet the model gives it only {said}.{_why(evidence, metric)}"
    if low <= COLLAPSED:
        return "inconclusive", (
            f"The model gives {name} {said}, which reaches across the limit of {COLLAPSED:.0%}: more examples would decide."
        )
    if value < USED:
        return "underused", f"The model gives {name} {said}: it uses {name}, but for less than it is worth."
    return "used", f"The model gives {name} {said}."


def kept_part(prior: float, left: float, alone: float) -> float | None:
    """Compute which part of what an encoder trained alone gains a readout of this one has.

    Args:
        prior: loss of the best constant answer.
        left: loss of a readout of this encoder.
        alone: loss of one trained alone.

    Returns:
        The part, 1 for all; None where one trained alone gains nothing.
    """
    return (prior - left) / (prior - alone) if prior > alone else None


def _why(evidence: _Evidence, metric: str) -> str:
    """Where it is lost: in the encoder, which does not hold what it could learn, or behind it."""
    prior, left = evidence.get("utilisation.prior_loss"), evidence.get("prefix_gap.prefix_loss")
    alone, drive = evidence.get("prefix_gap.baseline_loss"), evidence.get("polysemanticity.drive")
    part = f" ({drive[0]:.1%} of what moves the fused neurons)" if drive is not None else ""
    kept = None if prior is None or left is None or alone is None else kept_part(prior[0], left[0], alone[0])
    if kept is None:
        return f" The fused neurons hardly move with it{part}." if drive is not None and drive[0] < SHARE else ""
    here, there = evidence.get("prefix_gap.prefix_metric"), evidence.get("prefix_gap.baseline_metric")
    read = f"it keeps {kept:.0%} of what it can gain alone"
    if here is not None and there is not None:
        read = f"read out linearly: {here[0]:.2f} {metric}, trained alone {there[0]:.2f}"
    if kept >= KEPT:
        return f" Its encoder still holds it ({read}): it is lost in the fusion{part}."
    return f" Its encoder never learned it ({read}){part}."


def _by_reliance(evidence: _Evidence, name: str, why: str) -> tuple[ModalityState, str]:
    """Without a reference: use can be shown, its absence cannot be told from a modality that says nothing."""
    credit = evidence.get("reliance.shapley")
    if credit is None:
        return (
            "inconclusive",
            f"There is no evidence about {name}, because {why}: run the reliance and utilisation probes.",
        )
    full, empty = evidence.get("reliance.full_loss"), evidence.get("reliance.empty_loss")
    gained = max(0.0, empty[0] - full[0], 1e-4 * empty[0]) if full is not None and empty is not None else 0.0
    if credit[1][0] > SHARE * gained:
        return "used", (
            f"Taking {name} away costs the model {credit[0]:.3g} of loss (Shapley credit); whether it is used for all it "
            f"is worth is not known, because {why}."
        )
    return "inconclusive", (
        f"The model gains nothing measurable from {name}, but whether it carries label information is not known, because "
        f"{why}: give a train split and run utilisation."
    )


def _cost_words(now: tuple[float, Interval] | None, missing: dict[str, float], metric: str) -> str:
    words = ""
    if now is not None:
        sure = now[1][0] > 0
        words += (
            f" Using it would gain {now[0]:.3f} {metric} today."
            if sure
            else f" That costs no measurable {metric} today."
        )
    if missing:
        worst = max(missing, key=lambda m: missing[m])
        if missing[worst] >= 0.005:
            words += f" Without {worst} it costs up to {missing[worst]:.2f} {metric}."
    return words
