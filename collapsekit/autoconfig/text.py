"""config_text: a Proposal as a commented collapsekit.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collapsekit.autoconfig.guess import Proposal
from collapsekit.autoconfig.modules import Module, module_tree, unwrapped
from collapsekit.autoconfig.spelling import comment, scalar
from collapsekit.checkpoint.sidecars.described import Described
from collapsekit.registry import task_names

_MOST_LISTED = 30  # modules in the closing comment
_HEADER = """\
# collapsekit.yaml, proposed from the tensor names and shapes in the checkpoint; nothing in it was executed.
# Go through the lines marked FILL IN, check the rest, then run: collapsekit diagnose
"""


def config_text(
    proposal: Proposal,
    checkpoint_name: str,
    shapes: Mapping[str, tuple[int, ...]],
    beside: Described | None = None,
    recording: str | None = None,
) -> str:
    """Write the proposal as the text of a collapsekit.yaml.

    What the tensors show is filled in; what only the user can know is marked ``# FILL IN``. The YAML is valid whatever
    the names hold.

    Args:
        proposal: Modalities, fusion and head, as ``propose`` gives them.
        checkpoint_name: The path to write under ``model.checkpoint``.
        shapes: Name -> shape of the tensors that the proposal came from.
        beside: What files beside the checkpoint say of it, or a recording of its data, which counts for more than names.
        recording: The path of a folder of logged episodes; None: the data are for the user to name.

    Returns:
        The text of the file, with a newline at its end.
    """
    root = module_tree(unwrapped(shapes)[0])
    lines = [_HEADER.rstrip()]
    if beside is not None and beside.inputs:
        return "\n".join([*lines, *_lines_beside(beside, checkpoint_name, recording), *_closing(root)]) + "\n"
    if beside is not None:
        lines += _comments_beside(beside)
    lines += [f"# Unsure: {comment(sentence)}" for sentence in proposal.unsure]
    lines += [
        "model:",
        '  factory: my_model:build  # FILL IN: "module:callable" that returns the torch.nn.Module',
        "  # kwargs: {}  # FILL IN: the arguments it was trained with, if it takes any",
        f"  checkpoint: {scalar(checkpoint_name)}",
        *_modality_lines(proposal, root),
        *_path_line("fusion", proposal.fusion, "FILL IN: submodule that first mixes the modalities"),
        *_path_line("head", proposal.head, "optional: submodule that turns the fusion into the prediction"),
        "call: kwargs  # FILL IN: how a batch reaches forward: kwargs | dict | positional | list",
        _task_line(proposal, shapes, root),
        "data:",
        "  path: data.safetensors  # FILL IN: keys SPLIT/NAME (train/image, train/label, test/...); .npz the same",
        '  # factory: my_data:loaders  # or this, instead of path: "module:callable"',
        "  label: label  # FILL IN: the name of the targets in the data",
        *_closing(root),
    ]
    return "\n".join(lines) + "\n"


def _lines_beside(beside: Described, checkpoint_name: str, recording: str | None) -> list[str]:
    """The whole config of weights whose maker says what goes in and comes out."""
    lines = [
        *_comments_beside(beside),
        "model:",
        '  factory: my_model:build  # FILL IN: "module:callable" that returns the torch.nn.Module, as above',
        f"  checkpoint: {scalar(checkpoint_name)}",
        *(["  samples: 8  # it makes actions of noise: each answer is a mean over seeds"] if beside.samples else []),
        "modalities:  # edited at the input; where one has an encoder of its own, a module listed below, name that too",
    ]
    for field in beside.inputs:
        part = f", slice: {scalar(field.part)}" if field.part is not None else ""
        seen = f"  # {comment(field.about)}" if field.about else ""
        lines.append(f"  {scalar(field.name)}: {{input: {scalar(field.key)}{part}}}{seen}")
    return [
        *lines,
        f"call: {beside.call or 'kwargs'}  # how a batch reaches forward",
        f"task: {beside.task}" if beside.task is not None else f"# task:  # FILL IN: {_choice()}",
        *_data_beside(beside, recording),
    ]


def _data_beside(beside: Described, recording: str | None) -> list[str]:
    label = f"  label: {scalar(beside.label or 'label')}"
    if recording is None:
        factory = '  factory: my_data:loaders  # FILL IN: "module:callable" that returns {"train": ..., "test": ...}'
        return ["data:", factory, label]
    return ["data:", f"  path: {scalar(recording)}", label, *episode_lines(beside.episodes)]


def episode_lines(episodes: Mapping[str, Any]) -> list[str]:
    """Write how a recording is read, as lines of the section ``data``.

    How it is normalised is a comment, since most policies or their factories do that.
    """
    horizon, observed = episodes.get("horizon"), episodes.get("observed")
    lines = ["  group: episode_index  # intervals leave out whole episodes", "  episodes:"]
    if horizon is None:
        lines.append("    # horizon: 16  # FILL IN: actions of one answer; without it one, that of the frame")
    else:
        lines.append(f"    horizon: {horizon}  # actions of one answer")
    if observed is not None:
        lines.append(f"    observed: {observed}  # frames of one observation")
    modes = ", ".join(f"{scalar(str(k))}: {v}" for k, v in episodes.get("normalise", {}).items())
    if modes:
        lines.append(f"    # normalise: {{{comment(modes)}}}  # where neither the policy nor its factory does")
    return [
        *lines,
        '    # splits: {train: "0:40", val: "40:45", test: "45:"}  # FILL IN: what it learned from is no test',
        "    phases: 3  # parts of an episode, for `where: phase == 0`",
    ]


def _comments_beside(beside: Described) -> list[str]:
    lines = [f"# {comment(beside.maker)}, as the files beside the weights say."]
    lines += [f"# - {comment(sentence)}" for sentence in beside.sentences]
    if beside.code:
        lines += ["# A factory may be made of:", *(f"#   {comment(line)}" for line in beside.code)]
    return lines


def _closing(root: Module) -> list[str]:
    return ["", "# Modules in the checkpoint (tensors, features out):", *_module_comments(root)]


def _modality_lines(proposal: Proposal, root: Module) -> list[str]:
    if not proposal.modalities:
        return [
            "modalities: {}  # FILL IN: name -> encoder, such as",
            "#  image: {encoder: encoders.image, scale: 255}  # inputs are divided by scale",
            "#  audio: {encoder: encoders.audio, input: wav}  # input: its name in the data, if another",
        ]
    modules = {m.path: m for m in root.walk()}
    lines = ["modalities:  # FILL IN: names as your data has them (or add `input: NAME`); add `scale: 255` for bytes"]
    for name, path in proposal.modalities.items():
        width = modules[path].width() if path in modules else None
        seen = f"  # {width} features out" if width is not None else ""
        lines.append(f"  {scalar(name)}: {{encoder: {scalar(path)}}}{seen}")
    return lines


def _path_line(key: str, path: str | None, hint: str) -> list[str]:
    return [f"{key}: {scalar(path)}"] if path is not None else [f"# {key}: {key}  # {hint}"]


def _choice() -> str:
    return f'{" | ".join(task_names())} | "module:callable" loss'


def _task_line(proposal: Proposal, shapes: Mapping[str, tuple[int, ...]], root: Module) -> str:
    """The task that the width of the head leaves open, as a question; none where there is no head to go by."""
    if proposal.head is None and any(name.endswith("logit_scale") for name in shapes):
        return f"task: retrieval  # FILL IN: {_choice()}; two towers and a scale of their similarity"
    head = next((m for m in root.walk() if m.path == proposal.head), None)
    width = None if head is None else head.width()
    if width is None:
        return f"# task:  # FILL IN: {_choice()}; no head could be told, so nothing says which"
    if width == 1:
        seen = "one number comes out: is it a value (regression), 0 or 1 (classification), or a risk (survival)?"
        return f"task: regression  # FILL IN: {_choice()}; {seen}"
    seen = f"{width} numbers come out: one of {width} classes, {width} labels (multilabel), or {width} values (regression)?"
    return f"task: classification  # FILL IN: {_choice()}; {seen}"


def _module_comments(root: Module) -> list[str]:
    shown = [m for m in root.walk() if m.path.count(".") < 2]
    lines = []
    for m in shown[:_MOST_LISTED]:
        width = m.width()
        lines.append(f"#   {scalar(m.path)}: {len(m.tensors)}" + (f", {width}" if width is not None else ""))
    if len(shown) > _MOST_LISTED:
        lines.append(f"#   and {len(shown) - _MOST_LISTED} more")
    return lines or ["#   none"]
