"""plan: which questions a diagnosis would ask a model, found by asking them of nobody."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapsekit import registry
from collapsekit.answers.adapter import AnswerBook, AnswersAdapter
from collapsekit.answers.formats import get_format
from collapsekit.answers.formats._format import AskedExample
from collapsekit.answers.manifest import NAME, AnswerShape, DataRead, Manifest, PlanCost, read_ids, write_shards
from collapsekit.answers.materials import Materials, choose_counter
from collapsekit.answers.passes import ElsewhereSubject, read_split
from collapsekit.answers.question import Codes, count_left_out, drop_repeats, questions_of
from collapsekit.config.discovery import path_from_here
from collapsekit.config.options import PlanOptions
from collapsekit.config.schema import Config
from collapsekit.context import Options, Progress
from collapsekit.data.base import Source
from collapsekit.diagnosis import check_options, choose_probes
from collapsekit.errors import ConfigError, NumericsError
from collapsekit.features.examples import SplitReader
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.io.files import is_file
from collapsekit.session.checks import check_data, check_modalities, known_sizes, splits_read
from collapsekit.session.session import Session
from collapsekit.tasks.make import task_of
from collapsekit.version import __version__

PROBES = ("reliance", "utilisation")  # those whose verdict rests on answers alone


class Notebook(AnswerBook):
    """Writes down what is asked, and answers 0."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.asked: dict[str, list[Codes]] = {}

    def look_up(self, split: str, codes: Codes) -> Tensor:
        self.asked.setdefault(split, []).append(codes)
        return torch.zeros(len(codes), self.width)

    def of_all(self) -> dict[str, Codes]:
        """Return what was asked by split, each question once."""
        return {split: drop_repeats(np.concatenate(parts)) for split, parts in sorted(self.asked.items())}


@dataclass(frozen=True)
class QuestionPlan:
    """What is to be asked, and what stands over it."""

    manifest: Manifest
    codes: Mapping[str, Codes]
    subject: ElsewhereSubject
    reader: SplitReader
    adapter: AnswersAdapter

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the questions as the format has them. Raises ConfigError for what it cannot say."""
        kind, config = get_format(self.manifest.format), self.subject.config
        materials = Materials(self.adapter, self.reader) if kind.needs_examples else None
        for split, codes in self.codes.items():
            for row, (id_, question) in enumerate(
                questions_of(self.manifest.key, split, self.adapter.modalities, codes)
            ):
                asked = None
                if materials is not None:
                    parts = materials.parts_of(split, codes[row])
                    how = config.answers
                    asked = AskedExample(parts, how.choices, how.instruction, how.model, self.manifest.seed)
                yield kind.write(id_, question, asked)

    def save(self, folder: Path) -> Manifest:
        """Write shards, and then the manifest that names them.

        Raises ConfigError where another plan's questions are there.
        """
        if is_file(folder / NAME):
            raise ConfigError(f"{folder} holds questions already: name another folder with --output.")
        manifest = self.manifest.model_copy(
            update={"shards": tuple(write_shards(folder, self.lines(), get_format(self.manifest.format)))}
        )
        manifest.save(folder)
        read_ids(folder, manifest)
        return manifest


def make_plan(
    config: Config, options: PlanOptions, source: Source | None = None, progress: Progress | None = None
) -> QuestionPlan:
    """Find what has to be asked of a model for a verdict.

    Args:
        config: of the subject, whose model is elsewhere.
        options: of the plan.
        source: data that are open already; None: those of the config.
        progress: told of the reading.

    Returns:
        The plan, of which nothing is written yet.

    Raises:
        CollapsekitError: for whatever the caller can mend.
    """
    get_format(options.format)
    chosen = prepare(config, source, options.split, options.options)
    subject = ElsewhereSubject.of(config, source, options.limit, options.seed)
    subject.progress = progress or Progress()
    shape = subject.find_shape()
    plan = _plan_draws(subject, options, chosen, shape)
    if options.budget is None or plan.manifest.cost.questions <= options.budget:
        return plan
    return _within(plan, subject, options, chosen, shape)


def prepare(
    config: Config, source: Source | None, split: str | None, changes: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Options]:
    """Check a config and options of probes before anything is read.

    Args:
        config: of the subject.
        source: data that are open already; None: those of the config.
        split: that is judged; None: the default.
        changes: option values by probe.

    Returns:
        The options of every probe.

    Raises:
        CollapsekitError: for the first that cannot be meant.
    """
    registry.load_builtins()
    options = check_options(changes or {})
    check_modalities(options.values(), config)
    there = known_sizes(config, source)
    if there is not None:
        chosen = choose_probes(PROBES, ())
        check_data(config, task_of(config), there, splits_read(there, split, chosen))
    return options


def _within(
    plan: QuestionPlan,
    subject: ElsewhereSubject,
    options: PlanOptions,
    chosen: Mapping[str, Options],
    shape: AnswerShape,
) -> QuestionPlan:
    """The plan with the most draws that the budget has room for."""
    draws = max(plan.manifest.draws.values())
    budget = options.budget or 0
    least = plan
    while draws > 1:
        draws = min(draws - 1, max(1, draws * budget // least.manifest.cost.questions))
        given = {name: dict(values) for name, values in (options.options or {}).items()}
        given.setdefault("reliance", {})["draws"] = draws
        fewer = options.model_copy(update={"options": given})
        least = _plan_draws(subject, fewer, {**chosen, **check_options(given)}, shape)
        if least.manifest.cost.questions <= budget:
            return least
    raise ConfigError(
        f"--budget {budget:,} is less than the {least.manifest.cost.questions:,} questions that a verdict needs at least: "
        "raise it, or ask about fewer examples with --limit."
    )


def _plan_draws(
    subject: ElsewhereSubject, options: PlanOptions, chosen: Mapping[str, Options], shape: AnswerShape
) -> QuestionPlan:
    book = Notebook(shape.width)
    with subject.opened(shape, lambda _: book) as model, model.measuring():
        where = splits_read(subject.source.splits(), options.split, ())[0]
        subject.source.need(where)
        features = model.extraction.features(where)
        session = Session(model.adapter, features, options=chosen, seed=options.seed, progress=subject.progress)
        games = _play(session)
    codes = book.of_all()
    reader = model.extraction.reader
    data = {name: read_split(reader, name) for name in codes}
    assert isinstance(model.adapter, AnswersAdapter)
    manifest = Manifest(
        collapsekit=__version__,
        key=key_of(subject, data),
        config=None if subject.config.file is None else path_from_here(subject.config.file),
        config_sha256=config_digest(subject.config),
        data=data,
        format=options.format,
        modalities=model.adapter.modalities,
        split=where,
        seed=options.seed,
        limit=options.limit,
        options={name: dict(values) for name, values in (options.options or {}).items()},
        draws={split: len(game.donors) for split, game in games.items()},
        answer=shape,
        cost=_cost_of(subject.config, Materials(model.adapter, reader), codes, options),
        shards=(),
    )
    return QuestionPlan(manifest, codes, subject, reader, model.adapter)


def _cost_of(config: Config, materials: Materials, codes: Mapping[str, Codes], options: PlanOptions) -> PlanCost:
    """What the questions cost: forwards, and tokens of text where there is any."""
    questions = sum(map(len, codes.values()))
    count, by = choose_counter(config)
    tokens = materials.count_tokens(codes, count)
    if get_format(options.format).needs_examples:
        how = config.answers
        closing = AskedExample((), how.choices, how.instruction, how.model, options.seed).closing
        tokens = (tokens or 0) + questions * count(closing)
    return PlanCost(
        questions=questions,
        forwards=questions,
        tokens=tokens,
        tokens_by=None if tokens is None else by,
        text_only=sum(map(count_left_out, codes.values())),
    )


def _play(session: Session) -> dict[str, CoalitionGame]:
    """Ask what the probes ask: every coalition of the diagnosed examples, and of held-out ones, where readouts are chosen on
    them, all modalities and all but one."""
    full = session.game.full
    without = [full & ~(1 << i) for i in range(len(session.modalities))]
    masks: dict[int, None] = dict.fromkeys([full, 0, *without, *(1 << i for i in range(len(session.modalities)))])

    def note(mask: int) -> Tensor:
        masks[mask] = None
        return torch.zeros(1)

    session.shapley_values(note)
    _ask(session, masks)
    games = {session.features.split: session.game}
    try:
        at = session.fit_split
    except NumericsError:  # no examples to fit on: the probe that needs them says so
        return games
    if at.held is not at.train:
        held = session.on(at.held)
        _ask(held, dict.fromkeys(without))
        games[at.held.split] = held.game
    return games


def _ask(session: Session, masks: Mapping[int, None]) -> None:
    adapter, features = session.adapter, session.features
    assert isinstance(adapter, AnswersAdapter)
    _, places = adapter.read_splits[features.split]
    rows = torch.arange(len(features))
    for mask in sorted(masks):
        for edit in session.game.edits(mask):
            adapter.book.look_up(features.split, adapter.encode_edit(features, places, edit, rows, 0))


def config_digest(config: Config) -> str:
    """Compute the SHA-256 of what a config says of the questions: not the gate's part, nor by what tokens are
    counted, nor whether the text is asked about alone, too."""
    left_out: dict[str, bool | set[str]] = {"gate": True, "plugins": True, "answers": {"tokenizer", "text_only"}}
    told = config.model_dump(mode="json", exclude_defaults=True, exclude=left_out)
    told = {key: value for key, value in told.items() if value != {} or key != "answers"}
    return hashlib.sha256(json.dumps(told, sort_keys=True, allow_nan=False).encode()).hexdigest()


def key_of(subject: ElsewhereSubject, data: Mapping[str, DataRead]) -> str:
    """Compute what questions are numbered under: config, data, seed and limit, and not how many are asked."""
    about = {
        "config": config_digest(subject.config),
        "data": {name: one.model_dump() for name, one in sorted(data.items())},
        "seed": subject.seed,
        "limit": subject.limit,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, allow_nan=False).encode()).hexdigest()
