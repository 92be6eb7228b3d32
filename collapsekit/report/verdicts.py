"""Results to verdicts. Reads nothing but results, so a verdict can be checked from the report alone.

The rules (docs/verdicts.md): a modality is informative when its best readout alone gains at least INFORMATIVE of the prior
loss, or the balanced reference credits it with as much, beyond the interval. Of an informative one, the utilisation ratio
decides: collapsed when its interval lies under COLLAPSED, used when it lies over COLLAPSED and the ratio reaches USED,
underused between. Where a reference may be too weak, the ratio has to be as clear with a due that is off by the factor WEAK;
what is not clear then is only partly judged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from collapsekit.report.parts import Cause, Judged, ModalityState, ModalityVerdict, OverallState, Result
from collapsekit.report.rules.causes import KEPT, find_cause
from collapsekit.report.rules.evidence import Estimate, ModalityEvidence

RULES = 2  # these; a report says which it was judged by
COLLAPSED = 0.15  # utilisation ratio under which the model is said not to use a modality
USED = 0.4  # utilisation ratio from which the model is said to use it
INFORMATIVE = 0.01  # share of the prior loss a readout alone has to gain, or the balanced reference to credit
NOTHING = 0.02  # share of the prior loss that either has to be surely under for a modality to say nothing
MARGIN = (
    0.005  # share of the prior loss that credit has to reach for a modality to be used, however little is due to it
)
LEARNED = 0.05  # share of the prior loss that the model has to gain for anything to be used
ENOUGH = 0.6  # part of what a modality's readout gains alone that the whole model has to gain for it to be used
MOST = 0.75  # part of the same from which the model has learned this modality, however little that is beside what others say
WEAK = 1.5  # factor by which a due may be off where no encoder was trained alone
TWICE = 2.0  # the ratio is given up to this
UNREAD = 0.05  # part of the norm of the first layer that reads it under which a modality is said not to be read
FAILED = "probe_failed"  # the name of the warning that an error ended a probe
DECIDING = ("reliance", "utilisation")  # probes without which there is no verdict that could pass
SHARE = 0.02  # share of all credit under which a modality that says nothing alone counts as not used
# Words of a summary that say what follows for the whole.
IGNORES = "The model ignores "
UNDERUSES = "The model underuses "
PARTLY = "Partly judged: "
UNDECIDED = "The evidence does not decide about "
EVERY = "The model uses every modality."
USES = "The model uses "
NONE_IGNORED = "no modality is ignored."
NOT_ASKED = "No verdict was asked for"
NOTHING_SAYS = "Nothing that was tried says anything about the label, so there is no use to judge."
FOOLED = "A model that uses nothing would be found to use something, so nothing can be decided here"
GUESSES = "As a whole it predicts no better than a constant guess."
DUE = "the credit a balanced reference gives it"  # of reasons
_WORDS = (IGNORES, UNDERUSES, PARTLY, UNDECIDED, EVERY, NONE_IGNORED, NOT_ASKED, NOTHING_SAYS, FOOLED, GUESSES)


class Verdicts(NamedTuple):
    """What follows from results."""

    overall: OverallState
    summary: str  # one sentence for the whole, and what is missing
    each: dict[str, ModalityVerdict]
    judged: Judged

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a report that it fills."""
        made = {"verdict": self.overall, "summary": self.summary, "judged": self.judged}
        return {**made, "rules": RULES, "modalities": self.each}


@dataclass(frozen=True)
class _Finding:
    """The state of one modality, and why."""

    state: ModalityState
    reason: str
    at_most: Literal["underused"] | None = None  # of one that is not decided: no better than that for sure
    at_least: Literal["underused"] | None = None  # nor worse than that
    missing: str | None = None  # what a full judgement lacks, in words that follow "as"
    cause: Cause | None = None  # of one that is surely less used than it could be, where it is known


def judge(results: Iterable[Result], modalities: Sequence[str], metric: str) -> Verdicts:
    """Judge from results alone: the whole, and each modality.

    Args:
        results: of the probes, in any order.
        modalities: the subject's.
        metric: what the task metric is called, for reasons.

    Returns:
        The overall verdict, a sentence for the whole, one verdict a modality, and how much could be judged.
    """
    known = list(results)
    strong = {m for m in modalities if _is_strong(ModalityEvidence(known, m))}
    each = {m: _judge_one(_Case(known, m, modalities, strong), metric) for m in modalities}
    ended = dict.fromkeys(r.probe for r in known if r.error is not None and r.probe in DECIDING)
    if ended:
        each = {m: _undecided(v, m, " and ".join(ended)) for m, v in each.items()}
    overall = overall_of(each)
    fooled = _fooled(known, each) if overall in ("healthy", "underused") else None
    missing = tuple(f"{m}: {v.missing}" for m, v in each.items() if v.missing is not None)
    judged = Judged(extent="partly" if missing else "fully", missing=missing)
    summary = _summary(overall, each)
    if not ended and not {"utilisation.credit", "reliance.shapley"} & {r.name for r in known}:
        summary = f"{NOT_ASKED}: neither reliance nor utilisation ran."
    elif _no_better_than_guessing(known):
        summary += f" {GUESSES}"
    if fooled is not None:
        overall, summary = "inconclusive", f"{FOOLED}: {fooled}."
    return Verdicts(overall, summary, each, judged)


def _fooled(results: Sequence[Result], each: Mapping[str, ModalityVerdict]) -> str | None:
    """Say which control, of a model that uses nothing, would be found to use something; None where none would."""
    for m in each:
        evidence = ModalityEvidence(results, m)
        prior, due = evidence.get("utilisation.prior_loss"), evidence.get("utilisation.reference_credit")
        credit, untrained = evidence.get("controls.permuted"), evidence.get("controls.untrained")
        if untrained is not None and untrained.value >= LEARNED:
            return f"an untrained build of the same architecture gains {untrained.value:.0%} of the prior loss"
        if credit is None or prior is None or due is None or due.value <= 0:
            continue
        if credit.low > COLLAPSED * due.value and credit.value >= max(USED * due.value, MARGIN * prior.value):
            return f"in answers that were dealt out at random, {m} has {credit.value / due.value:.0%} of its due"
    return None


def _is_strong(evidence: ModalityEvidence) -> bool:
    """Whether the reference is strong enough to have shown what could be had from the modality."""
    trained = evidence.get("utilisation.reference_trained")
    return trained is not None and trained.value >= 1


def _undecided(verdict: ModalityVerdict, name: str, ended: str) -> ModalityVerdict:
    """What an error in a deciding probe leaves of a verdict: a collapse that the other shows, and nothing that passes."""
    if verdict.verdict == "collapsed":
        return verdict
    reason = (
        f"Whether the model uses {name} is not known, because an error ended {ended}: see its `error` in the results."
    )
    changes = {"verdict": "inconclusive", "reason": reason, "missing": f"an error ended {ended}"}
    return verdict.model_copy(update={**changes, "at_most": None, "at_least": None, "cause": None})


def _no_better_than_guessing(results: Sequence[Result]) -> bool:
    found = {r.name: r.value for r in results if r.name in ("reliance.full_loss", "utilisation.prior_loss")}
    loss, prior = found.get("reliance.full_loss"), found.get("utilisation.prior_loss")
    return loss is not None and prior is not None and loss >= prior


def overall_of(each: Mapping[str, ModalityVerdict]) -> OverallState:
    """Judge the whole by the worst that is sure of its modalities, and by what is not."""
    states = {v.verdict for v in each.values()}
    if "collapsed" in states:
        return "collapsed"
    if any(map(is_weak, each.values())):
        return "underused"
    return "inconclusive" if "inconclusive" in states or "used" not in states else "healthy"


def is_weak(verdict: ModalityVerdict) -> bool:
    """Tell whether a modality surely is less used than it could be: collapsed, underused, or at most that."""
    return verdict.verdict in ("collapsed", "underused") or verdict.at_most is not None


def describe_state(verdict: ModalityVerdict) -> str:
    """Say what is sure of a modality: its verdict, or "at most underused" where it is one of collapsed and underused."""
    return verdict.verdict if verdict.at_most is None else f"at most {verdict.at_most}"


def possible_wholes(states: Collection[ModalityState]) -> list[OverallState]:
    """List the verdicts of the whole that go with these of modalities, by today's rules or the first.

    Where something is inconclusive, or only less used than it could be, the verdicts' words alone do not tell which.
    """
    if "collapsed" in states:
        return ["collapsed"]
    found: list[OverallState] = []
    if {"underused", "inconclusive"} & set(states):
        found.append("underused")
    if "inconclusive" in states or "used" not in states:
        found.append("inconclusive")
    if "inconclusive" not in states:
        found.append("healthy")
    return found


def _summary(overall: OverallState, each: Mapping[str, ModalityVerdict]) -> str:
    def listed(*names: str) -> str:
        return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))

    def named(state: ModalityState) -> list[str]:
        return [m for m, v in each.items() if v.verdict == state]

    few = [m for m, v in each.items() if is_weak(v) and v.verdict != "collapsed"]
    partly = [m for m, v in each.items() if v.missing is not None and v.at_most is None]
    open_ = [m for m in named("inconclusive") if m not in few and m not in partly]
    parts = []
    if overall == "collapsed":
        carry = "carry" if len(named("collapsed")) > 1 else "carries"
        parts.append(f"{IGNORES}{', '.join(named('collapsed'))}, which {carry} label information.")
    if few:
        parts.append(f"{UNDERUSES if not parts else 'It underuses '}{listed(*few)}.")
    if partly:
        whys = list(dict.fromkeys(str(each[m].missing) for m in partly))
        more = f" (and {len(whys) - 1} more reasons)" * (len(whys) > 1)
        parts.append(f"{PARTLY}what {listed(*partly)} could give is not known, as {whys[0]}{more}.")
    if open_:
        parts.append(f"{UNDECIDED}{', '.join(open_)}: the reason of each says what would.")
    if not named("used") and overall == "inconclusive" and not (partly or open_):
        return NOTHING_SAYS
    if overall == "healthy":
        nothing = named("uninformative")
        rest = f" and leaves out {listed(*nothing)}, which says nothing about the label; {NONE_IGNORED}"
        parts.append(f"{USES}{listed(*named('used'))}{rest}" if nothing else EVERY)
    return " ".join(parts)


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
    for words in _WORDS:
        if words in summary and words not in right:
            return words.strip()
    for words, state, end in ((IGNORES, "collapsed", ","),):
        named = words + ", ".join(m for m, v in each.items() if v.verdict == state) + end
        if words in summary and named not in summary:
            return words.strip()
    return None


def first_words(overall: OverallState, states: Mapping[str, ModalityState], extra: Sequence[str]) -> str:
    """Write what a summary under the first rules may say, for :func:`misstatement`.

    Args:
        overall: the verdict of the whole.
        states: those of the modalities.
        extra: what else there was to say, as :func:`collapsekit.report.rules.first.judge_states` has it.

    Returns:
        The words.
    """
    if "not asked" in extra:
        return NOT_ASKED
    listed = ", ".join(m for m, s in states.items() if s in ("collapsed", "inconclusive") and s == overall)
    words = {"collapsed": f"{IGNORES}{listed},", "inconclusive": f"{UNDECIDED}{listed}:"}.get(overall, NONE_IGNORED)
    if set(states.values()) == {"used"}:
        words = EVERY
    underuses = UNDERUSES if overall == "healthy" else ""
    return f"{words} {underuses}{GUESSES if 'guesses' in extra else ''}"


class _Case:
    """The evidence about one modality, and how far references can be trusted."""

    def __init__(self, results: Sequence[Result], name: str, modalities: Sequence[str], strong: set[str]) -> None:
        self.evidence, self.name, self.modalities = ModalityEvidence(results, name), name, modalities
        # Its own weak reference may have found too little of it, those of others too little of what they say as well.
        self.up = 1.0 if name in strong else WEAK
        self.down = 1.0 if strong >= set(modalities) - {name} else WEAK
        self.weak = [m for m in modalities if m not in strong]

    @property
    def missing(self) -> str | None:
        """What a full judgement lacks; None where every reference is strong."""
        if self.up == self.down == 1.0:
            return None
        about = self.evidence if self.up > 1 else None
        why = about.note("utilisation.reference_trained") if about is not None else None
        return why or f"the reference of {self.weak[0]} may be too weak"


def _judge_one(case: _Case, metric: str) -> ModalityVerdict:
    evidence, name = case.evidence, case.name
    costs_now = evidence.get("utilisation.costs_now")
    missing = {}
    for other in case.modalities:
        cost = evidence.get("utilisation.costs_if_missing", other) if other != name else None
        if cost is not None:
            missing[other] = max(0.0, cost.value)
    found = _find_state(case, metric)
    score, reason = evidence.get("utilisation.score"), found.reason
    if found.state in ("collapsed", "underused") or found.at_most is not None:
        reason += _cost_words(costs_now, missing, metric)
    return ModalityVerdict(
        verdict=found.state,
        score=None if score is None else score.value,
        interval=None if score is None else score.interval,
        costs_now=None if costs_now is None else max(0.0, costs_now.value),
        costs_if_missing=missing,
        reason=reason,
        evidence=tuple(evidence.read),
        at_most=found.at_most,
        at_least=found.at_least,
        missing=found.missing,
        cause=found.cause,
    )


def _find_state(case: _Case, metric: str) -> _Finding:
    evidence, name = case.evidence, case.name
    gain, prior = evidence.get("utilisation.alone_gain"), evidence.get("utilisation.prior_loss")
    credit, share = evidence.get("utilisation.credit"), evidence.get("utilisation.share")
    if gain is None or prior is None or credit is None:
        return _by_reliance(evidence, name, _why_no_reference(evidence))
    due = evidence.get("utilisation.reference_credit")
    alone, together = (e is not None and e.low > 0 and e.value >= INFORMATIVE * prior.value for e in (gain, due))
    ratio = evidence.get("utilisation.ratio")
    if (alone or together) and ratio is not None:
        return _by_ratio(case, ratio, alone, metric)
    if share is not None and share.low > 0 and share.value >= SHARE and _is_used(evidence, INFORMATIVE):
        alone_says = "it says next to nothing about the label: its information is in the combination"
        if gain.value >= INFORMATIVE * prior.value:
            alone_says = f"what it says (gain {gain.value:.3g}) may be chance: more examples would tell"
        return _Finding("used", f"The model uses {name} ({share.value:.0%} of all credit), though alone {alone_says}.")
    most = max(gain.high, due.high if due is not None else 0.0)
    if (share is None or share.high < SHARE or not _is_used(evidence, INFORMATIVE)) and most < NOTHING * prior.value:
        return _says_nothing(case)
    return _Finding(
        "inconclusive",
        f"The intervals do not decide whether {name} is informative (gain alone {gain.value:.3g}) and used (credit "
        f"{credit.value:.3g}): more examples would.",
        missing=case.missing,
    )


def _why_no_reference(evidence: ModalityEvidence) -> str:
    return (
        evidence.why_not("utilisation.credit") or evidence.why_not("utilisation") or "the utilisation probe did not run"
    )


def _is_used(evidence: ModalityEvidence, share: float) -> bool:
    """Whether the model's credit is more than nothing by a share of the prior loss, and the model learned something."""
    credit, prior = evidence.get("utilisation.credit"), evidence.get("utilisation.prior_loss")
    if credit is None or prior is None or _learned_nothing(evidence):
        return False
    return credit.low > 0 and credit.value >= share * prior.value


def _learned_nothing(evidence: ModalityEvidence) -> bool:
    """Whether the model as a whole gains next to nothing of the prior loss, or little of what the reference gains and much
    less than this modality does alone."""
    learned, learnable = evidence.get("utilisation.learned"), evidence.get("utilisation.learnable")
    if learned is None:
        return False
    if learned.value < LEARNED:
        return True
    little = learnable is not None and learned.value < COLLAPSED * learnable.value
    return little and not _nearly_as_alone(evidence)


def _nearly_as_alone(evidence: ModalityEvidence) -> bool:
    """Whether the whole model gains most of what this modality gains alone, and that is no trifle: it hears a weak one."""
    learned, prior = evidence.get("utilisation.learned"), evidence.get("utilisation.prior_loss")
    alone = evidence.get("utilisation.alone_gain")
    if learned is None or prior is None or alone is None or alone.value < LEARNED * prior.value:
        return False
    return learned.value * prior.value >= MOST * alone.value


def _less_than_alone(evidence: ModalityEvidence) -> bool:
    """Whether the whole model gains much less than a readout of this modality alone: random weights that happen to point its
    way give it credit, but one that was learned for it does not leave so much of it."""
    learned, prior = evidence.get("utilisation.learned"), evidence.get("utilisation.prior_loss")
    alone = evidence.get("utilisation.alone_gain")
    if learned is None or prior is None or alone is None:
        return False
    return learned.value * prior.value < ENOUGH * alone.value


def _says_nothing(case: _Case) -> _Finding:
    name = case.name
    if case.up > 1:
        return _Finding(
            "inconclusive",
            f"The model gains nothing measurable from {name}, and no readout that was tried found anything in it; a "
            f"stronger one might, as {case.missing}.",
            missing=case.missing,
        )
    return _Finding(
        "uninformative",
        f"The model does not use {name}, and nothing could be learned from it: not by a readout of {name} alone, nor by a "
        "network on all modalities together.",
    )


def _by_ratio(case: _Case, ratio: Estimate, alone: bool, metric: str) -> _Finding:
    """The state by the part of what is due that the model credits the modality with."""
    evidence, name = case.evidence, case.name
    part = f"{ratio.value:.0%} [{ratio.low:.0%}, {ratio.high:.0%}] of {DUE}"
    if ratio.value >= TWICE:
        part = f"at least twice {DUE}"
    if ratio.high * case.down < COLLAPSED:
        cause, why = _cause_or_why(evidence, name, metric)
        return _Finding("collapsed", f"{_able(evidence, name, alone, metric)} only {part}.{why}", cause=cause)
    over = ratio.low > COLLAPSED * case.up and _is_used(evidence, MARGIN)
    if over and ratio.value >= USED * case.up and _whatever_is_due(case) and not _less_than_alone(evidence):
        return _Finding("used", f"The model gives {name} {part}.")
    if over and ratio.value < USED / case.down and case.up == 1:
        cause, why = _cause(evidence, name)
        less = f"The model gives {name} {part}: it uses {name}, but for less than it is worth.{why}"
        return _Finding("underused", less, cause=cause)
    at_least: Literal["underused"] | None = "underused" if over else None
    if ratio.high < USED / case.down:
        cause, why = _cause(evidence, name)
        surely = f"The model gives {name} {part}, so it is at most underused: {_would_decide(case)}.{why}"
        return _Finding("inconclusive", surely, "underused", at_least, case.missing, cause)
    return _Finding("inconclusive", _open(case, part, over), None, at_least, case.missing)


def _open(case: _Case, part: str, over: bool) -> str:
    name = case.name
    if over and _less_than_alone(case.evidence):
        return (
            f"The model gives {name} {part}, but as a whole it gains less than {ENOUGH:.0%} of what {name} says alone: that "
            "may be chance."
        )
    if case.missing is not None:
        return f"The model gives {name} {part}, but that reference may be too weak, as {case.missing}."
    if not over and _learned_nothing(case.evidence):
        return f"The model gives {name} {part}, but as a whole it gains {_little(case.evidence)}: that may be chance."
    if not over and not _is_used(case.evidence, MARGIN):
        return f"The model gives {name} {part}, but {_why_chance(case.evidence)}."
    return (
        f"The model gives {name} {part}, which reaches across the limit of {COLLAPSED:.0%}: more examples would decide."
    )


def _little(evidence: ModalityEvidence) -> str:
    """How little a model gains that is taken for one that learned nothing."""
    learned, learnable = evidence.get("utilisation.learned"), evidence.get("utilisation.learnable")
    if learned is None or learned.value < LEARNED or learnable is None:
        return "next to nothing"
    return f"only {learned.value / learnable.value:.0%} of what the reference gains"


def _why_chance(evidence: ModalityEvidence) -> str:
    """Why a credit does not count: it is small beside the loss, or its interval reaches 0."""
    credit, prior = evidence.get("utilisation.credit"), evidence.get("utilisation.prior_loss")
    if credit is not None and prior is not None and credit.value >= MARGIN * prior.value:
        return "the interval of its credit reaches 0, so it may be chance: more examples would decide"
    return "that is next to nothing of the loss: it may be chance"


def _would_decide(case: _Case) -> str:
    return (
        "more examples would tell whether it is used at all"
        if case.missing is None
        else f"more is open, as {case.missing}"
    )


def _whatever_is_due(case: _Case) -> bool:
    """Whether the modality were not collapsed even if it said everything; asked where its reference is weak."""
    most, credit = case.evidence.get("utilisation.due_at_most"), case.evidence.get("utilisation.credit")
    return case.up == 1 or (most is not None and credit is not None and credit.value >= COLLAPSED * most.value)


def _able(evidence: ModalityEvidence, name: str, alone: bool, metric: str) -> str:
    reached = evidence.get("utilisation.alone_metric")
    able = (
        f"reaches {reached.value:.2f} {metric} alone" if reached is not None else "carries label information by itself"
    )
    if not alone:
        able = "carries label information together with another modality"
    return f"{name} {able}, yet the model gives it"


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


def _cause_or_why(evidence: ModalityEvidence, name: str, metric: str) -> tuple[Cause | None, str]:
    """The cause that pathway tells, with its sentence; else where what was read out of encoders says that it is lost."""
    cause, sentence = _cause(evidence, name)
    return cause, sentence if cause is not None else _why(evidence, metric) + sentence


def _cause(evidence: ModalityEvidence, name: str) -> tuple[Cause | None, str]:
    """The cause that pathway tells, and its sentence behind a space; nothing where it did not run."""
    found = find_cause(evidence, name)
    return (None, "") if found is None else (found.cause, f" {found.sentence}")


def _why(evidence: ModalityEvidence, metric: str) -> str:
    """Where it is lost: in the encoder, which does not hold what the strongest readout finds, or behind it."""
    drive = evidence.get("polysemanticity.drive")
    part = f" ({drive.value:.1%} of what moves the fused neurons)" if drive is not None else ""
    unread = _unread(evidence)
    kept, read = _kept(evidence, metric)
    if kept is None:
        still = f" The fused neurons hardly move with it{part}." if drive is not None and drive.value < SHARE else ""
        return still + unread
    if kept >= KEPT:
        where = "it is lost in the fusion" if not unread else "the fusion does not read it"
        return f" Its encoder still holds it ({read}): {where}{part}.{unread}"
    return f" Its encoder never learned it ({read}){part}.{unread}"


def _kept(evidence: ModalityEvidence, metric: str) -> tuple[float | None, str]:
    """The part of what the strongest readout gains that one of this encoder has, and the two in words."""
    prior, left = evidence.get("utilisation.prior_loss"), evidence.get("prefix_gap.prefix_loss")
    alone, gain = evidence.get("prefix_gap.baseline_loss"), evidence.get("utilisation.alone_gain")
    if prior is None or left is None:
        return None, ""
    least = min(
        [e.value for e in (alone,) if e is not None] + [prior.value - g.value for g in (gain,) if g is not None]
    )
    kept = kept_part(prior.value, left.value, least)
    here, there = evidence.get("prefix_gap.prefix_metric"), evidence.get("utilisation.alone_metric")
    if kept is not None and here is not None and there is not None:
        return kept, f"read out linearly: {here.value:.2f} {metric}, by the strongest readout {there.value:.2f}"
    return kept, "" if kept is None else f"it keeps {kept:.0%} of what can be gained alone"


def _unread(evidence: ModalityEvidence) -> str:
    """What the first layer behind the encoder makes of its output, where that is next to nothing."""
    block, layer = evidence.get("gradient_rank.block_norm"), evidence.get("gradient_rank.layer_norm")
    spread = evidence.get("spectrum.spread")
    if block is None or layer is None or block.value >= UNREAD * layer.value:
        return ""
    moves = f"Its encoder's output varies by {spread.value:.2g}, and the" if spread is not None else "The"
    return f" {moves} first layer that reads it has {block.value:.2g} of its norm of {layer.value:.3g} on it."


def _by_reliance(evidence: ModalityEvidence, name: str, why: str) -> _Finding:
    """Without a reference nothing is decided: what the model gains from a modality may be little of what it could."""
    credit = evidence.get("reliance.shapley")
    if credit is None:
        reason = f"There is no evidence about {name}, because {why}: run the reliance and utilisation probes."
        return _Finding("inconclusive", reason, missing=why)
    full, empty = evidence.get("reliance.full_loss"), evidence.get("reliance.empty_loss")
    gained = max(0.0, empty.value - full.value) if full is not None and empty is not None else 0.0
    least = max(SHARE * gained, INFORMATIVE * empty.value) if empty is not None else 0.0
    if credit.low > least:
        reason = (
            f"Taking {name} away costs the model {credit.value:.3g} of loss (Shapley credit); whether it is used for all "
            f"it is worth is not known, because {why}."
        )
        return _Finding("inconclusive", reason, missing=why)
    reason = (
        f"The model gains nothing measurable from {name}, but whether it carries label information is not known, because "
        f"{why}: give a train split and run utilisation."
    )
    return _Finding("inconclusive", reason, missing=why)


def _cost_words(now: Estimate | None, missing: dict[str, float], metric: str) -> str:
    words = ""
    if now is not None:
        sure = now.low > 0
        words += (
            f" Using it would gain {now.value:.3f} {metric} today."
            if sure
            else f" That costs no measurable {metric} today."
        )
    if missing:
        worst = max(missing, key=lambda m: missing[m])
        if missing[worst] >= 0.005:
            words += f" Without {worst} it costs up to {missing[worst]:.2f} {metric}."
    return words
