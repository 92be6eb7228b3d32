"""Report: the contract every other command reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import Field, PrivateAttr, SerializerFunctionWrapHandler, model_serializer

from collapsekit.errors import ResultKeyError
from collapsekit.io.safe_text import quote, some
from collapsekit.report.agreement import (
    STATES,
    check_digest,
    check_interval,
    check_modality,
    check_names,
    check_results,
    check_subject,
    check_verdicts,
    credit_contradictions,
    metric_contradictions,
    verdict_differences,
)
from collapsekit.report.base import Contract, Interval, Number
from collapsekit.report.display import Library, curve_frame, plot_probe, result_frame
from collapsekit.report.lookup import ResultKey, completions, look_up, names_of, parts_of
from collapsekit.report.parts import (
    Categories,
    CategoryVerdict,
    Curve,
    Judged,
    ModalityState,
    ModalityVerdict,
    OverallState,
    Reference,
    ReportWarning,
    Result,
    Subject,
)
from collapsekit.report.rules.categories import category_contradictions
from collapsekit.report.rules.first import judge_states
from collapsekit.report.verdicts import FAILED, describe_state, first_words, judge, misstatement

if TYPE_CHECKING:
    import pandas
    import polars
    from matplotlib.figure import Figure


class Report(Contract):
    """subject + verdicts + results + settings; frozen; the same input and seed give the same bytes,
    ``environment`` (versions, device) and the digest over it aside."""

    collapsekit: str
    subject: Subject
    verdict: OverallState
    summary: str  # one sentence for the whole
    judged: Judged | None = Field(default=None, json_schema_extra={"since": 2})  # null: not told
    # By which verdicts follow from results (collapsekit/report/verdicts.py); null: the first.
    rules: Literal[1, 2] | None = Field(default=None, json_schema_extra={"since": 2})
    modalities: dict[str, ModalityVerdict]
    # Verdicts on each kind of examples, where the config names what says the kind (`data.category`); else it is not written.
    categories: Categories | None = Field(default=None, json_schema_extra={"since": 2})
    results: tuple[Result, ...]
    warnings: tuple[ReportWarning, ...] = Field(default=(), json_schema_extra={"since": 2})
    # Path of the config file used, relative to the working directory; None: not from a file.
    config: str | None = Field(default=None, json_schema_extra={"since": 2})
    settings: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    _records: bytes | None = PrivateAttr(None)

    @property
    def records(self) -> bytes | None:
        """What it says of each example (collapsekit.report.per_example), where it comes from ``diagnose``; not part of the
        JSON, nor of what makes two reports equal."""
        return self._records

    @model_serializer(mode="wrap")
    def _without_absent_categories(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if written.get("categories") is None:
            written.pop("categories", None)
        return written

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self.__dict__ == other.__dict__

    def with_records(self, data: bytes) -> Report:
        """Return the same report with its records."""
        copy = self.model_copy()
        copy._records = data
        return copy

    def find(self, name: str, modality: str | None = None, versus: str | None = None) -> Result | None:
        """Find one result.

        Args:
            name: its name.
            modality: that it is about; None for the whole.
            versus: the other modality, where it is about two.

        Returns:
            The result; None where there is none.
        """
        for r in self.results:
            if (r.name, r.modality, r.versus) == (name, modality, versus):
                return r
        return None

    def named(self, name: str) -> Iterator[Result]:
        """Return all results of that name, in report order."""
        return (r for r in self.results if r.name == name)

    def __getitem__(self, key: ResultKey) -> Result:
        """Return the result of that name: ``report["vif.mean"]``, ``report["reliance.shapley", "image"]``.

        One that was not measured is there too, and says why in ``skipped``. Raises ResultKeyError, which is a KeyError, with
        the names that are near or the modalities there are; :meth:`find` returns None instead.
        """
        return look_up(self.results, key)

    def __contains__(self, key: object) -> bool:
        """Whether there is a result of that name, or of that name, modality and other modality."""
        try:
            name, *of = parts_of(key)
        except ResultKeyError:
            return False
        return any(r.name == name and (r.modality, r.versus)[: len(of)] == tuple(of) for r in self.results)

    def names(self) -> Iterator[str]:
        """Return the name of every result, each once, in report order."""
        return names_of(self.results)

    def _ipython_key_completions_(self) -> list[str | tuple[str, str]]:
        return completions(self.results)

    @overload
    def to_frame(self, library: Literal["pandas"]) -> pandas.DataFrame: ...
    @overload
    def to_frame(self, library: Literal["polars"]) -> polars.DataFrame: ...
    @overload
    def to_frame(self, library: None = None) -> Any: ...
    def to_frame(self, library: Library | None = None) -> Any:
        """Make a table of its results, one row each.

        Args:
            library: ``pandas`` or ``polars``; default: pandas where it is installed, else polars.

        Returns:
            Its DataFrame, with the columns probe, name, modality, versus, value, lower, upper, unit, note, skipped,
            definition and source. What is not there is missing as the library has it.

        Raises:
            ConfigError: Where the library is not installed.
        """
        return result_frame(self, library)

    @overload
    def curves_to_frame(self, library: Literal["pandas"]) -> pandas.DataFrame: ...
    @overload
    def curves_to_frame(self, library: Literal["polars"]) -> polars.DataFrame: ...
    @overload
    def curves_to_frame(self, library: None = None) -> Any: ...
    def curves_to_frame(self, library: Library | None = None) -> Any:
        """Make a table of the curves of its results, one row a point.

        Args:
            library: As for :meth:`to_frame`.

        Returns:
            Its DataFrame, with the columns probe, name, modality, versus, x (a number) or category (a name), y, lower,
            upper, x_label and y_label.

        Raises:
            ConfigError: Where the library is not installed.
        """
        return curve_frame(self, library)

    def plot(self, name: str, *, wide: bool = True) -> Figure:
        """Draw what a probe found, as the HTML report shows it.

        Args:
            name: Of a probe (``rank_sweep``), or of a figure, as ``--figures`` writes them.
            wide: Panels side by side, 6.8 inches; else one below the other, 3.4 inches.

        Returns:
            A Matplotlib figure, which notebooks show and ``savefig`` writes.

        Raises:
            ConfigError: Where no probe or figure has that name, or the report lacks what it would show.
        """
        return plot_probe(self, name, wide=wide)

    def _gist(self) -> Iterator[str]:
        worst_first = sorted(self.modalities.items(), key=lambda item: _WORST_FIRST.index(item[1].verdict))
        each = [f"{m} {describe_state(v)}" for m, v in worst_first]
        yield self.verdict + ", partly judged" * (self.judged is not None and self.judged.extent == "partly")
        yield some(each)
        yield f"{len(self.results)} results on {self.subject.examples} examples of {self.subject.split}"

    def contradictions(self) -> Iterator[str]:
        """See :meth:`Contract.contradictions`."""
        return _contradictions(self)


def _contradictions(report: Report) -> Iterator[str]:
    who = report.subject
    yield from check_subject(who)
    yield from check_verdicts(report.verdict, {m: v.verdict for m, v in report.modalities.items()}, who.modalities)
    yield from check_results(report.results, who.modalities)
    for m, verdict in report.modalities.items():
        yield from _verdict(m, verdict, report)
    yield from credit_contradictions(report.results, who.modalities)
    yield from metric_contradictions(report.results, who.metric)
    yield from _judged_again(report)
    if report.categories is not None:
        yield from category_contradictions(report.categories, who, report.verdict, report.summary)
    yield from _remarks(report)
    yield from _settings(report)


def _verdict(modality: str, verdict: ModalityVerdict, report: Report) -> Iterator[str]:
    """One modality's numbers within their bounds, and what they were read from there to be read."""
    score, interval = verdict.score, verdict.interval
    what = f"the score of {quote(modality)}"
    for number in (score, *(interval or ())):
        if number is not None and not 0 <= number <= 1:
            yield f"{what} or an end of its interval is {number:.6g}, outside of 0 to 1"
    if score is None and interval is not None:
        yield f"{what} is missing, but its interval is there"
    yield from check_interval(what, score, interval)
    for cost in (verdict.costs_now, *verdict.costs_if_missing.values()):
        if cost is not None and cost < 0:
            yield f"a cost of not using {quote(modality)} is {cost:.6g}, below 0"
    for other in verdict.costs_if_missing:
        yield from check_modality(f"costs_if_missing of {quote(modality)}", other, report.subject.modalities)
        if other == modality:
            yield f"costs_if_missing of {quote(modality)} names itself"
    yield from check_names(f"the evidence about {quote(modality)}", verdict.evidence)
    there = {r.name for r in report.results if r.modality in (modality, None) and r.value is not None}
    gone = next((name for name in verdict.evidence if name not in there), None)
    if gone is not None:
        yield f"the verdict about {quote(modality)} names {quote(gone)} as evidence, but the report has no value of it"


_WORST_FIRST = ("collapsed", "underused", "inconclusive", "uninformative", "used")


def _judged_again(report: Report) -> Iterator[str]:
    """Verdicts follow from results alone, by the rules that the report names. Words may differ, as another release may have
    put them otherwise; states and numbers may not."""
    who = report.subject
    right = judge(report.results, who.modalities, who.metric)
    if report.rules in (None, 1):
        yield from _by_the_first_rules(report, right.each)
        return
    for m, verdict in right.each.items():
        yield from verdict_differences(m, report.modalities[m], verdict)
    if report.verdict != right.overall:
        yield f"the report's verdict is {report.verdict}, but its results give {right.overall}"
    if report.judged != right.judged:
        yield f"`judged` is {_shown(report.judged)}, but the results give {_shown(right.judged)}"
    yield from _claims(report, right.summary, report.modalities)


def _by_the_first_rules(report: Report, each: Mapping[str, ModalityVerdict]) -> Iterator[str]:
    overall, states, words = judge_states(report.results, report.subject.modalities)
    for m, state in states.items():
        nothing_more = each[m].model_copy(update={**dict.fromkeys(STATES), "verdict": state})
        yield from verdict_differences(m, report.modalities[m], nothing_more)
    if report.verdict != overall:
        yield f"the report's verdict is {report.verdict}, but the verdicts of its modalities give {overall}"
    yield from _claims(report, first_words(overall, states, words), report.modalities)


def _claims(report: Report, right: str, each: Mapping[str, ModalityVerdict]) -> Iterator[str]:
    claim = misstatement(report.summary, right, each)
    if claim is not None:
        yield f"the summary says {quote(claim)}, which does not follow from the verdicts"


def _shown(value: Any) -> str:
    return quote(str(value))


def _remarks(report: Report) -> Iterator[str]:
    """What is said beside the numbers."""
    if any(not (w.name.strip() and w.sentence.strip()) for w in report.warnings):
        yield "a warning has no name or says nothing"
    failed = sum(w.name == FAILED for w in report.warnings)
    if failed > len({r.probe for r in report.results if r.error is not None}):
        yield "a warning says that an error ended a probe, and no result has that error"
    judged = report.judged
    if judged is not None and (judged.extent == "fully") == bool(judged.missing):
        yield f"`judged` says {judged.extent}, but lists {len(judged.missing)} things as missing"
    if judged is not None and any(not what.strip() for what in judged.missing):
        yield "what is missing for a full judgement has no name"
    if report.config is not None and not report.config.strip():
        yield "the path of its config is empty"
    if report.subject.engine is not None and not report.subject.engine.strip():
        yield "its engine has no name"


def _settings(report: Report) -> Iterator[str]:
    """Settings that the gate reads, and those that the subject says too."""
    settings, who = report.settings, report.subject
    for key, right in (("split", who.split), ("seed", who.seed)):
        if settings.get(key, right) != right or isinstance(settings.get(key), bool):
            yield f"its settings have {key} {_shown(settings[key])}, and its subject {_shown(right)}"
    limit = settings.get("limit")
    if limit is not None and (type(limit) is not int or limit < who.examples):
        yield f"its settings have a limit of {_shown(limit)}, and its subject {who.examples} examples"
    level = settings.get("level")
    if level is not None and not (type(level) is float and 0 < level < 1):
        yield f"its settings have a level of {_shown(level)}, no part of 1"
    seed = settings.get("training_seed")
    if seed is not None and type(seed) is not int:
        yield f"its training_seed is {_shown(seed)}, no whole number"
    for key in ("examples", "records"):
        if settings.get(key) is not None:
            yield from check_digest(f"the digest of the {key} in its settings", settings[key])
    yield from _shapes(settings)


def _shapes(settings: Mapping[str, Any]) -> Iterator[str]:
    """What is looked up in settings is a mapping, and rules of the gate are texts; else what reads them would fail."""
    config = settings.get("config", {})
    inner = config if isinstance(config, Mapping) else {}
    each = inner.get("modalities", {})
    rules = inner.get("gate", {})
    mappings = {"probes": settings.get("probes", {}), "config": config, "config.modalities": each, "config.gate": rules}
    mappings |= {f"config.modalities.{m}": value for m, value in (each.items() if isinstance(each, Mapping) else ())}
    for name, value in mappings.items():
        if not isinstance(value, Mapping):
            yield f"its settings have {quote(name)} {_shown(value)}, expected a mapping"
    asked = rules.get("require") if isinstance(rules, Mapping) else None
    if asked is not None and not (isinstance(asked, list | tuple) and all(isinstance(rule, str) for rule in asked)):
        yield f"the gate's rules in its settings are {_shown(asked)}, expected a list of texts"


__all__ = [
    "Categories",
    "CategoryVerdict",
    "Curve",
    "Interval",
    "Judged",
    "ModalityState",
    "ModalityVerdict",
    "Number",
    "OverallState",
    "Reference",
    "Report",
    "ReportWarning",
    "Result",
    "Subject",
]
