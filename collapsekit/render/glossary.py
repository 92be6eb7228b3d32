"""What the terms of a page mean, a sentence each: one declaration for pages and for docs/glossary.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Entry:
    """A term that a newcomer may not know. ``head`` is how docs/glossary.md has it, with the keys of reports that it stands
    for; ``forms`` are its spellings in a page, of which the first is its name there."""

    head: str
    meaning: str
    forms: tuple[str, ...]
    state: bool = False  # a verdict's word, which is one only where it is a verdict: "used" is a plain word, too
    more: str = ""  # a link, for the docs alone

    @property
    def plain(self) -> str:
        """The meaning without markup."""
        return self.meaning.replace("`", "")


THEMES: dict[str, tuple[Entry, ...]] = {
    "verdicts": (
        Entry(
            "`used`",
            "The model gets from a modality at least 40 % of what a balanced reference would.",
            ("used",),
            state=True,
        ),
        Entry(
            "`underused`",
            "The model uses a modality, for less than 40 % of what it is worth.",
            ("underused",),
            state=True,
        ),
        Entry(
            "`collapsed`",
            "A modality says something about the label, and the model hardly uses it; a model is "
            "collapsed when any modality is.",
            ("collapsed",),
            state=True,
        ),
        Entry(
            "`uninformative`",
            "The model does not use a modality, and nothing could be learned from it, alone or with others.",
            ("uninformative",),
            state=True,
        ),
        Entry(
            "`inconclusive`",
            "The interval does not decide, or something that a decision needs was not there.",
            ("inconclusive",),
            state=True,
        ),
        Entry("`healthy`", "No modality of the model is collapsed or inconclusive.", ("healthy",), state=True),
        Entry(
            "modality collapse",
            "A trained model relies on some of its modalities and ignores others that would help.",
            ("modality collapse",),
        ),
    ),
    "numbers": (
        Entry(
            "credit, `shapley`, `credit`",
            "How much task loss the model saves by a modality: its Shapley value over all subsets of modalities.",
            ("credit", "credits"),
        ),
        Entry("utilisation ratio, `ratio`", "Credit in the model divided by what is due.", ("utilisation ratio",)),
        Entry(
            "`interval`, `lower`, `upper`",
            "The range that holds the true value in 95 of 100 draws of the examples; it does not cover training again.",
            ("interval", "intervals"),
        ),
        Entry(
            "task loss, cross-entropy",
            "How wrong answers are; in classification the cross-entropy, minus the logarithm of the "
            "probability given to the truth.",
            ("task loss", "cross-entropy"),
        ),
        Entry(
            "nats",
            "The unit of a loss in natural logarithms: one nat less, and the truth is given 2.7 times the probability.",
            ("nats",),
        ),
        Entry("held-out", "Of examples that nothing was fitted on.", ("held-out",)),
    ),
    "parts": (
        Entry(
            "task metric",
            "How good a set of answers is, higher being better, such as accuracy or average precision.",
            ("task metric",),
            more="[all of them](tasks.md#which-metric)",
        ),
        Entry(
            "fused representation",
            "What the model makes of all modalities together: the output of the config's `fusion`.",
            ("fused representation", "fused representations"),
        ),
        Entry(
            "pooled features",
            "What an encoder gives of a modality, pooled to one vector an example.",
            ("pooled features",),
        ),
    ),
    "use": (
        Entry(
            "coalition, `subsets`, `subsets_metric`",
            "A subset of the modalities that the model sees while the others come from other examples.",
            ("coalition", "coalitions"),
        ),
        Entry(
            "Shapley value",
            "The mean of what a modality adds, over all orders in which modalities may join.",
            ("Shapley value", "Shapley values", "Shapley", "Shapley credit"),
        ),
        Entry(
            "leave-one-out, `leave_one_out`, `leave_one_out_metric`",
            "What the model loses when one modality alone is taken away; near 0 where another can stand in.",
            ("leave-one-out", "leave one out"),
        ),
        Entry(
            "marginal samples",
            "The other examples that an absent modality's values are taken from.",
            ("marginal samples", "marginal resampling"),
        ),
        Entry("prior, `prior_loss`", "The best constant answer, and its loss.", ("prior", "prior loss")),
        Entry(
            "calibration",
            "One factor that draws predictions toward the prior, so that they are as sure as they are right.",
            ("calibration", "calibrated"),
        ),
    ),
    "due": (
        Entry(
            "utilisation, `utilisation`", "Credit in the model beside credit in a balanced reference.", ("utilisation",)
        ),
        Entry(
            "balanced reference",
            "A model that adds up what each modality says alone, and what they say only together.",
            ("balanced reference",),
        ),
        Entry(
            "readout", "A small model, mostly linear, that predicts the label from features.", ("readout", "readouts")
        ),
        Entry(
            "unimodal baseline, `baseline_loss`, `baseline_metric`",
            "The same encoder trained alone on its modality, and how its readout does.",
            ("unimodal baseline", "unimodal baselines"),
        ),
        Entry("synergy, `joint_gain`", "What modalities say only together, such as an exclusive-or.", ("synergy",)),
        Entry(
            "prefix gap, `prefix_gap`, `gap`",
            "How much more task loss an encoder's readout has after joint training than after training alone.",
            ("prefix gap", "prefix gaps"),
        ),
    ),
    "shapes": (
        Entry(
            "spectrum, `spectrum`, `eigenvalues`",
            "How the variance of features spreads over directions.",
            ("spectrum", "spectra", "eigenvalue", "eigenvalues"),
        ),
        Entry(
            "effective rank, `effective_rank`",
            "How many directions features fill: the exponential of the entropy of their singular values.",
            ("effective rank", "effective ranks"),
        ),
        Entry(
            "numerical rank, `numerical_rank`",
            "How many singular values lie over a stated part of the largest.",
            ("numerical rank", "numerical ranks"),
        ),
        Entry(
            "stable rank, `stable_rank`",
            "The sum of squared singular values over the largest squared.",
            ("stable rank",),
        ),
        Entry(
            "participation ratio, `participation_ratio`",
            "The squared sum of eigenvalues over the sum of their squares.",
            ("participation ratio",),
        ),
        Entry(
            "variance inflation factor, VIF, `vif`, `mean`, `median`, `max`, `per_feature`",
            "How far the other neurons tell one neuron: 1 not at all.",
            ("variance inflation factor", "variance inflation factors", "VIF", "VIFs"),
        ),
        Entry(
            "β, `rank_sweep`, `critical_beta`",
            "The factor that a modality's features are multiplied by; the critical one is where the "
            "rank has fallen to that of the modality alone.",
            ("β",),
        ),
        Entry(
            "CKA, `similarity`, `cka`",
            "How alike two representations are whatever their rotation and scale: 0 no linear relation, 1 the same.",
            ("CKA",),
        ),
        Entry(
            "Procrustes cosine, `procrustes`, `procrustes_null`, `procrustes_sweep`",
            "How alike two representations are after the best rotation, beside shuffled examples, and over β.",
            ("Procrustes cosine", "Procrustes"),
        ),
        Entry(
            "channel exchange, `fusion_gain`, `gain`, `random_gain`, `excess`, `harmonic_mean`, `random_harmonic_mean`",
            "How much rank a modality gains from another's channels, and from random ones.",
            ("channel exchange",),
        ),
    ),
    "neurons": (
        Entry(
            "polysemantic neuron, `polysemanticity`, `polysemantic`",
            "A fused neuron that several features or modalities drive.",
            ("polysemantic neuron", "polysemantic neurons", "polysemantic", "polysemanticity"),
        ),
        Entry(
            "drive, `drive`, `drivers`, `drive_entropy`",
            "How much of what moves a fused neuron comes from a modality or a feature, whose features "
            "lead, and how evenly modalities share a neuron.",
            ("drive",),
        ),
        Entry(
            "modality classifier, `cross_entropy`, `entropy`, `uniform`, `check`",
            "A classifier that tells from weights which modality a neuron serves: its loss, how unsure "
            "it is, the loss of guessing, and its loss on models that it has not seen.",
            ("modality classifier", "modality classifiers"),
        ),
        Entry(
            "collision, `collision`, `cross_modal`, `pair`, `pair_share`",
            "The two features that drive a neuron most belong to different modalities; by pair of "
            "modalities, and how much of the drive those two hold.",
            ("collision", "collisions"),
        ),
        Entry(
            "entanglement, `entanglement`, `entangled`, `conjugates`",
            "A neuron carries what one modality predicts together with the noise of another; or both "
            "parts of one modality.",
            ("entanglement", "entangled"),
        ),
        Entry(
            "gradient rank, `gradient_rank`, `gradient_effective_rank`, `gradient_numerical_rank`",
            "The rank of the loss gradient at the first fusion layer.",
            ("gradient rank",),
        ),
        Entry(
            "AGOP, `agop_effective_rank`, `agop_numerical_rank`",
            "The average gradient outer product: which input directions of the fusion its outputs depend on.",
            ("AGOP",),
        ),
    ),
    "absence": (
        Entry(
            "imputation, fill",
            "What stands in the place of an absent modality, such as zeros or the nearest example.",
            ("imputation", "fill", "fills"),
        ),
        Entry(
            "class mean",
            "A fill that reads the label, the mean of the example's own class: an oracle, tried only "
            "where it is asked for.",
            ("class mean",),
        ),
    ),
    "gate": (
        Entry(
            "`p`, `p_holm`",
            "How often chance alone would make such a difference, before and after Holm's correction "
            "for many comparisons.",
            ("p-value", "p-values", "p"),
        ),
        Entry(
            "Holm's correction",
            "Makes p-values larger where many comparisons are made, so that few are found by chance.",
            ("Holm's correction", "Holm"),
        ),
    ),
    "repair": (
        Entry(
            "control, `control`",
            "Plain fine-tuning with the same data and steps, which every repair is judged beside.",
            ("control", "plain fine-tuning"),
        ),
        Entry(
            "knowledge distillation",
            "Training an encoder to give what another modality's features say.",
            ("knowledge distillation",),
        ),
        Entry("modality dropout", "Training with modalities left out at random.", ("modality dropout",)),
    ),
}
"""Entries by the part of docs/glossary.md that they stand in."""


def split_at_terms(
    text: str, *, state: bool = False, names: tuple[str, ...] = ()
) -> Iterator[tuple[str, Entry | None]]:
    """Cut a text into pieces, each a term with its entry, or what stands between terms.

    Args:
        text: Of any kind; the pieces put together again are the same text.
        state: Whether it is the word of a verdict, rather than prose.
        names: What a user called something, which is no term, whatever it says.

    Yields:
        A piece, and the entry that explains it.
    """
    pattern, entries = _pattern(state)
    for i, part in enumerate(_names(names).split(text) if names else (text,)):
        if i % 2:
            yield part, None
            continue
        for k, piece in enumerate(pattern.split(part)):
            if piece:
                yield piece, entries.get(piece.casefold()) if k % 2 else None


@cache
def _names(names: tuple[str, ...]) -> re.Pattern[str]:
    """What finds names that stand by themselves, the longest first."""
    either = "|".join(map(re.escape, sorted(filter(None, names), key=len, reverse=True)))
    return re.compile(rf"(?<!\w)({either})(?!\w)", re.IGNORECASE)


@cache
def _pattern(state: bool) -> tuple[re.Pattern[str], dict[str, Entry]]:
    """What finds the terms, the longest first, and the entry of each spelling."""
    entries = {f.casefold(): e for part in THEMES.values() for e in part if e.state is state for f in e.forms}
    either = "|".join(map(re.escape, sorted(entries, key=len, reverse=True)))
    return re.compile(rf"(?<![\w.-])({either})(?![\w-]|\.\w)", re.IGNORECASE), entries
