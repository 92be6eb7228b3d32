"""fusion_gain: what exchanging channels between two modalities does to their effective ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, permutations
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from collapsekit.context import Options
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.measures import Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import need_features
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Result
from collapsekit.session.costs.cost import reads_features
from collapsekit.session.session import Session
from collapsekit.stats.inference.jackknife import interval
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.stats.linalg import exchange as ex
from collapsekit.stats.linalg.moments import KEEP, Moments
from collapsekit.stats.linalg.ranks import small_n
from collapsekit.stats.linalg.spectrum import effective_rank, spectra

SOURCE = "after Kim et al. 2025, Figure 3 and Theorem 3.1"
RANKS = {
    "pooled": "effective rank (exp of the entropy of σ/Σσ) of the receiver's pooled features, centred, over all "
    "examples",
    "kim2025": "mean over examples of the effective rank (exp of the entropy of σ/Σσ) of the receiver's tokens (tokens "
    "by channels), not centred",
}
SCORES = {
    "energy": "with the lowest centred energy, the mean of (x - mean)² over examples (over an example's tokens, where there "
    "are tokens)",
    "spectral": "with the lowest share of energy in the first ⌊effective rank⌋ singular directions",
    "std": "with the lowest standard deviation over examples (over an example's tokens, where there are tokens)",
    "magnitude": "with the lowest mean absolute value",
    "random": "drawn at random",
}
PAIRINGS = {
    "same": "the giver's channel of the same number (of the numbers that both have)",
    "strongest": "the giver's channels with the highest such score, the weakest by the strongest",
}
CONTROL = {"same": "the same with channels drawn at random", "strongest": "the same with both drawn at random"}
WHAT = (
    "{rank}, after minus before k = max(1, ⌊{proportion:g}·w⌋) of its channels, those {score}, are {exchanged} {pairing}; w "
    "is the smaller of the two widths; channels are chosen {selected}"
)
DRAWN = "mean over {draws} draws of {control}"
OURS = f"{SOURCE}; the control is ours"

GAIN = declare(Measure("fusion_gain.gain", definition=WHAT, source=SOURCE, unit="dimensions", figure="matrix"))
RANDOM_GAIN = declare(Measure("fusion_gain.random_gain", definition=f"{DRAWN}: {WHAT}", source=OURS, unit="dimensions"))
EXCESS = declare(
    Measure(
        "fusion_gain.excess",
        definition=f"gain minus random_gain; {WHAT}; random_gain: {DRAWN}",
        source=OURS,
        unit="dimensions",
        figure="matrix",
    )
)
HARMONIC_MEAN = declare(
    Measure(
        "fusion_gain.harmonic_mean",
        definition=f"harmonic mean of the gains both ways, 0 where one is not positive; gain: {WHAT}",
        source=SOURCE,
        unit="dimensions",
    )
)
RANDOM_HARMONIC_MEAN = declare(
    Measure(
        "fusion_gain.random_harmonic_mean",
        definition="harmonic mean of the random gains both ways, 0 where one is not positive; random gain: "
        f"{DRAWN}: {WHAT}",
        source=OURS,
        unit="dimensions",
    )
)


PICTURES = (
    Picture(
        "fusion_gain",
        "Rank gained from another modality's channels",
        (
            Panel("gain (dimensions)", {"": "fusion_gain.gain"}, along="from"),
            Panel("more than random channels give", {"": "fusion_gain.excess"}, along="from"),
        ),
        (
            Finding(
                "beyond",
                "fusion_gain.excess",
                {
                    "clear": "{modality} gains {value} dimensions more from channels of {versus} than from random ones.",
                    "unclear": "No modality clearly gains more rank from another's channels than from random ones.",
                },
            ),
        ),
    ),
)


class FusionGainOptions(Options):
    """Options of the fusion_gain probe."""

    definition: Literal["pooled", "kim2025"] = Field(default="pooled", description="which rank; kim2025 needs tokens")
    proportion: float = Field(default=0.3, gt=0, le=1, description="share of channels that is exchanged")
    score: Literal["energy", "std", "magnitude", "spectral", "random"] = Field(
        default="energy", description="by which the receiver's weakest channels are chosen"
    )
    select: Literal["auto", "example", "dataset"] = Field(
        default="auto",
        description="whether they are chosen in each example or once; auto: of tokens in each, as rtf does",
    )
    pairing: Literal["same", "strongest"] = Field(default="same", description="which of the giver's channels they get")
    blend: float = Field(
        default=0.3, gt=0, le=1, description="share of the giver in an exchanged channel; rtf begins with as much"
    )
    draws: int = Field(default=5, gt=0, description="draws of random channels for the control")


@dataclass(frozen=True)
class _Held:
    """One modality's features: (n, d) pooled or (n, t, c) tokens, which tokens count, its scores, its rank."""

    x: Tensor
    keep: Tensor | None
    scores: Tensor  # (d,), or (n, d) where channels are chosen in each example
    before: Tensor  # (1 + groups,): over all examples, then without each jackknife group


@dataclass(frozen=True)
class _Gain:
    """Gain in rank of one receiver from one giver, by the chosen channels and by random ones; (1 + groups,) each."""

    chosen: Tensor
    random: Tensor
    channels: int


@probe(
    "fusion_gain",
    title="Rank gained by exchanging channels",
    place=130,
    pictures=PICTURES,
    summary="effective-rank gain of each modality from the other's channels, against random channels",
    definition="effective rank of a modality's features after minus before its weakest channels are replaced by "
    "another's; harmonic mean of the two gains of a pair",
    source=SOURCE,
    cannot="a rank gain is no repair, nor a sign of use: random channels often raise the rank as much, and whether the "
    "task gains only its metric tells",
    options=FusionGainOptions,
    cost=reads_features,
)
def run(session: Session) -> Iterator[Result]:
    """Measure what exchanging channels between two modalities does to their effective ranks.

    The receiver's weakest channels are replaced by the giver's, after Kim et al. 2025, Figure 3 and Theorem 3.1; random
    channels are the control.

    Yields:
        By receiver and giver: the gain in rank, that of random channels, the one minus the other, and for the pair the
        harmonic means of the gains both ways.
    """
    options, features = session.options_of("fusion_gain", FusionGainOptions), session.features
    held: dict[str, _Held | str] = {}
    for m in features.modalities:
        try:
            held[m] = _hold(session, m, options)
        except NumericsError as e:
            held[m] = str(e).rstrip(".")
    gains: dict[tuple[str, str], _Gain | str] = {}
    pairs = list(permutations(features.modalities, 2))
    for done, (receiver, giver) in enumerate(pairs):
        session.progress.step("channel exchanges", done, len(pairs))
        gains[receiver, giver] = _between(held[receiver], held[giver], features, options, session.seed)
    for receiver, giver in pairs:
        yield from _results(features, receiver, giver, gains, options, session.level)


def _hold(session: Session, modality: str, options: FusionGainOptions) -> _Held:
    """Features, scores and rank of one modality. Raises NumericsError where they are not to be had."""
    need_features(session, modality)
    keep, features, why_once = None, session.features, _why_once(options)
    if options.select == "example" and why_once is not None:
        raise NumericsError(f"select is example, but {why_once}: use select=dataset, or auto")
    if options.definition == "pooled":
        x = features.pooled[modality].double()
        n, d = x.shape
        if n < 2 * d:
            raise NumericsError(f"needs at least 2·d = {2 * d} examples for the {d} features of {modality}, found {n}")
    else:
        x, keep = _tokens(session, modality)
    shape = (len(x), x.shape[-1]) if _in_each(options) else x.shape[-1:]
    if options.score == "random":
        # Not the draws of the control.
        scores = torch.rand(*shape, generator=torch.Generator().manual_seed(session.seed + 1))
    elif _in_each(options):
        scores = ex.example_energies(x, keep)
    else:
        scores = ex.channel_scores(x, options.score, keep)
    return _Held(x, keep, scores, _rank(x, features))


def _in_each(options: FusionGainOptions) -> bool:
    """Whether channels are chosen in each example."""
    return options.select != "dataset" and _why_once(options) is None


def _why_once(options: FusionGainOptions) -> str | None:
    """Why channels cannot be chosen in each example; None where they can."""
    if options.definition == "pooled":
        return "definition pooled has one vector an example"
    if options.score in ("magnitude", "spectral"):
        return f"score {options.score} is one number for all examples"
    return None if options.pairing == "same" else "pairing strongest is one order for all examples"


def _tokens(session: Session, modality: str) -> tuple[Tensor, Tensor | None]:
    """Tokens (n, t, c) of one modality, 0 where masked, and the mask. Raises NumericsError where it has none."""
    adapter, features = session.adapter, session.features
    x = adapter.features_of(modality, features.recorded[modality])
    section = adapter.config.modalities[modality]
    if x.ndim < 3:
        raise NumericsError(
            f"the features of {modality} have shape {tuple(x.shape)}, without a token axis: definition kim2025 needs "
            "(examples, tokens, channels), use pooled"
        )
    tokens = adapter.tokens_of(modality, x).double()
    if tokens.shape[1] < 2:
        raise NumericsError(f"the features of {modality} have one token an example, whose rank is 1 whatever it holds")
    if section.mask is None:
        return tokens, None
    keep = features.inputs[section.mask].reshape(len(x), -1) > 0
    if keep.shape != tokens.shape[:2]:
        raise NumericsError(
            f"the mask of {modality} does not count its tokens: {tuple(keep.shape)} for {tuple(x.shape)}"
        )
    return tokens * keep[..., None], keep


def _rank(x: Tensor, features: Features) -> Tensor:
    """The rank of features (n, d), or the mean of the ranks of tokens (n, t, c); with each group left out."""
    if x.ndim == 3:
        return leave_out_means(ex.clip_ranks(x), features.groups)
    whole, left = features.moments(x)
    return _ranks(chain([whole], left), x.shape[1])


def _ranks(moments: Iterable[Moments], d: int) -> Tensor:
    return torch.tensor([effective_rank(sigma) for sigma in spectra(moments, d)], dtype=torch.float64)


def _joint(receiver: _Held, giver: _Held, features: Features) -> list[Moments] | None:
    """Moments of pooled features of both side by side, over all examples and without each group; None where those are
    too large to keep, or of tokens: then every exchange is made with the features themselves."""
    d = receiver.x.shape[-1] + giver.x.shape[-1]
    if receiver.x.ndim == 3 or (int(features.groups.max()) + 2) * d * d * 8 > KEEP:
        return None
    whole, left = features.moments(torch.cat([receiver.x, giver.x], 1))
    return [whole, *left]


def _between(
    receiver: _Held | str, giver: _Held | str, features: Features, options: FusionGainOptions, seed: int
) -> _Gain | str:
    """Both gains, or why there are none."""
    if isinstance(receiver, str) or isinstance(giver, str):
        return receiver if isinstance(receiver, str) else str(giver)
    widths = receiver.x.shape[-1], giver.x.shape[-1]
    k = ex.exchanged_count(options.proportion, min(widths))
    same = options.pairing == "same"
    generator = torch.Generator().manual_seed(seed)

    joint = _joint(receiver, giver, features)

    def gain(to: Tensor, source: Tensor) -> Tensor:
        if joint is not None:
            made = (ex.exchanged_moments(m, widths[0], to, source, options.blend) for m in joint)
            return _ranks(made, widths[0]) - receiver.before
        if to.ndim == 2:
            changed = ex.exchange_in_each(receiver.x, giver.x, to, options.blend)
        else:
            changed = ex.exchange(receiver.x, giver.x, to, source, options.blend)
        if receiver.keep is not None:
            changed *= receiver.keep[..., None]  # what was padding stays that
        return _rank(changed, features) - receiver.before

    def pick(scores: Tensor, of_giver: Tensor) -> Tensor:
        if scores.ndim == 2:
            to = ex.weakest_of_each(scores[:, : min(widths)], k)
            return gain(to, to)
        if same:
            to = ex.weakest(scores[: min(widths)], k)
            return gain(to, to)
        return gain(ex.weakest(scores, k), ex.weakest(of_giver.max() - of_giver, k))

    try:
        chosen = pick(receiver.scores, giver.scores)
        rows = receiver.scores.shape[:-1]
        drawn = [pick(*(torch.rand(*rows, w, generator=generator) for w in widths)) for _ in range(options.draws)]
    except NumericsError as e:
        return str(e).rstrip(".")
    return _Gain(chosen, torch.stack(drawn).mean(0), k)


def _results(
    features: Features,
    receiver: str,
    giver: str,
    gains: dict[tuple[str, str], _Gain | str],
    options: FusionGainOptions,
    level: float,
) -> Iterator[Result]:
    there, back = gains[receiver, giver], gains[giver, receiver]
    computed: tuple[tuple[Measure, Callable[[_Gain, _Gain], Tensor]], ...] = (
        (GAIN, lambda a, _: a.chosen),
        (RANDOM_GAIN, lambda a, _: a.random),
        (EXCESS, lambda a, _: a.chosen - a.random),
        (HARMONIC_MEAN, lambda a, b: ex.harmonic_mean(a.chosen, b.chosen)),
        (RANDOM_HARMONIC_MEAN, lambda a, b: ex.harmonic_mean(a.random, b.random)),
    )
    for measure, compute in computed:
        quantity = measure.fill(**_fields(options))
        mean = measure in (HARMONIC_MEAN, RANDOM_HARMONIC_MEAN)
        missing = next((g for g in ((there, back) if mean else (there,)) if isinstance(g, str)), None)
        if missing is not None:
            yield quantity.skipped(missing, modality=receiver, versus=giver)
            continue
        assert isinstance(there, _Gain)
        other = back if isinstance(back, _Gain) else there
        values = compute(there, other)
        control = (there.random, other.random) if measure in (GAIN, HARMONIC_MEAN) else None
        beside = _beside(float(values[0]), control, mean=mean)
        yield quantity.result(
            float(values[0]),
            interval(float(values[0]), values[1:].tolist(), level),
            modality=receiver,
            versus=giver,
            note="; ".join([f"k = {there.channels}", *beside, *_small(features, receiver, giver, options, mean=mean)]),
        )


def _beside(value: float, control: tuple[Tensor, Tensor] | None, *, mean: bool) -> list[str]:
    """The random control, wherever a gain is shown."""
    if control is None:
        return []
    random = float((ex.harmonic_mean(*control) if mean else control[0])[0])
    return [f"random channels {random:+.3g}{', which is as much or more' * (random >= value)}"]


def _fields(options: FusionGainOptions) -> dict[str, object]:
    """What stands in the definitions for each option."""
    return {
        "rank": RANKS[options.definition],
        "proportion": options.proportion,
        "score": SCORES[options.score],
        "selected": "in each example" if _in_each(options) else "once, on all examples",
        "exchanged": "replaced by" if options.blend == 1 else f"mixed with {options.blend:g} of",
        "pairing": PAIRINGS[options.pairing],
        "draws": options.draws,
        "control": CONTROL[options.pairing],
    }


def _small(features: Features, receiver: str, giver: str, options: FusionGainOptions, *, mean: bool) -> list[str]:
    """What few examples do to pooled ranks."""
    if options.definition != "pooled":
        return []
    about = (receiver, giver) if mean else (receiver,)
    few = {small_n(*features.pooled[m].shape): features.pooled[m].shape[1] for m in about}
    return [text for text in sorted(few, key=lambda text: few[text]) if text]
