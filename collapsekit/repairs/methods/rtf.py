"""rtf: rank-enhancing channel exchange. Behind every receiving encoder its weakest channels become blends with channels
of another's, and the whole model is trained on with that in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from collapsekit.adapters.inserts import ChannelExchange, posts_of
from collapsekit.context import Options
from collapsekit.errors import ConfigError, NumericsError, did_you_mean
from collapsekit.io.transfer import to_cpu
from collapsekit.registry import repair_method
from collapsekit.repairs.ingredients.channels import Score, features_of, layouts_of, pooled, scores_of
from collapsekit.repairs.ingredients.masking import DROP, new_fusion
from collapsekit.repairs.ingredients.reinit import WHETHER, Fresh, begin_fresh, need_factory
from collapsekit.repairs.ingredients.warm_up import WARM, Warm, warm_up
from collapsekit.repairs.training.job import CHUNK, Job, Stage
from collapsekit.report.diagnosis import Result
from collapsekit.stats.linalg import exchange as ex
from collapsekit.stats.linalg.ranks import small_n
from collapsekit.stats.linalg.spectrum import effective_rank, singular_values_svd

SOURCE = "Kim et al. 2025, Theorem 3.1 and Figure 5"
NOVEL = 1e-6  # share of a channel's norm beyond which it is not rounding


class RtfOptions(Options):
    """Channel exchange."""

    proportion: float = Field(0.3, gt=0, le=1, description="share of a receiver's channels that are blended")
    score: Score = Field("energy", description="by which its weakest channels are chosen")
    select: Literal["auto", "example", "dataset"] = Field(
        "auto", description="whether they are chosen in each example, as published, or once; auto: of tokens in each"
    )
    pairing: Literal["same", "strongest"] = Field(
        "same", description="which of the giver's channels they get, where widths agree"
    )
    blend: float = Field(0.3, gt=0, lt=1, description="α to begin with")
    receivers: Literal["weak", "all"] = Field("all", description="the modalities to repair, or every one")
    giver: str | None = Field(None, description="who gives; by default the one of the highest credit among the others")
    fresh_fusion: Fresh = Field("auto", description=WHETHER.format("collapsed or underused"))
    drop: float = Field(0.1, ge=0, lt=1, description=DROP)
    warm_up: Warm = Field("auto", description=WARM)

    def check_modalities(self, known: Sequence[str]) -> None:
        if self.giver is not None and self.giver not in known:
            raise ConfigError(
                f"rtf.giver names {self.giver!r}{did_you_mean(self.giver, known)}: known are {', '.join(known)}."
            )


@repair_method(
    "rtf",
    summary="blends each modality's weakest channels with channels of another, at a learned share",
    definition=(
        "The `proportion` of a modality's channels that say least by `score` each become (1 - α)·own + α·other, the other a "
        "channel of the modality that earns most among the rest. They are chosen in each example, where it has several "
        "tokens or positions, else once, on training examples (`select`), and α is learned, one a channel, from `blend`. "
        "The whole model is trained with that on the task's loss; the epoch of the least held-out loss is kept. Where the "
        "fusion is new, a modality of an example is zeros now and then (`drop`). Before all, encoders that never learned "
        "are trained alone (`warm_up`)."
    ),
    source="Kim et al. 2025 (Rank-enhancing Token Fuser)",
    options=RtfOptions,
)
def rtf(job: Job) -> Iterator[Stage]:
    """Yield the stages: warm-up of encoders where it is due, then the model with the channel exchange."""
    options = job.own(RtfOptions)
    givers = givers_of(job, options)
    _need_exchangeable(job)
    if options.fresh_fusion is True:
        need_factory(job, "rtf")  # said before the encoders are trained
    before = {m: pooled(job, m, x) for m, x in features_of(job).items()}
    yield from warm_up(job, "rtf", options.warm_up)
    features = features_of(job)
    made = records(job, options, givers, features)  # which channels say least: to the fusion as it was
    del features
    renewed = begin_fresh(job, "rtf", options.fresh_fusion, (*job.ignored, *job.underused))
    job.adapter.insert(made)
    _mix(job)
    _need_reached(job, givers)
    own = [p for post in _posts(job).values() for p in post.parameters() if p.numel()]
    known = {id(p) for p in job.trainable()}
    inserted = [p for p in own if id(p) not in known]  # trained, whatever is frozen
    yield new_fusion(job, "channel exchange", [*job.trainable(), *inserted], options.drop if renewed else 0.0)
    job.findings.extend(_told(job, givers, before))


def givers_of(job: Job, options: RtfOptions) -> dict[str, str]:
    """Choose who gives to each receiving modality. Raises ConfigError for a giver that is none."""
    modalities, named = job.adapter.modalities, options.giver
    options.check_modalities(modalities)
    receivers = [m for m in modalities if options.receivers == "all" or m in job.weak]
    return {
        m: named
        if named is not None and named != m
        else max((o for o in modalities if o != m), key=job.credit.__getitem__)
        for m in receivers
    }


# ---- which channels


def records(
    job: Job, options: RtfOptions, givers: Mapping[str, str], features: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Describe what to insert behind every encoder, so that each runs once; who gets nothing receives no channels.

    Args:
        job: The repair's job.
        options: Which channels are exchanged, how many, and how they are paired and blended.
        givers: Who gives to each receiving modality.
        features: Features (n, ..., c) of all n training examples, by modality.

    Returns:
        A record for each modality.
    """
    scores, made, layouts = scores_of(job, features, options.score), [], layouts_of(job)
    for m, x in features.items():
        section, width = job.adapter.config.modalities[m], x.shape[-1]
        giver = givers.get(m, next(o for o in features if o != m))
        to = source = torch.empty(0, dtype=torch.long)
        each = None
        if m in givers and _in_each(job, options, m, x):
            to = source = torch.arange(width)
            each = ex.exchanged_count(options.proportion, width)
        elif m in givers:
            to = source = ex.weakest(scores[m], ex.exchanged_count(options.proportion, width))
            if options.pairing == "strongest" and features[giver].shape[-1] == width:
                source = ex.weakest(scores[giver].max() - scores[giver], len(to))
        made.append(
            {
                "kind": "exchange",
                "modality": m,
                "path": section.encoder,
                "part": section.select,
                "channels": layouts[m],
                "features": width,
                "giver": giver,
                "given": features[giver].shape[-1],
                "to": tuple(to.tolist()),
                "source": tuple(source.tolist()),
                "each": each,
                "blend": options.blend,
            }
        )
    return made


def _in_each(job: Job, options: RtfOptions, modality: str, features: Tensor) -> bool:
    """Whether a modality's channels are chosen in each example. Raises ConfigError where that is asked for and cannot be."""
    reasons = (
        (features.ndim < 3 or features[0, ..., 0].numel() < 2, f"{modality} has one vector an example"),
        (
            job.adapter.config.modalities[modality].mask is not None,
            f"{modality} has a mask, which the exported model is not given",
        ),
        (options.score not in ("energy", "std"), f"rtf.score {options.score} is one number for all examples"),
        (options.pairing != "same", "rtf.pairing strongest is one order for all examples"),
    )
    reason = next((text for holds, text in reasons if holds), None)
    if reason is not None and options.select == "example":
        raise ConfigError(f"rtf.select is example, but {reason}: use rtf.select=dataset, or auto.")
    return options.select != "dataset" and reason is None


# ---- what is inserted


def _posts(job: Job) -> dict[str, ChannelExchange]:
    return {m: post.insert for m, post in posts_of(job.adapter.model, "exchange").items()}  # type: ignore[misc]


def _mix(job: Job) -> None:
    """Where widths differ, let the map between channels begin as random directions of the giver's, each of norm 1 and at
    right angles as far as there are so many. A fit of the channel itself would give it what it says already, and a dead
    one nothing."""
    for made in _posts(job).values():
        if made.project is not None:
            directions = torch.empty(made.project.weight.shape)
            nn.init.orthogonal_(directions, generator=torch.Generator().manual_seed(job.seed))
            with torch.no_grad():
                made.project.weight.copy_(nn.functional.normalize(directions, dim=1))
                made.project.bias.zero_()


def _need_exchangeable(job: Job) -> None:
    """Raises ConfigError where nothing can stand behind the encoders."""
    job.adapter.need_encoders()
    if posts_of(job.adapter.model, "exchange"):
        raise ConfigError("this model has exchanged channels already: repair the model from before that.")


def _need_reached(job: Job, givers: Mapping[str, str]) -> None:
    """Raises ConfigError where a run of the model leaves the exchange out."""
    reached: list[nn.Module] = []
    inserted = [_posts(job)[m] for m in givers]
    handles = [made.register_forward_hook(lambda module, *_: reached.append(module)) for made in inserted]
    try:
        with torch.no_grad():
            job.adapter.run_live(job.batch(job.at.fit[:2]))
    finally:
        for handle in handles:
            handle.remove()
    if any(made not in reached for made in inserted):
        raise ConfigError(
            "no channels were exchanged in a run of the model: rtf needs a forward of the model itself that calls every "
            "encoder once; a Python adapter has to call the model, not its parts."
        )


# ---- what is noted down


@dataclass(frozen=True)
class _After:
    """Of one receiver in the repaired model, pooled, by training examples: its own channels, those given, the blend."""

    own: Tensor
    given: Tensor
    blended: Tensor
    to: Tensor  # which of them


ERANK = "effective rank (exp of the entropy of σ/Σσ) of the modality's pooled features, centred, over training examples"
GAINS = "harmonic mean of rtf.erank_after - rtf.erank_before of receiver and giver, 0 where one is not positive"
CONDITIONS = {
    "erank_own": f"{ERANK}, after training, before the exchange",
    "sigma_gap": "δ_k = σ_k - σ_(k+1) at k = ⌊effective rank⌋ of the receiver's pooled features X, centred, after training, "
    "before the exchange",
    "relative_gap": "rtf.sigma_gap over σ_1",
    "perturbation": "‖X' - X‖₂ over rtf.sigma_gap, X' being X with its channels blended; under 0.5 the top k directions "
    "stay the top k (Weyl) and turn by an angle whose sine is under 1 (Wedin)",
    "novelty": "share of a given channel's norm, pooled and centred, outside the span of the top k left singular vectors of "
    "X; mean over channels",
}


def _blended(job: Job, givers: Mapping[str, str], features: Mapping[str, Tensor]) -> dict[str, _After]:
    out = {}
    for m in givers:
        made, parts = _posts(job)[m], []
        for rows in torch.arange(len(features[m])).split(CHUNK):
            own, other = (features[o][rows].to(job.adapter.device) for o in (m, made.giver))
            with torch.no_grad():
                parts.append(to_cpu((made.given(own, other), made(own, other))))
        given, blended = (torch.cat(held) for held in zip(*parts, strict=True))
        x, y, mixed = (pooled(job, m, held) for held in (features[m], given, blended))
        out[m] = _After(x, y, mixed, made.receiving.cpu())
    return out


def _told(job: Job, givers: Mapping[str, str], before: Mapping[str, Tensor]) -> Iterator[Result]:
    features = features_of(job)
    after = _blended(job, givers, features)
    late = {m: after[m].blended if m in after else pooled(job, m, x) for m, x in features.items()}
    ranks = {m: (_rank(before[m]), _rank(late[m])) for m in before}
    for m, (early, now) in ranks.items():
        n, d = before[m].shape
        unit = {"unit": "dimensions", "note": small_n(n, d)}
        yield _result("erank_before", m, early, f"{ERANK}, before training", **unit)
        yield _result("erank_after", m, now, f"{ERANK}, as it enters the fusion, after training", **unit)
    for m, giver in givers.items():
        yield _gains(m, giver, ranks)
        yield from _conditions(m, giver, after[m], ranks[m][1])
        alpha = _posts(job)[m].alpha().detach()
        spread = f"{float(alpha.min()):.3g} to {float(alpha.max()):.3g}, {len(alpha)} channels"
        yield _result("blend", m, float(alpha.mean()), "mean of α over channels, learned", versus=giver, note=spread)


def _rank(x: Tensor) -> float | str:
    """The effective rank, or why there is none."""
    n, d = x.shape
    if n < 2 * d:
        return f"needs at least 2·d = {2 * d} examples for {d} features, found {n}"
    try:
        return effective_rank(singular_values_svd(x))
    except NumericsError as e:
        return str(e).rstrip(".")


def _result(name: str, modality: str, value: float | str, definition: str, **more: str | None) -> Result:
    """A number, or why there is none."""
    source = SOURCE if name in ("erank_before", "erank_after", "harmonic_mean", "sigma_gap") else f"after {SOURCE}"
    had: dict[str, Any] = {"skipped": value} if isinstance(value, str) else {"value": value, **more}
    had["versus"] = more.get("versus")
    return Result(name=f"rtf.{name}", probe="rtf", modality=modality, definition=definition, source=source, **had)


def _gains(receiver: str, giver: str, ranks: Mapping[str, tuple[float | str, float | str]]) -> Result:
    gains = []
    for m in (receiver, giver):
        early, now = ranks[m]
        if isinstance(early, str) or isinstance(now, str):
            reason = early if isinstance(early, str) else str(now)
            return _result("harmonic_mean", receiver, f"{m}: {reason}", GAINS, versus=giver)
        gains.append(now - early)
    value = float(ex.harmonic_mean(*(torch.tensor(g, dtype=torch.float64) for g in gains)))
    note = f"gains: {receiver} {gains[0]:+.3g}, {giver} {gains[1]:+.3g}; training alone moves ranks too"
    return _result("harmonic_mean", receiver, value, GAINS, versus=giver, unit="dimensions", note=note)


def _conditions(receiver: str, giver: str, after: _After, blended: float | str) -> Iterator[Result]:
    """Theorem 3.1's conditions, as we read them, in the repaired model, and whether what it concludes is so."""
    own, note = _rank(after.own), None
    values: dict[str, float | str] = dict.fromkeys(CONDITIONS, own)
    if not isinstance(own, str):
        found = ex.injection(after.own, after.given, after.blended, after.to)
        values |= {
            "sigma_gap": found.gap,
            "relative_gap": found.gap / found.top,
            "novelty": float(found.novelty.mean()),
        }
        values["perturbation"] = found.norm / found.gap if found.gap > 0 else "the singular values have no gap at k"
        gaps, novel = int((2 * found.norms < found.gap).sum()), int((found.novelty > NOVEL).sum())
        together = "holds" if 2 * found.norm < found.gap else "does not hold"
        note = (
            f"k = {found.k}; alone, {gaps} of {len(found.norms)} channels change X by under δ_k / 2, and {novel} are novel; "
            f"for all at once the gap condition {together}"
        )
        if not isinstance(blended, str):
            how = "raises" if blended > own else "does not raise"
            note += f"; the exchange {how} the effective rank ({blended - own:+.3g})"
    for name, value in values.items():
        unit = "dimensions" if name == "erank_own" else None
        yield _result(name, receiver, value, CONDITIONS[name], versus=giver, unit=unit, note=note)
