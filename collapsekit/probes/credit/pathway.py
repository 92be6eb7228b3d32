"""pathway: whether a modality reaches the answer at all, where on its way it is lost, and whether it was needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

import torch
from pydantic import Field
from torch import Tensor, nn

from collapsekit.adapters.build import find_submodule
from collapsekit.context import Options
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.interventions.edits import Edit
from collapsekit.interventions.marginal import shifts
from collapsekit.interventions.replay import predict_many
from collapsekit.measures import LOSS, Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import estimate
from collapsekit.readouts.choosing import FeatureSet, choose_features
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.session.states import calls_of, states_of
from collapsekit.stats.inference.leave_out import leave_out_means

SOURCE = "Belinkov 2022 (probing classifiers); other examples' values as in Covert et al. 2020 (SAGE)"
LENDERS = 4  # other examples a modality is taken from to see whether any answer moves
SEARCHED = 2  # examples on which it is looked whose states a submodule has
STILL, ROUNDINGS = 1e-6, 10.0  # movement up to which an answer does not move: absolute, and in times of rounding's own
WITHOUT = "states are only read of modalities without an encoder, and where a projector is known"
# Where transformers' vision- and audio-language models hand on what a tower made: the last parts of a submodule's path.
PROJECTORS = ("multi_modal_projector", "visual.merger", "connector")

MOVES = declare(
    Measure(
        "pathway.moves",
        definition="largest change of any example's answer when the modality is another example's, in parts of the largest "
        "number in an answer; 0: no further than rounding moves it, so it never reaches the answer; a largest value of some "
        "examples, which has no interval",
        source=SOURCE,
        unit="share",
        cannot="an answer that moves need not get better by it",
        figure="bars",
    )
)
SPREAD = declare(
    Measure(
        "pathway.spread",
        definition="spread over examples of what the modality's encoder or projector gives, in parts of its size (root mean "
        "squares); 0: it gives the same for every example",
        source=SOURCE,
        unit="share",
        bounds=(0.0, 1.0),
        cannot="what varies need not say anything about the label",
    )
)
HELD_LOSS = declare(
    Measure(
        "pathway.held_loss",
        definition="{loss} of a linear readout of what the modality's encoder or projector gives",
        source=SOURCE,
        unit=LOSS,
        bounds="unit",
        better="lower",
        why="it is the task loss",
        figure="bars",
    )
)
ADDS = declare(
    Measure(
        "pathway.adds",
        definition="loss that the modality's best readout takes off the model's answers without the modality, in parts of "
        "the loss of the best constant; weights of both fitted on held-out examples",
        source=SOURCE,
        unit="share",
        cannot="what a stronger readout of the modality would add",
    )
)

PICTURES = (
    Picture(
        "pathway",
        "On the way to the answer",
        (Panel("share", {"answers move by": "pathway.moves", "would add": "pathway.adds"}),),
        (
            Finding(
                "most",
                "pathway.moves",
                {
                    "clear": "Answers move most with {modality}: by {value}.",
                    "unclear": "It is not clear with what answers move most: {modality} ({value}) or {second} ({other}).",
                },
            ),
        ),
    ),
)


class PathwayOptions(Options):
    """What is read on the way."""

    states: Mapping[str, str] = Field(
        default_factory=dict,
        description="the submodule whose output is read, by modality; default: the encoder, or transformers' projector",
    )


def estimate_cost(preview: Preview) -> Cost:
    """Cost the answers with each modality exchanged, readouts, and states of modalities without encoder."""
    count, at = len(preview.modalities), preview.fit_sizes
    lenders = min(LENDERS, len(shifts(preview.size, preview.draws)))
    cost = preview.prefixes() + preview.balanced_reference() + preview.coalitions(preview.without_one)
    cost += preview.replayed(1 + lenders * count, together=True)
    if at.held != "train":
        cost += preview.coalitions(preview.without_one, split=at.held)
    states = at.train + preview.size + (0 if at.held == "train" else at.choose)
    run_again = len(preview.adapter.at_input)
    projectors = sum(path.endswith(PROJECTORS) for path, _ in preview.adapter.model.named_modules())
    searched = 2 * SEARCHED * run_again * count * projectors
    return cost + Cost(replays=run_again * states + searched, heads=run_again).at_most(WITHOUT)


@probe(
    "pathway",
    title="On the way to the answer",
    place=35,
    pictures=PICTURES,
    summary="whether a modality reaches the answer, what its projector holds of it, and whether it was needed",
    definition="change of answers when the modality is another example's, readouts on its way, and what it would add",
    source=SOURCE,
    cannot="a linear readout that finds nothing is no proof that a state holds nothing",
    options=PathwayOptions,
    cost=estimate_cost,
    default=False,
    tasks=("tokens",),
)
def run(session: Session) -> Iterator[Result]:
    """Follow each modality from what its encoder gives to the answer.

    It runs by default where the task is tokens, whose verdicts name a cause by it (docs/probes/pathway.md).

    Yields:
        By modality how far answers move with it, how far its states vary, what a readout of these gains, and what the
        modality would add to the model's answers without it.
    """
    task = session.task
    if task.embeddings > 1:
        raise NumericsError("the model answers by two embeddings, which no single answer can be read from")
    moves = _movement(session)
    for i, m in enumerate(session.modalities):
        yield MOVES.fill(task).result(moves[m], None, modality=m)
        yield from _weigh_states(session, m)
        yield _added(session, i, m)


def _movement(session: Session) -> dict[str, float]:
    """How far answers move with each modality; 0 where it is no further than rounding moves them."""
    features, task = session.features, session.task
    donors = session.game.donors[:LENDERS]
    asked = [Edit(), *(Edit(swap={m: donor}) for m in session.modalities for donor in donors)]
    own = task.expect(features.outputs)
    size = max(float(own.abs().max()), torch.finfo(torch.float32).tiny)
    far = [
        float((task.expect(answer.outputs) - own).abs().max()) / size
        for answer in predict_many(session.adapter, features, asked)
    ]
    each, least = len(donors), max(STILL, ROUNDINGS * far[0])
    moves = {m: max(far[1 + i * each : 1 + (i + 1) * each]) for i, m in enumerate(session.modalities)}
    return {m: value if value > least else 0.0 for m, value in moves.items()}


def _weigh_states(session: Session, modality: str) -> Iterator[Result]:
    """What the modality's states say of the answer, and how far they vary."""
    task, note = session.task, None
    try:
        if modality in session.adapter.at_input:
            path, module = _find_projector(session, modality)
            read, spread = _read_states(session, modality, module)
            note = f"read at {path}"
        else:
            read = session.prefix(modality).expected
            states = session.adapter.features_of(modality, session.features.recorded[modality])
            spread = _spreads_of(states, session.features.groups)
    except NumericsError as e:
        for measure in (SPREAD, HELD_LOSS):
            yield measure.fill(task).skipped(str(e).rstrip("."), modality=modality)
        return
    varies = SPREAD.fill(task)
    value, span = estimate(spread, session.level, varies.bounds)
    yield varies.result(value, span, modality=modality, note=note)
    held = HELD_LOSS.fill(task)
    value, span = estimate(
        leave_out_means(task.loss(read, session.features.targets), session.features.groups), session.level, held.bounds
    )
    yield held.result(value, span, modality=modality, note=note)


def _spreads_of(states: Tensor, groups: Tensor) -> Tensor:
    """How far states (n, ...) spread, in parts of their size: over all examples, then without each group, (1 + G,)."""
    x = states.reshape(len(states), -1).double()
    return torch.tensor([_spread_of(x), *(_spread_of(x[groups != g]) for g in groups.unique())], dtype=torch.float64)


def _spread_of(x: Tensor) -> float:
    size = float(x.square().mean().sqrt())
    return 0.0 if size == 0 else min(1.0, float((x - x.mean(0)).square().mean().sqrt()) / size)


def _find_projector(session: Session, modality: str) -> tuple[str, nn.Module]:
    """The submodule whose output is read, as the option says, or the only known projector that moves with the modality.

    Raises NumericsError where there is none.
    """
    model = session.adapter.model
    wanted = session.options_of("pathway", PathwayOptions).states.get(modality)
    if wanted is not None:
        return wanted, find_submodule(model, wanted, "states")
    for path, module in model.named_modules():
        if path.endswith(PROJECTORS):
            found = [m for m in session.modalities if _moves_states(session, module, m)]
            if found == [modality]:
                return path, module
    raise NumericsError(
        "no encoder is named, and no projector is known whose states move with it alone: name the submodule as "
        "pathway.states"
    )


def _moves_states(session: Session, module: nn.Module, modality: str) -> bool:
    """Whether what a submodule gives moves with a modality, or what it is given, where it is dead itself."""
    n = len(session.features)
    other = (torch.arange(n) + 1) % n
    own, exchanged = (calls_of(session, module, range(min(SEARCHED, n)), swap) for swap in (None, {modality: other}))
    pairs = zip(chain.from_iterable(own), chain.from_iterable(exchanged), strict=True)
    return not all(torch.equal(one, another) for one, another in pairs)


def _read_states(session: Session, modality: str, module: nn.Module) -> tuple[Tensor, Tensor]:
    """Expectations (n, ...) of a readout of a submodule's states, and how far these vary, with and without each group."""
    at = session.fit_split
    known: dict[str, Tensor] = {}

    def of(features: Features) -> Tensor:
        if features.split not in known:
            known[features.split] = states_of(session.on(features), module, range(len(features)))
        return known[features.split]

    chosen = choose_features(session.task, at, [FeatureSet("states", of)])
    return chosen.read(session.task, session.features).expected, _spreads_of(
        of(session.features), session.features.groups
    )


def _added(session: Session, i: int, modality: str) -> Result:
    """What the modality's best readout adds to the model's answers without it."""
    task, features, at = session.task, session.features, session.fit_split
    game, reference = session.game, session.balanced_reference.whole
    mask = game.full & ~(1 << i)
    model = game.value(mask).expected
    of = (modality, None)
    if at.held is at.train:
        if not bool((features.groups % 2).any()):
            return ADDS.fill(task).skipped("all examples are of one group: none is left to weigh on", modality=modality)
        with_it, without = (reference.added_across(one, model) for one in (of, None))
    else:
        held = session.on(at.held).game_of(len(game.donors)).value(mask).expected[at.choose]
        with_it, without = (reference.added(one, model, held) for one in (of, None))
    prior = reference.constant().loss
    gained = leave_out_means(
        task.loss(without, features.targets) - task.loss(with_it, features.targets), features.groups
    )
    value, span = estimate(gained / prior, session.level)
    return ADDS.fill(task).result(value, span, modality=modality)
