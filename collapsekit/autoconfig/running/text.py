"""What one batch told, as a commented collapsekit.yaml."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from collapsekit.autoconfig.running.observe import Observed
from collapsekit.autoconfig.running.runner import keys_of
from collapsekit.autoconfig.running.verify import Verified
from collapsekit.autoconfig.spelling import comment, scalar
from collapsekit.checkpoint.sidecars.described import Described
from collapsekit.config.schema import ModalityConfig
from collapsekit.registry import task_names

_WIDTH = 110  # of a comment
_ABOUT_ENCODERS = (
    "An encoder is the last submodule that one modality alone moves; exchanged behind it, it gives what it gives "
    "exchanged at the model's input. Where there is no such submodule, it is exchanged at the input."
)


@dataclass(frozen=True)
class Named:
    """What the user named: the factory and its arguments, the checkpoint as the config calls it, and the data."""

    factory: str
    kwargs: dict[str, Any]
    checkpoint: str | None
    data_path: str | None
    data_factory: str | None


def observed_text(
    observed: Observed, named: Named, beside: Described | None = None, verified: Verified | None = None
) -> str:
    """Write what was observed as the text of a collapsekit.yaml.

    Args:
        observed: what one batch told.
        named: what the user named.
        beside: what files beside the weights say.
        verified: what was verified of this very config; None: nothing yet.

    Returns:
        The text, with a newline at its end.
    """
    lines = [
        f"# collapsekit.yaml, by `collapsekit init`, which ran the model on rows of split {comment(observed.split)!r}.",
    ]
    if beside is not None:
        lines += _comments("", [f"{beside.maker}, as the files beside the weights say."])
        lines += _comments("- ", beside.sentences)
    lines += [*_comments("Seen: ", observed.notes), *_comments("FILL IN: ", observed.questions)]
    lines += _verified(verified)
    lines += [*_model(named, observed.samples), *_modalities(observed), *_rest(observed), *_data(observed, named)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _verified(verified: Verified | None) -> list[str]:
    if verified is None:
        return []
    refused = [] if verified.refused is None else [verified.refused]
    return [
        *_comments("Verified: ", verified.holds),
        *_comments("Warning ", verified.warnings),
        *_comments("Not verified: ", refused),
    ]


def _comments(mark: str, sentences: Iterable[str]) -> list[str]:
    """Sentences as comments, folded."""
    return [
        f"# {line}"
        for sentence in sentences
        for line in textwrap.wrap(mark + comment(sentence), _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    ]


def _model(named: Named, samples: int) -> list[str]:
    lines = ["model:", f"  factory: {scalar(named.factory)}"]
    if named.kwargs:
        lines.append(f"  kwargs: {_flow(named.kwargs)}")
    if named.checkpoint is not None:
        lines.append(f"  checkpoint: {scalar(named.checkpoint)}")
    if samples > 1:
        lines.append(f"  samples: {samples}  # it draws random numbers in eval mode: each answer is a mean over seeds")
    return lines


def _modalities(observed: Observed) -> list[str]:
    if not observed.sections:
        return ["modalities: {}  # FILL IN: name -> {encoder: PATH, input: FIELD}"]
    lines = [*_comments("", [_ABOUT_ENCODERS]), "modalities:"]
    for name, section in observed.sections.items():
        seen = [observed.shapes.get(keys_of(name, section)[0], "")]
        if seen[0].endswith("uint8") and "," in seen[0]:
            seen.append("add `scale: 255` where the model expects numbers up to 1")
        if section.encoder is not None and not observed.tried.get(name):
            seen.append("check the encoder: no exchange of this modality showed in the answer")
        lines.append(f"  {scalar(name)}: {_section(section)}  # {comment('; '.join(filter(None, seen)))}")
    return [*lines, *(f"  # {line}" for line in observed.parting)]


def _section(section: ModalityConfig) -> str:
    held = {
        "encoder": section.encoder,
        "input": list(section.input) if isinstance(section.input, tuple) else section.input,
        "slice": section.slice,
        "where": section.where,
    }
    return _flow({k: v for k, v in held.items() if v is not None})


def _rest(observed: Observed) -> list[str]:
    outcome, form = observed.outcome, observed.form
    lines = [_fusion(observed)]
    if form.names:
        lines.append(f"batch: {_flow(list(form.names))}  # names for the parts of tuples")
    lines.append(f"call: {form.call}")
    if outcome.output is not None:
        lines.append(f"output: {_flow(list(outcome.output) if isinstance(outcome.output, tuple) else outcome.output)}")
    if outcome.task is not None:
        lines.append(f"task: {scalar(outcome.task)}  # {comment(outcome.seen)}")
    else:
        choice = " | ".join(task_names())
        lines.append(f'# task:  # FILL IN: {choice} | "module:callable" loss; {comment(outcome.seen)}')
    return [*lines, f"task_options: {_flow(outcome.options)}"] if outcome.options else lines


def _fusion(observed: Observed) -> str:
    if observed.fusion is None:
        return "# fusion:  # no submodule was seen to mix modalities"
    entering = observed.fusion.endswith(":input")
    what = "what enters the only layer that mixes modalities" if entering else "where modalities are first mixed"
    return f"fusion: {scalar(observed.fusion)}  # {what}"


def _data(observed: Observed, named: Named) -> list[str]:
    label = observed.outcome.label
    place = ("path", named.data_path) if named.data_path is not None else ("factory", str(named.data_factory))
    lines = ["data:", f"  {place[0]}: {scalar(place[1])}"]
    if label is not None:
        lines.append(f"  label: {scalar(label)}  # {comment(observed.shapes.get(label, ''))}")
    elif observed.outcome.task != "retrieval":
        lines.append("  # label:  # FILL IN: the name of the targets in the data")
    if observed.also:
        lines.append(f"  also: {_flow(list(observed.also))}  # forward takes these, too")
    if observed.form.edit == "examples":
        lines.append("  edit: examples  # modalities are exchanged before examples are collated")
    return lines


def _flow(value: Any) -> str:
    """Plain values as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(str(k))}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_flow(v) for v in value) + "]"
    if isinstance(value, str):
        return scalar(value)
    return str(yaml.safe_dump(value)).splitlines()[0]  # numbers, true, false, null
