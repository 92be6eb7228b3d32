"""What a user can cause and act on: one sentence, one exit code each."""

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
    """Base of everything a user can cause; its text is one sentence that says what to do."""

    exit_code = 2
    relayed = False  # whether another process failed, and this one ends because of it


class ConfigError(CollapsekitError):
    """The command line, the config file or the model it names is not usable as written (exit 2)."""


class ResultKeyError(ConfigError, KeyError):
    """A report was asked for a result that it does not have, or for one of several without saying of which modality
    (exit 2)."""

    __str__ = Exception.__str__  # KeyError's shows the sentence in quotes


class SamplingError(ConfigError):
    """The model draws random numbers in eval mode, and the config does not say over how many seeds to average (exit 2)."""


class DataError(CollapsekitError):
    """The data lacks something the config promises, or holds values no probe can use (exit 2)."""


class RefusedError(CollapsekitError):
    """A file is unsafe or corrupt and was not read (exit 3)."""

    exit_code = 3


class NothingEvaluatedError(CollapsekitError):
    """There was nothing to evaluate; never a pass (exit 5)."""

    exit_code = 5


class FaultError(CollapsekitError):
    """A fault of collapsekit itself left nothing to go on with; its traceback was told already (exit 4)."""

    exit_code = 4


class ProcessLostError(CollapsekitError):
    """Another process of the same job is gone, or failed by a fault of the program: this one ends, too (exit 4)."""

    exit_code = 4


class NumericsError(CollapsekitError, ValueError):
    """A pure function was given input it is not defined on; probes turn it into ``skipped``."""


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
