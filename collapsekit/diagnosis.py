"""diagnose(): the only place that knows the whole order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from collapsekit import registry
from collapsekit.adapters.build import preserve_rng_state
from collapsekit.checkpoint.read import Checkpoint
from collapsekit.config.discovery import config_line, find_config, path_from_here
from collapsekit.config.keywords import DiagnoseKeywords, takes
from collapsekit.config.load import check_config, load_config
from collapsekit.config.options import DiagnoseOptions
from collapsekit.config.schema import Config
from collapsekit.context import Options, Progress
from collapsekit.data.base import Source
from collapsekit.data.first_examples import FirstExamples
from collapsekit.data.memory import with_data
from collapsekit.distributed.process_group import current
from collapsekit.errors import NothingEvaluatedError, NumericsError
from collapsekit.features.categories import Category
from collapsekit.features.extraction import Extraction, repeated
from collapsekit.features.features import Features
from collapsekit.features.summing import least_read
from collapsekit.games.per_example import records_of
from collapsekit.io.hub import name_of
from collapsekit.probes.finished import FinishedProbes
from collapsekit.probes.runner import check_once, run_probe, warnings_of
from collapsekit.readouts.cache import cache_folder, private_folder
from collapsekit.registry import ProbeSpec, Reads
from collapsekit.report.cost import CostReport
from collapsekit.report.diagnosis import Categories, CategoryVerdict, Reference, Report, ReportWarning, Result, Subject
from collapsekit.report.per_example import digest
from collapsekit.report.rules.categories import judge_category
from collapsekit.report.rules.copycat import find_replay
from collapsekit.report.verdicts import DECIDING, judge
from collapsekit.session.category import CategorySession
from collapsekit.session.checks import check_call, check_diagnosis, check_modalities, splits_read
from collapsekit.session.command_line import command_line, recorded
from collapsekit.session.costs.estimate import estimate_costs
from collapsekit.session.costs.pricing import PricedPreview
from collapsekit.session.costs.reckoning import ENDING, reckon_probes
from collapsekit.session.costs.timing import Clock
from collapsekit.session.layouts import settle_layouts
from collapsekit.session.opening import OpenModel, open_model
from collapsekit.session.progress_display import ProgressChoice, shown_progress
from collapsekit.session.session import Session
from collapsekit.session.subject import environment, process_warnings, subject_of
from collapsekit.user_code.exits import no_exit
from collapsekit.user_code.process_state import preserve_process_state
from collapsekit.version import __version__

SUBSETS, CONTROLS = "growing", "controls"  # the probes that --subsets adds, and --no-controls leaves out
JUDGING = "verdicts and files"  # the stage after the probes
FIRST = 64  # examples, at least, that an estimate looks at


@dataclass(frozen=True)
class Kept:
    """Where finished probes are kept until the diagnosis ends (None: nowhere), and whether they are taken up from there."""

    folder: Path | None = None
    resume: bool = False


NOWHERE = Kept()


@takes(DiagnoseOptions)
@no_exit()
@preserve_rng_state()
@preserve_process_state()
def diagnose(
    checkpoint: str | Path | None = None,
    *,
    config: str | Path | Mapping[str, Any] | Config | None = None,
    model: nn.Module | None = None,
    data: Mapping[str, Any] | str | Path | None = None,
    progress: ProgressChoice = None,
    unfinished: str | Path | None = None,
    resume: bool = False,
    **keywords: Unpack[DiagnoseKeywords],
) -> Report:
    """Diagnose a checkpoint or a live model: which modalities it ignores, what that costs, and why.

    Nothing is written but the cache of trained baselines, and what ``unfinished`` names. A live model is given back as it
    was found.

    Args:
        checkpoint: The file or folder of weights; default: the config's model.checkpoint.
        config: The path of a config, a mapping of its keys, or a Config; default: the nearest file, as commands find it.
        model: A live module in the place of a checkpoint; with one, it gets the checkpoint's weights.
        data: In the place of the config's data.path or data.factory: splits held in memory (each a mapping of names to
            tensors with the examples along the first axis, a DataLoader, a Dataset or another iterable of dict batches), or
            the path of a file.
        split: The split to diagnose; default: test, else val.
        probes: The probes to run; default: all that run by default.
        skip: Probes to leave out.
        options: Option values by probe, as ``--set`` takes them.
        profile: ``quick``, ``standard`` or ``full``: how much may be trained.
        device: Where the model runs.
        seed: Of everything drawn or trained.
        limit: At most so many examples a split.
        training_seed: That the model was trained with, by which the gate tells runs apart; default: the config's.
        controls: Also ask models that use nothing (the probe ``controls``; in quick only where it is named).
        subsets: Also run the probe ``growing``, which reads the models of the config's ``subsets`` section.
        plugins: Python files with probes or adapters.
        trust_pickle: "sha256:DIGEST" lets that very checkpoint be unpickled, which runs its code.
        progress: Where to say how far it is; default: in a notebook a bar, elsewhere nowhere. False: nowhere.
        unfinished: A folder that keeps finished probes until the diagnosis ends; default: none is kept.
        resume: Take finished probes up from that folder, where nothing that they rest on has changed.
        cache: The folder of trained baselines; default: the user's cache folder.
        memory: Bytes of inputs and features kept in memory, which changes no result; default: as ``--memory`` has it.

    Returns:
        The report: subject, results and a verdict for every modality.

    Raises:
        CollapsekitError: For whatever the caller can mend; its class says which kind (collapsekit.ext has all of them).

    Example:
        >>> import collapsekit
        >>> report = collapsekit.diagnose("ckpt.pt", config="collapsekit.yaml", profile="quick")
        >>> report.modalities["audio"].verdict
        'collapsed'
    """
    options = DiagnoseOptions.make(**keywords)
    with shown_progress(progress) as shown:
        check_call(options, checkpoint=checkpoint, config=config, progress=shown, model=model)
        settled, source = with_data(settle_config(config, checkpoint, shown), data)
        chosen, all_options = _checked(settled, source, options, model)
        with open_model(settled, checkpoint, options, model=model, source=source, progress=shown) as subject:
            kept = Kept(None if unfinished is None else Path(unfinished), resume)
            typed = model is None and data is None
            reads = least_read([spec.reads for spec in chosen])
            return report_on(subject, options, chosen, all_options, typed=typed, kept=kept, reads=reads)


@takes(DiagnoseOptions)
@no_exit()
@preserve_rng_state()
@preserve_process_state()
def estimate_cost(
    checkpoint: str | Path | None = None,
    *,
    config: str | Path | Mapping[str, Any] | Config | None = None,
    model: nn.Module | None = None,
    data: Mapping[str, Any] | str | Path | None = None,
    progress: ProgressChoice = None,
    clock: Clock = time.perf_counter,
    **keywords: Unpack[DiagnoseKeywords],
) -> CostReport:
    """Estimate what ``diagnose`` of the same arguments would cost: nothing is run but the first examples of each split.

    Nothing is written. A live model is given back as it was found. Data that can be read once only are used up.

    Args:
        checkpoint: As for ``diagnose``, like all that is not below.
        config: As there.
        model: As there.
        data: As there.
        progress: As there.
        clock: What time it is, in seconds.
        keywords: The options of ``diagnose``.

    Returns:
        By probe what is run and trained, seconds on this machine, and memory.

    Raises:
        CollapsekitError: For whatever the caller can mend.
    """
    options = DiagnoseOptions.make(**keywords)
    with shown_progress(progress) as shown:
        check_call(options, checkpoint=checkpoint, config=config, progress=shown, model=model)
        settled, source = with_data(settle_config(config, checkpoint, shown), data)
        chosen, all_options = _checked(settled, source, options, model)
        few = max(FIRST, settled.data.batch_size)
        trial = options.model_copy(update={"limit": few})
        with open_model(settled, checkpoint, trial, model=model, source=source, progress=shown) as subject:
            adapter, extraction = subject.adapter, subject.extraction
            check_modalities(all_options.values(), settled, adapter.modalities)
            where = _split(adapter.source, options.split)
            adapter.source = first = FirstExamples(adapter.source, few, options.limit, shown)
            with subject.measuring():
                extraction = Extraction(adapter, extraction.reader, shown, extraction.storage, varied=False)
                extraction.reader.of(where)
                began = clock()
                features = extraction.features(where)
                opened = clock() - began
                session = Session(adapter, features, options=all_options, seed=options.seed, profile=options.profile)
                preview = PricedPreview(session, _counter(first, features))
                return estimate_costs(preview, _in_turn(chosen), opened, clock)


def _counter(source: FirstExamples, features: Features) -> Callable[[str], int]:
    """How many examples of a split a diagnosis would read: one that does not say so has to be read."""

    def count(split: str) -> int:
        if source.length(split) is None:
            features.of(split)
        return source.length(split) or len(features.of(split))

    return count


def _checked(
    config: Config, source: Source | None, options: DiagnoseOptions, model: nn.Module | None
) -> tuple[list[ProbeSpec], dict[str, Options]]:
    """The probes to run and the options of every probe, once all that can be checked before the model is opened is."""
    registry.load_builtins()
    files = [registry.load_plugin_file(p) for p in [*map(config.resolve, config.plugins), *options.plugins]]
    without = not options.controls or (options.profile == "quick" and not options.probes)
    skip = (*options.skip, CONTROLS) if without else options.skip
    chosen = choose_probes(options.probes, skip, files, also=[SUBSETS] * options.subsets, task=config.task)
    if any(spec.name == SUBSETS for spec in chosen):
        config.need_subsets()
    all_options = check_options(options.options or {})
    check_diagnosis(config, source, chosen, all_options.values(), options, live=model is not None, model=model)
    return chosen, all_options


def _in_turn(chosen: Sequence[ProbeSpec]) -> list[ProbeSpec]:
    """The probes in the order in which they run. What trains comes first: the model's answers that it asks for, calibrated,
    include those the others need."""
    return sorted(chosen, key=lambda s: s.trains == "nothing")


def report_on(
    subject: OpenModel,
    how: DiagnoseOptions,
    chosen: Sequence[ProbeSpec],
    options: Mapping[str, Options],
    *,
    typed: bool,
    kept: Kept = NOWHERE,
    reads: Reads = "rows",
) -> Report:
    """Run the ``chosen`` probes on an open model and write down what they find.

    Args:
        subject: The model, with its data and its passes.
        how: The options of the call.
        chosen: The probes to run.
        options: Options of every probe, by name.
        typed: Whether a command line names the model and its data.
        kept: Where finished probes are kept.
        reads: What all the chosen probes read of features; whoever asks more of the open model later leaves it out.

    Returns:
        The report, with its records.

    Raises:
        CollapsekitError: For whatever the caller can mend.
    """
    adapter, progress, config = subject.adapter, subject.progress, subject.config
    check_modalities(options.values(), config, adapter.modalities)
    where = _split(adapter.source, how.split)
    read = _how_read(adapter.checkpoint)
    if "checkpoint" in read:
        progress.note(read["checkpoint"])
    with subject.measuring():
        features = subject.extraction.features(where, reads)
        session = Session(
            adapter,
            features,
            options=options,
            seed=how.seed,
            profile=how.profile,
            progress=progress,
            cache=_cache(how.cache, chosen, progress),
        )
        settle_layouts(session)
        finished = _finished(kept, session, how, config)
        found = finished.take_up(chosen) if kept.resume else finished.begin_anew()
        _plan(subject, session, where, [spec for spec in _in_turn(chosen) if spec.name not in found])
        results = _results(chosen, session, found, finished)
        progress.begin(JUDGING)
        by_category = _by_category(chosen, session)
        described = subject_of(session)
        failed = {r.probe for r in results if r.error is not None}
        records = _records(session, {spec.name for spec in chosen} - failed)
    seed = config.model.seed if how.training_seed is None else how.training_seed
    settings = {
        "command": command_line(config, adapter.checkpoint, how, where) if typed else None,
        **recorded(how, where),
        **read,
        **_told_apart(seed, features, records),
        "level": session.level,
        "probes": {s.name: options[s.name].model_dump(mode="json") for s in chosen},
        "config": config.model_dump(mode="json", exclude_defaults=True),
    }
    warnings = (*features.warnings, *repeated(features), *process_warnings(), *warnings_of(results))
    report = _report(described, results, settings, config.file, warnings)
    if by_category:
        report = report.model_copy(update={"categories": _categories(report, str(config.data.category), by_category)})
    report = report.with_records(records)
    finished.clear()
    return report


def _cache(given: str | Path | None, chosen: Sequence[ProbeSpec], progress: Progress) -> Path | None:
    """The folder of trained baselines; None, which is said, where others could have written what is in it."""
    folder, why = private_folder(Path(given) if given is not None else cache_folder())
    if why is not None and any(spec.trains == "models" for spec in chosen):
        progress.note(why)
    return folder


def _plan(subject: OpenModel, session: Session, split: str, in_turn: Sequence[ProbeSpec]) -> None:
    """Tell whoever follows the diagnosis what it consists of, which takes a moment to reckon."""
    if session.progress.planned:
        reads: Reads = "rows" if session.features.sums is None else "fused sums"  # what is there already
        seconds = reckon_probes(session, subject.extraction.features(split, reads), in_turn)
        stages = {f"probe {name}": each if len(each) > 1 else each[""] for name, each in seconds.items()}
        session.progress.plan({**stages, JUDGING: ENDING + session.progress.writing})


def _finished(kept: Kept, session: Session, how: DiagnoseOptions, config: Config) -> FinishedProbes:
    """What is kept of this diagnosis: under another config or of other examples at most it is another one."""
    about = {"config": config.model_dump(mode="json"), "device": how.device, "limit": how.limit}
    return FinishedProbes(kept.folder, session, about)


def _results(
    chosen: Sequence[ProbeSpec], session: Session, before: Mapping[str, list[Result]], finished: FinishedProbes
) -> list[Result]:
    """What every chosen probe found, by name; those that are ``before`` were found by an earlier diagnosis."""
    found = dict(before)
    for i, spec in enumerate(_in_turn(chosen)):
        session.progress.step(f"probe {spec.name}", i, len(chosen))
        if spec.name not in found:
            found[spec.name] = run_probe(spec, session)
            finished.keep(spec, found[spec.name])
    given = [result for spec in chosen for result in found[spec.name]]
    check_once(given)
    return given


def _by_category(chosen: Sequence[ProbeSpec], session: Session) -> list[tuple[Category, list[Result]]]:
    """What the probes that decide find in each category; nothing of one that has too few examples."""
    deciding, found = [spec for spec in chosen if spec.name in DECIDING], []
    for category in session.features.categories:
        results: list[Result] = []
        if category.why_not is None:
            within = CategorySession(session, category)
            results = [r for spec in deciding for r in run_probe(spec, within)]
        # Curves say what the whole's say, of subsets and readouts.
        told = [r.model_copy(update={"curve": None}) for r in results if r.value is not None or r.skipped is not None]
        found.append((category, told))
    return found


def _categories(report: Report, key: str, parts: Sequence[tuple[Category, list[Result]]]) -> Categories:
    """The verdicts on each category."""
    each = []
    for category, results in parts:
        if category.why_not is not None:
            short = CategoryVerdict(name=category.name, examples=len(category.rows), why_not=category.why_not)
            each.append(short)
            continue
        of = report.subject
        verdicts = judge_category(results, of.modalities, of.metric, report.verdict, report.summary)
        each.append(
            CategoryVerdict(
                name=category.name,
                examples=len(category.rows),
                verdict=verdicts.overall,
                summary=verdicts.summary,
                judged=verdicts.judged,
                modalities=verdicts.each,
                results=tuple(results),
            )
        )
    return Categories(key=key, each=tuple(each))


def _records(session: Session, ran: set[str]) -> bytes:
    """What is kept of each example; of subsets only where a probe asked for them, of the calibrated model's credit only
    with the probe that compares it with what is due."""
    game = None
    if ran & {"reliance", "utilisation"}:
        with contextlib.suppress(NumericsError):  # too few examples: the probes say so
            game = session.game
    permutations = session.permutations if "utilisation" in ran else None
    return records_of(session.adapter, session.features, game, permutations, session.seed).to_bytes()


def _told_apart(training_seed: int | None, features: Features, records: bytes) -> dict[str, Any]:
    """By what the gate knows a training run, the examples, and the file of records."""
    seed = {} if training_seed is None else {"training_seed": training_seed}
    return {**seed, "examples": features.digest, "records": digest(records)}


def _how_read(read: Checkpoint | None) -> dict[str, str]:
    """What of the checkpoint became the weights, and whether its code was run for it; nothing for a live model."""
    if read is None:
        return {}
    trust = {"trust_pickle": f"sha256:{read.sha256}"} if read.trusted else {}
    return {"checkpoint": f"{name_of(read.path)}: {read.note}", **trust}


def _report(
    subject: Subject,
    results: list[Result],
    settings: dict[str, Any],
    config: Path | None,
    warnings: tuple[ReportWarning, ...],
) -> Report:
    if all(r.skipped is not None and r.error is None for r in results):
        why = next((r.skipped for r in results), "no probe was chosen")
        raise NothingEvaluatedError(f"no probe could evaluate anything: {why}.")
    judgement = judge(results, subject.modalities, subject.metric)
    each = {m: v.model_copy(update={"reference": Reference.of(results, m)}) for m, v in judgement.each.items()}
    replay = find_replay(results, each, _inputs(settings["config"]), subject.metric)
    return Report(
        collapsekit=__version__,
        subject=subject,
        **{**judgement.fields, "modalities": each},
        results=tuple(results),
        warnings=warnings if replay is None else (replay, *warnings),
        config=None if config is None else path_from_here(config),
        settings=settings,
        environment=environment(),
    )


def _inputs(config: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The batch keys of each modality, as a report's settings have the config."""
    named = {m: section.get("input") or m for m, section in (config.get("modalities") or {}).items()}
    return {m: (keys,) if isinstance(keys, str) else tuple(keys) for m, keys in named.items()}


def settle_config(
    config: str | Path | Mapping[str, Any] | Config | None,
    checkpoint: str | Path | None,
    progress: Progress | None = None,
    command: str = "diagnose",
) -> Config:
    """Take the config as given, or find and load its file.

    Args:
        config: A Config, a mapping of its keys, or the path of its file; None: the nearest file, in the working directory
            or above it.
        checkpoint: The weights that the command names, beside which another file may lie, which is never used by itself.
        progress: Hears which file is used; None: nobody does.
        command: The command's name, for messages.

    Returns:
        The config.

    Raises:
        ConfigError: Where there is none, or it is wrong.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return check_config(config, base=Path.cwd())
    file = find_config(config, checkpoint, command)
    if progress is not None and current().is_main:
        progress.announce(config_line(file, checkpoint, named=config is not None))
    return load_config(file)


def choose_probes(
    probes: Sequence[str] | None,
    skip: Sequence[str],
    files: Sequence[str] = (),
    also: Sequence[str] = (),
    task: str | None = None,
) -> list[ProbeSpec]:
    """Choose the named probes, or all that run by default, and ``also``, less ``skip``.

    Args:
        probes: Names of probes; None or empty: all that run by default.
        skip: Names of probes to leave out.
        files: Names of modules: of probes from plugin files only these count, as an earlier call may have loaded
            others.
        also: Names of probes to add.
        task: Of the model, as some probes run by default for some tasks alone.

    Returns:
        The probes, by name.

    Raises:
        ConfigError: For a name that no probe has.
    """
    for name in skip:
        registry.get_probe(name)
    names = (
        list(dict.fromkeys(probes))
        if probes
        else [
            name
            for name, spec in registry.PROBES.items()
            if spec.runs_unasked(task)
            and (spec.run.__module__ in files or not spec.run.__module__.startswith(registry.FROM_FILE))
        ]
    )
    return [registry.get_probe(n) for n in sorted({*names, *also}) if n not in skip]


def check_options(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Options]:
    """Return options of every probe, ``given`` ones checked. Raises ConfigError naming the option."""
    for name in given:
        registry.get_probe(name)
    return {n: registry.checked_options("probe", n, s.options, given.get(n, {})) for n, s in registry.PROBES.items()}


def _split(source: Source, wanted: str | None) -> str:
    there = source.splits()
    name = splits_read(there, wanted, ())[0]
    source.need(name)
    return name
