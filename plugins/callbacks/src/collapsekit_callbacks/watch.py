"""Watch: what is wrong between the data and the model, told in the first steps of training."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.ext import ConfigError, did_you_mean, parse_region
from collapsekit_callbacks.pipeline.asking import Asked, Asking, Loss
from collapsekit_callbacks.pipeline.calls import Call, WatchedModality
from collapsekit_callbacks.pipeline.leaks import LeakTally
from collapsekit_callbacks.pipeline.lines import calling_line, data_line, reading_line
from collapsekit_callbacks.pipeline.naming import PipelineFinding, Places, Seen, is_odd_scale, name_inputs, name_way
from collapsekit_callbacks.pipeline.tally import InputTally
from collapsekit_callbacks.undisturbed import device_of, unwrapped

Log = Callable[[Mapping[str, float], int], object]
Spec = str | Sequence[str] | Mapping[str, Any]
LOOKS = (10, 25, 50)  # steps after which the model is asked; the first of them lets zero-initialised gates open
FIRST = LOOKS[-1]
EACH, THINNED = 10, 5  # inputs are counted at each of the first steps, and at every so manieth of the first fifty
LABELS = ("labels", "label", "targets", "target", "y")
KEYS = ("input", "slice", "where", "mask")


class PipelineWarning(UserWarning):
    """Something is wrong between the data and the model."""


class Watch:
    """Looks at the training batches of the first 50 steps, asks the model at steps 10, 25, 50 and then every ``every``, and
    warns of each fault of the pipeline once, with its name and the line to look at.

    ``modalities``: name -> argument of the model's forward (dots for a part of one: ``inputs.image``), several of them, or
    a mapping with ``input`` and, as in ``collapsekit.yaml``, ``slice`` or ``where``, and ``mask``: the argument that says
    which positions are real. ``loss``: a function of the model's output and the label, for losses with and without each
    modality; default: the loss that the model's output brings, else none is told. ``loader``: the training loader, so that
    findings can name its collate_fn or dataset. ``log``: where ``collapsekit/watch/loss`` and
    ``collapsekit/watch/without/MODALITY`` go. ``seed``: of the draws in the asked passes.

    Raises ConfigError for an argument that forward does not take, and for models sharded over processes.
    """

    def __init__(
        self,
        model: nn.Module,
        modalities: Mapping[str, Spec],
        *,
        loss: Loss | None = None,
        loader: Any = None,
        every: int = 200,
        log: Log | None = None,
        seed: int = 0,
    ) -> None:
        if every < 1:
            raise ConfigError(f"every is {every}, expected a whole number from 1: leave it out for the default.")
        self.model, self.every, self.log, self.loss, self.seed = unwrapped(model), every, log, loss, seed
        device_of(self.model)
        self.signature = inspect.signature(self.model.forward)
        self.modalities = [read_modality(name, spec, self.signature) for name, spec in modalities.items()]
        self.findings: list[PipelineFinding] = []
        self.skipped: Mapping[str, str] = {}  # modalities that could not be exchanged at the last look, and why
        self.taken = 0
        self._inputs = _Inputs(self.modalities)
        self._moved: dict[str, list[float]] = {m.name: [] for m in self.modalities}
        self._call: Call | None = None
        self._before: Call | None = None
        self._calling, self._data = "", data_line(loader) if loader is not None else ""
        self._handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def close(self) -> None:
        """Take the hook off the model."""
        self._handle.remove()

    def step(self, step: int, label: Any = None) -> list[PipelineFinding]:
        """Call after every training step.

        Args:
            step: How many were taken.
            label: The batch's label, where forward is not given it.

        Returns:
            What was found now; each kind is told once a modality.

        Raises:
            ConfigError: where the label stands in the step's place.
        """
        if isinstance(step, Tensor) and step.ndim:
            raise ConfigError(
                f"step is a tensor of shape {tuple(step.shape)}, expected the number of steps that were taken: call "
                "`watch.step(step, label)`."
            )
        call, self._call = self._call, None
        if call is None:
            return []
        self.taken += 1
        look = self.taken in LOOKS or (self.taken > FIRST and self.taken % self.every == 0)
        counted = self.taken <= EACH or (self.taken <= FIRST and self.taken % THINNED == 0)
        if not (look or counted):
            return []
        if label is None:
            label = next((v for n in LABELS if (v := call.field(n)) is not None), None)
        if counted:
            self._inputs.add(call, label)
        found = self._look(call, label, step) if look else []
        self._before = call
        return found

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            self._call = Call.of(self.signature, args, kwargs)
            self._calling = self._calling or calling_line() or "the loop that calls the model"

    def _look(self, call: Call, label: Any, step: int) -> list[PipelineFinding]:
        asking = Asking(self.model, call, self._before, self.seed + self.taken, traced=self._suspects())
        asked = asking.ask(self.modalities, self.loss, label, call.size())
        self.skipped = asked.skipped
        for m, by in asked.moved.items():
            self._moved[m].append(by)
        if self.log is not None and asked.loss is not None:
            without = {f"collapsekit/watch/without/{m}": value for m, value in asked.without.items()}
            self.log({"collapsekit/watch/loss": asked.loss, **without}, step)
        return self._judge(asked, step)

    def _line_of(self, modality: str) -> str:
        path = next(m.paths[0] for m in self.modalities if m.name == modality)
        return reading_line(self.model, path.partition(".")[0])

    def _suspects(self) -> bool:
        """Whether a sentence may have to say where in the model a change ends."""
        return self._inputs.odd() or any(by[-1:] == [0.0] for by in self._moved.values())

    def _judge(self, asked: Asked, step: int) -> list[PipelineFinding]:
        seen = {m: self._inputs.seen(m, tuple(self._moved[m]), asked) for m in self._moved}
        places = Places(self._data or self._calling, self._line_of)
        told = {(f.kind, f.modality) for f in self.findings}
        new = []
        for m, one in seen.items():
            named = list(name_inputs(m, one, self._inputs.varied, places))
            if not named and not any(
                f.modality == m for f in self.findings
            ):  # what follows from a fault is no other one
                named = list(name_way(m, one, {k: v for k, v in seen.items() if k != m}, places))
            new += [PipelineFinding(kind, m, text, step) for kind, text in named if (kind, m) not in told]
        self.findings += new
        for finding in new:
            warnings.warn(f"at step {step}: {finding.sentence}", PipelineWarning, stacklevel=4)
        return new


class _Inputs:
    """What was seen of all modalities' inputs in the first steps."""

    def __init__(self, modalities: Sequence[WatchedModality]) -> None:
        self.modalities = modalities
        self.varied = False  # whether the label changed from step to step
        self._tallies = {m.name: InputTally() for m in modalities}
        self._leaks = {m.name: LeakTally() for m in modalities}
        self._hidden = {m.name: [0.0, 0.0] for m in modalities}
        self._label: Tensor | None = None

    def add(self, call: Call, label: Any) -> None:
        known = label if isinstance(label, Tensor) else None
        for m in self.modalities:
            parts = call.take(m)
            self._tallies[m.name].add(parts)
            self._leaks[m.name].add(parts, known)
            mask = call.field(m.mask) if m.mask is not None else None
            if isinstance(mask, Tensor):
                self._hidden[m.name][0] += float((mask == 0).double().mean())
                self._hidden[m.name][1] += 1
        if known is not None and self._label is not None and not self.varied:
            self.varied = known.shape != self._label.shape or not torch.equal(known, self._label)
        self._label = known if known is not None else self._label

    def odd(self) -> bool:
        """Whether the size of a modality's numbers is odd."""
        facts = [tally.facts() for tally in self._tallies.values()]
        return any(one is not None and is_odd_scale(one) for one in facts)

    def seen(self, modality: str, moved: tuple[float, ...], asked: Asked) -> Seen:
        tally, (hidden, times) = self._tallies[modality], self._hidden[modality]
        return Seen(
            tally.facts(),
            tally.missing,
            hidden / times if times else None,
            self._leaks[modality].reason(),
            moved,
            asked.in_eval.get(modality),
            asked.effects.get(modality),
        )


def read_modality(name: str, spec: Spec, signature: inspect.Signature) -> WatchedModality:
    """Read what part of forward's arguments a modality is.

    Args:
        name: Its name.
        spec: Its argument, several, or a mapping with ``input``, ``slice``, ``where``, ``mask``.
        signature: Of forward.

    Returns:
        The modality.

    Raises:
        ConfigError: for keys, parts and arguments that there are none of.
    """
    keys: Mapping[str, Any] = spec if isinstance(spec, Mapping) else {"input": spec}
    for key in keys:
        if key not in KEYS:
            raise ConfigError(
                f"modality {name!r} has the key {key!r}, expected input, slice, where or mask{did_you_mean(key, KEYS)}."
            )
    value = keys.get("input", name)
    paths = (value,) if isinstance(value, str) else tuple(value)
    try:
        region = parse_region(paths, keys.get("slice"), keys.get("where"))
    except ValueError as e:
        raise ConfigError(f"modality {name!r}: {e}.") from e
    mask = keys.get("mask")
    _check_arguments(name, [*paths, *([mask] if mask is not None else [])], signature)
    return WatchedModality(name, paths, region, mask)


def _check_arguments(name: str, paths: Sequence[str], signature: inspect.Signature) -> None:
    parameters = signature.parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters]
    for path in paths:
        first = path.partition(".")[0]
        if first not in names:
            raise ConfigError(
                f"modality {name!r} is argument {first!r}, and forward takes {', '.join(names) or 'none'}: name one of "
                f"these{did_you_mean(first, names)}."
            )
