"""Every speed claim in one table, on the machine at hand.

python -m benchmarks.speed

Ours, the naive way, another package, what is asked for, and the ratio of the two in the row; each row is measured in one
process (start-up and large checkpoints: one a command), both sides in turn. Under ten minutes on two idle cores. Packages to
compare with are in the extra `bench`; where one is missing its rows say so. The parts print more by themselves:
benchmarks.speed.passes, .naive, .streaming, .settings, .startup, .large, .peers; .replay_pruning by itself alone.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarks.speed import large, naive, passes, peers, settings, sparse, startup, streaming


@dataclass(frozen=True)
class Line:
    """One row: seconds (or what ``unit`` says) of ours and of what it is held against."""

    what: str
    ours: float
    naive: float | None
    peer: str
    limit: str
    ratio: float
    unit: str = "s"
    met: bool | None = None  # None: nothing is asked for


def by_passes() -> Iterator[Line]:
    """A diagnosis beside the user's own loop, and beside the afternoon's script."""
    one, ours = passes.ratio(1536, 2)
    ratio = ours / one
    yield Line("diagnosis that trains nothing : one plain pass", ours, one, "", "<= 1.3", ratio, met=ratio <= 1.3)
    found = naive.naive()
    ratio = found.naive / found.ours
    yield Line(f"script of {found.passes} passes : ours", found.ours, found.naive, "", "", ratio)
    yield Line(
        "  their numbers, largest relative difference", found.apart, None, "", "<= 1e-9", 0.0, "", found.apart <= 1e-9
    )


def by_streams() -> Iterator[Line]:
    """Sums over examples that come a few at a time."""
    for d in (1024, 2048):
        ours, bare = streaming.gram(d)
        rate = bare / ours
        yield Line(f"bare float64 product : Gram update, d = {d}", ours, bare, "", ">= 0.7", rate, met=rate >= 0.7)
    few, many = streaming.long(250_000, 1024), streaming.long(1_000_000, 1024)
    growth = many.sums / few.sums
    yield Line("1,000,000 : 250,000 examples, d = 1,024", many.sums, few.sums, "", "about 4", growth, met=growth < 5)
    more = many.peak - few.peak
    yield Line("  resident memory, MB more at most", more, None, "", "< 50", 0.0, "MB", more < 50)


def by_settings() -> Iterator[Line]:
    """Many settings at once beside one at a time."""
    adapter, features = settings.subject(64)
    for what, measure in (("fusions over β", settings.fusions), ("coalitions", settings.coalitions)):
        one, many = (median(seconds) for seconds in measure(adapter, features, 3))
        yield Line(f"{what}, one at a time : at once", many, one, "", ">= 3", one / many, met=one / many >= 3)


def by_starts() -> Iterator[Line]:
    """What a command takes from the shell."""
    with tempfile.TemporaryDirectory() as folder:
        for row in startup.measured(startup.make_report(Path(folder)), 7):
            if row.limit is not None:
                part = row.seconds / row.limit
                yield Line(row.what, row.seconds, None, "", f"< {row.limit:g} s", part, met=part < 1)
        size = 20_000_000_000 // (2 * sparse.WIDTH**2)
        sparse.sharded(Path(folder) / "large", size)
        seconds, held = large.peak("-m", "collapsekit", "inspect", str(Path(folder) / "large"))
        yield Line("inspect of 20 GB in shards", seconds, None, "", "seconds", 0.0)
        yield Line("  its memory at most, MB", held, None, "", "< 500", held / 500, "MB", held < 500)


def by_peers() -> Iterator[Line]:
    """Other packages."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        threads, _ = peers.peer("threadpoolctl")
        with threads.threadpool_limits(1):
            for row in peers.rows():
                same = "" if row.apart != row.apart else f"{row.apart:.0e} apart"
                yield Line(row.what, row.ours, row.peer_seconds, row.peer, same, row.ratio)
    except peers.MissingPeerError as e:
        yield Line(str(e), float("nan"), None, "", "", 0.0)
    finally:
        torch.set_num_threads(before)


def shown(line: Line) -> str:
    """A row of the table."""
    other = "" if line.naive is None else f"{line.naive:.3f}"
    ours = (
        f"{line.ours:.1e}" if 0 < line.ours < 1e-4 else f"{line.ours:.3f}" if line.unit == "s" else f"{line.ours:.0f}"
    )
    ratio = f"{line.ratio:.2f}" if line.ratio else ""
    verdict = "" if line.met is None else "met" if line.met else "NOT MET"
    return f"{line.what:50}{ours:>9}{other:>10}{ratio:>9}  {line.limit:12} {verdict or line.peer}"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    began, threads = time.monotonic(), torch.get_num_threads()
    print(f"{'what':50}{'ours':>9}{'other':>10}{'ratio':>9}  {'limit':12} peer, or whether it is met")
    for part in (by_passes, by_streams, by_settings, by_starts, by_peers):
        with contextlib.closing(part()) as lines:  # type: ignore[type-var]
            for line in lines:
                print(shown(line), flush=True)
    print(f"{time.monotonic() - began:.0f} s in all, {threads} threads of torch {torch.__version__}")


if __name__ == "__main__":
    main()
