"""What a user can cause and act on: one sentence, one exit code each.

The pages of docs/errors are made of the docstrings: what happened, then paragraphs that begin with ``Causes:`` and
``What to do:``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# What a command ends with; README and docs list the codes from here.
EXIT_CODES = {
    0: "done, or gate passed",
    1: "`--fail-on` met, gate failed, or a repair rejected",
    2: "usage or config",
    3: "input refused",
    4: "internal error",
    5: "nothing evaluated, inconclusive, or partly judged where full is asked: never a pass",
    130: "interrupted",
}


class CollapsekitError(Exception):
    """Base of everything a user can cause; its text is one sentence that says what to do.

    Causes: none of its own; every error below is one.

    What to do: catch it where you call collapsekit from Python and want its message without a traceback;
    ``exit_code`` is the code that the command would end with.
    """

    exit_code = 2
    relayed = False  # whether another process failed, and this one ends because of it


class ConfigError(CollapsekitError):
    """The command line, the config file or the model it names is not usable as written (exit 2).

    Causes: a key, an option or a modality that is misspelt; a path or a ``module:callable`` that is not there; your
    factory or your model raised an error; weights that do not fit the model; a submodule that is not in the model or
    did not run.

    What to do: change what the message names. ``collapsekit init`` writes a config that runs, ``collapsekit inspect``
    shows the names in a checkpoint, ``collapsekit list`` those of probes, tasks and repairs.
    """


class ResultKeyError(ConfigError, KeyError):
    """A report was asked for a result that it does not have, or for one of several without saying of which modality
    (exit 2).

    Causes: ``report["vif.mena"]`` with a name that is wrong, or of a probe that was not run; ``report["reliance.shapley"]``,
    which each modality has.

    What to do: take one of the names that the message says, or ``report["reliance.shapley", "image"]``; ``report.names()``
    lists them, and ``report.find`` gives None in the place of an error.
    """

    __str__ = Exception.__str__  # KeyError's shows the sentence in quotes


class SamplingError(ConfigError):
    """The model draws random numbers in eval mode, and the config does not say over how many seeds to average (exit 2).

    Causes: a policy that denoises, a VAE that samples, dropout that stays on in eval mode.

    What to do: where it is meant to sample, write ``model: {samples: 8}`` into the config, and more where intervals
    are wide; else make eval mode deterministic.
    """


class DataError(CollapsekitError):
    """The data lacks something the config promises, or holds values no probe can use (exit 2).

    Causes: a split or a batch key that is not there; labels of another type or shape than the task's, or out of the
    range of the model's outputs; batches whose parts have other lengths than one another, or other shapes than the
    batch before.

    What to do: compare ``data.label``, ``batch`` and the modalities' ``input`` with what your loader gives, and
    ``task`` with what the labels are.
    """


class RefusedError(CollapsekitError):
    """A file is unsafe or corrupt and was not read (exit 3).

    Causes: a checkpoint that would run code when it is loaded (a pickled module, TorchScript); a file that is cut
    short or claims what it does not hold; a report that was changed, contradicts its own parts or has another
    version.

    What to do: for a checkpoint, save weights alone (``torch.save(model.state_dict(), path)`` or safetensors) where
    it was made; the message has the line to run. For a report, make it again. Nothing in the file was executed.
    """

    exit_code = 3


class NothingEvaluatedError(CollapsekitError):
    """There was nothing to evaluate; never a pass (exit 5).

    Causes: a split that is empty, has one example or labels that are all the same; a repair of a model that ignores
    nothing; no probe that could run.

    What to do: give it a split with some hundred examples of several classes. To repair a modality all the same, name
    it with ``--modality``.
    """

    exit_code = 5


class FaultError(CollapsekitError):
    """A fault of collapsekit itself left nothing to go on with; its traceback was told already (exit 4).

    Causes: a bug in collapsekit, met by a probe that the repair is decided by.

    What to do: report it, with the traceback and what ``collapsekit doctor`` prints. Snapshots of a repair are kept:
    ``--resume`` goes on from them.
    """

    exit_code = 4


class ProcessLostError(CollapsekitError):
    """Another process of the same job is gone, or failed by a fault of the program: this one ends, too (exit 4).

    Causes: under torchrun, a process was killed (often for memory), lost its machine or failed.

    What to do: read the messages of the other processes, the first of which is the cause; then start the job again. A
    repair goes on with ``--resume``.
    """

    exit_code = 4


class NumericsError(CollapsekitError, ValueError):
    """A pure function was given input it is not defined on; probes turn it into ``skipped``.

    Causes: too few examples, features that do not vary, a metric without a label of one class. You meet it only where
    you call functions of ``collapsekit.ext`` yourself, or write a probe.

    What to do: give it what the message asks for. In a probe of your own let it pass: the result is then skipped,
    with the message as its reason.
    """


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Ask whether another name was meant, for the end of a message.

    Args:
        name: what was written.
        known: what can be meant.
        limit: at most so many of them are named.

    Returns:
        `` (did you mean 'x' or 'y'?)`` with the nearest, the nearest first, or an empty string where none is near.
    """
    near = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(n) for n in near)}?)" if near else ""
