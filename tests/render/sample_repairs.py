"""Reports of repairs over :mod:`sample_reports`, for any number of modalities with any names."""

from __future__ import annotations

from functools import cache
from typing import Any

from sample_reports import make_report, verdicts_of

from collapsekit.report.diagnosis import Curve, Report, Result
from collapsekit.report.repair import BasisInsert, Check, ExchangeInsert, LossCurve, RepairReport
from collapsekit.report.verdicts import overall_of
from collapsekit.stats.use import use

LOSSES = {"reliance.shapley", "reliance.leave_one_out", "reliance.subsets"}  # which move as the losses do
USES = {"utilisation.credit", "utilisation.ratio", "utilisation.score"}
DUE = "utilisation.reference_credit"
DEFINITION = "Made for a test, as a number <of> its & own."


def _result(name: str, value: float, spread: float = 0.02, **more: Any) -> Result:
    probe = name.split(".")[0]
    interval = (value - spread, value + spread)
    return Result(
        name=name, probe=probe, value=value, interval=interval, definition=DEFINITION, source="A test", **more
    )


def _more(names: tuple[str, ...], shift: float) -> list[Result]:
    """Results that the reports of :mod:`sample_reports` have none of: scores, missing modalities and noise."""
    found = []
    for i, n in enumerate(names):
        levels = (0.0, 0.5, 1.0)
        line = Curve(
            x=levels, y=tuple(0.9 - 0.1 * i * x - shift * x / 9 for x in levels), x_label="level", y_label="accuracy"
        )
        found.append(_result("noise.feature", 0.95 - 0.1 * i - shift / 9, modality=n, curve=line, unit="ratio"))
        found.append(_result("missing.drop", 0.3 + shift / 5, modality=n, unit="accuracy"))
    rates = (0.1, 0.5, 0.9)
    for fill in ("zeros", "neighbour"):
        line = Curve(
            x=rates, y=tuple(0.8 - x / 2 + shift / 7 for x in rates), x_label="rate missing", y_label="accuracy"
        )
        found.append(_result(f"missing.rates.{fill}", 0.5 + shift / 7, curve=line, unit="accuracy"))
        found.append(_result(f"missing.rates_loss.{fill}", 1.5 + shift / 3, unit="nats"))
    return found


def _changed(report: Report, names: tuple[str, ...], shift: float) -> Report:
    """``report`` as training might leave it: every number moved by a part of itself, scores of the last most."""

    def moved(r: Result) -> Result:
        way = -1 if r.name.endswith("loss") or r.name in LOSSES else 1
        by = 1 + way * shift / 5
        curve = r.curve
        if curve is not None:
            curve = curve.model_copy(update={"y": tuple(y * by for y in curve.y), "lower": None, "upper": None})
        if r.value is None:
            return r.model_copy(update={"curve": curve})
        ends = None if r.interval is None else tuple(sorted(e * by for e in r.interval))
        return r.model_copy(update={"value": r.value * by, "interval": ends, "curve": curve})

    def judged(r: Result) -> Result:
        """The numbers that verdicts are read from keep their bounds."""
        if r.modality == names[-1] and r.name in USES and shift:  # the last takes up this part of what is due to it
            due = next(x.value for x in report.results if (x.name, x.modality) == (DUE, r.modality))
            prior = next(x.value for x in report.results if x.name == "utilisation.prior_loss")
            assert due is not None
            assert prior is not None
            value = {"credit": shift * due, "ratio": shift, "score": 1 - use(shift * due, due, prior)}[r.name[12:]]
            return r.model_copy(update={"value": value, "interval": (value - 0.02, value + 0.02)})
        return r if r.name in (*USES, DUE, "utilisation.prior_loss") else moved(r)

    results = (*map(judged, report.results), *_more(names, shift))
    verdicts = verdicts_of(results, names)
    overall = overall_of(verdicts)
    summary = report.summary if overall == "collapsed" else f"{names[-1]} came back."
    changes = {"results": results, "modalities": verdicts, "verdict": overall, "summary": summary}
    return report.model_copy(update=changes)


def make_repair(
    names: tuple[str, ...] = ("image", "audio"), *, accepted: bool = True, control: bool = True, **changes: Any
) -> RepairReport:
    """A repair of the last of ``names``; its after has a higher metric than before and a lower one than the control."""
    whole = _whole(names, accepted, control)
    return RepairReport(**{**dict(whole), **changes}) if changes else whole


@cache
def _whole(names: tuple[str, ...], accepted: bool, control: bool) -> RepairReport:
    base, last = make_report(names), names[-1]
    checks = (
        Check(
            name="metric",
            passed=accepted,
            before=0.71,
            after=0.74 if accepted else 0.61,
            difference=0.03 if accepted else -0.1,
            interval=(0.01, 0.05) if accepted else (-0.12, -0.08),
            definition="accuracy falls by no more than 0.01",
            sentence="Accuracy rose by 0.03." if accepted else f"Accuracy fell by 0.1 with {last} repaired.",
        ),
        Check(
            name=f"score.{last}",
            passed=True,
            before=0.97,
            after=0.37,
            difference=-0.6,
            interval=(-0.65, -0.5),
            definition="the score falls",
            sentence=f"The score of {last} fell from 0.97 to 0.37.",
        ),
    )
    fields: dict[str, Any] = {
        "collapsekit": "0.1.0",
        "method": ("reallocate", "finetune"),
        "summary": f"{last} is used again at 0.37 of a score, {'and' if accepted else 'but'} accuracy changed.",
        "repaired": (last,),
        "base": "runs/avmnist/ckpt.pt",
        "base_sha256": "0f" * 32,
        "accepted": accepted,
        "exported": accepted,
        "checks": checks,
        "before": _changed(base, names, 0.0),
        "after": _changed(base, names, 0.6),
        "control": _changed(base, names, 0.3) if control else None,
        "losses": (
            _losses("reallocate", "heads", 6, note="the learning rate was halved at epoch 3"),
            _losses("finetune", "everything", 12),
            *([_losses("control", "everything", 12, down=0.93)] if control else []),
        ),
        "findings": _findings(names),
        "structure": _structure(names),
        "definitions": {"reallocate": "Moves neurons to <the> modality.", "finetune": "Trains everything."},
        "settings": {"command": "collapsekit repair runs/avmnist/ckpt.pt", "seed": 0},
        "environment": {"device": "cpu"},
    }
    return RepairReport(**fields)


def _findings(names: tuple[str, ...]) -> tuple[Result, ...]:
    """Of each modality, of two and of none; one could not be had."""
    alike = [
        _result(
            "substitution.similarity", 1.0 - i / 7, modality=n, versus=names[0], note=f"in its place *stands* <{i}>"
        )
        for i, n in enumerate(names)
    ]
    told = Result(
        name="ebr.discriminator_loss",
        probe="ebr",
        value=0.6543,
        unit="nats",
        definition="Told <apart>.",
        source="B & C",
    )
    gone = Result(name="ebr.rank", probe="ebr", definition=DEFINITION, source="A test", skipped="no <rank> was found")
    return (*alike, told, gone)


def _structure(names: tuple[str, ...]) -> tuple[BasisInsert | ExchangeInsert, ...]:
    """Heads behind every encoder, and what the last gets of the first."""
    heads = [
        BasisInsert(modality=n, path=f"encoders.{n}", features=17 + i, latent=40, hidden=81)
        for i, n in enumerate(names)
    ]
    width = 16 + len(names)
    blend = ExchangeInsert(
        modality=names[-1],
        path=f"encoders.{names[-1]}",
        features=width,
        giver=names[0],
        given=17,
        to=(0, 3, 4),
        source=(1, 2, 0),
        blend=0.25,
    )
    return (*heads, blend)


def _losses(method: str, stage: str, epochs: int, down: float = 0.87, note: str | None = None) -> LossCurve:
    held = [1.2 * down**e + (0.15 * (e - 6) if e > 6 else 0) for e in range(epochs + 1)]
    training: list[float | None] = [None, *(1.1 * down**e for e in range(1, epochs + 1))]
    kept = held.index(min(held))
    return LossCurve(
        method=method,
        stage=stage,
        epochs=tuple(range(epochs + 1)),
        training=tuple(training),
        held=tuple(held),
        kept=kept,
        note=note,
    )
