"""Every speed claim in one table, on the machine at hand.

python -m benchmarks.speed [--only ROW ...] [--kept FILE]

Rows *own* are of models made for them, rows *wild* of models as strangers write them (benchmarks.wild), a checkpoint from
a public wheel among them. Ours, the naive way, another package, what is asked for, and the ratio of the two in the row; each
row is measured in one process (start-up and large checkpoints: one a command), both sides in turn. Wild rows count work,
which no machine changes. Under fifteen minutes on two idle cores; with --kept a run goes on where another ended. Packages to
compare with are in the extra `bench`; where one is missing its rows say so. The parts print more by themselves:
benchmarks.speed.passes, .naive, .streaming, .settings, .startup, .large, .peers; .replay_pruning by itself alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.speed import large, naive, passes, peers, settings, sparse, startup, streaming
from benchmarks.wild import wheel
from benchmarks.wild.__main__ import passes_of
from benchmarks.wild.zoo import STRANGERS
from collapsekit.io.files import write_atomic

# Its loop asks a model over a whole data set; what it would be installed for is one number.
LM_EVAL = "lm-eval skipped: it brings 60 packages, pyarrow, pandas and datasets among them"


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
    """A diagnosis beside the user's own loop."""
    one, ours = passes.ratio(1536, 2)
    ratio = ours / one
    yield Line("diagnosis that trains nothing : one plain pass", ours, one, "", "<= 1.3", ratio, met=ratio <= 1.3)


def by_script() -> Iterator[Line]:
    """A diagnosis beside the afternoon's script."""
    found = naive.naive()
    ratio = found.naive / found.ours
    yield Line(f"script of {found.passes} passes : ours", found.ours, found.naive, "", "", ratio)
    yield Line(
        "  their numbers, largest relative difference", found.apart, None, "", "<= 1e-9", 0.0, "", found.apart <= 1e-9
    )


def by_products() -> Iterator[Line]:
    """Gram matrices of examples that come a few at a time."""
    for d in (1024, 2048):
        ours, bare = streaming.gram(d)
        rate = bare / ours
        yield Line(f"bare float64 product : Gram update, d = {d}", ours, bare, "", ">= 0.7", rate, met=rate >= 0.7)


def by_streams() -> Iterator[Line]:
    """Moments of many examples beside those of fewer."""
    few, many = streaming.long(250_000, 1024), streaming.long(1_000_000, 1024)
    growth = many.sums / few.sums
    yield Line("1,000,000 : 250,000 examples, d = 1,024", many.sums, few.sums, "", "about 4", growth, met=growth < 5)
    more = many.peak - few.peak
    yield Line("  resident memory, MB more at most", more, None, "", "< 50", 0.0, "MB", more < 50)


def by_fusions() -> Iterator[Line]:
    """Fusions trained at once."""
    yield from _at_once("fusions over β", settings.fusions, 2.0)


def by_coalitions() -> Iterator[Line]:
    """Coalitions answered at once."""
    yield from _at_once("coalitions", settings.coalitions, 1.5)


def _at_once(what: str, measure: Callable[..., settings.Times], limit: float) -> Iterator[Line]:
    """Beside the bare arithmetic, and beside one at a time, of which the machine says how much is arithmetic."""
    one, many, bare = measure(*settings.subject(64), 3).medians
    ratio = many / bare
    yield Line(f"{what}, at once : the bare arithmetic", many, bare, "", f"<= {limit:g}", ratio, met=ratio <= limit)
    yield Line("  one at a time : at once", many, one, "hangs on the machine", "", one / many)


def by_starts() -> Iterator[Line]:
    """What a command takes from the shell: the least of seven rounds, which other work delays less than the median."""
    with tempfile.TemporaryDirectory() as folder:
        for row in startup.measured(startup.make_report(Path(folder)), 7):
            if row.limit is not None:
                part = row.least / row.limit
                yield Line(row.what, row.least, None, "", f"< {row.limit:g} s", part, met=part < 1)


def by_demo() -> Iterator[Line]:
    """A quick diagnosis of the demo's checkpoint from the shell, and what it computes, which other work changes less."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, computing = startup.diagnosed(Path(folder))
    yield Line("quick diagnosis of the demo", seconds, None, "", "<= 6 s", 0.0, met=seconds <= 6)
    yield Line("  its CPU seconds", computing, None, "", "", 0.0)


def by_shards() -> Iterator[Line]:
    """Looking into a large checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        size = 20_000_000_000 // (2 * sparse.WIDTH**2)
        sparse.sharded(Path(folder) / "large", size)
        seconds, held = large.peak("-m", "collapsekit", "inspect", str(Path(folder) / "large"))
        yield Line("inspect of 20 GB in shards", seconds, None, "", "seconds", 0.0)
        yield Line("  its memory at most, MB", held, None, "", "< 500", held / 500, "MB", held < 500)


def by_peers() -> Iterator[Line]:
    """Other packages, on one thread; scikit-learn's readout on two as well."""
    before = torch.get_num_threads()
    try:
        pools, _ = peers.peer("threadpoolctl")
        for count, rows in ((1, peers.rows), (2, lambda: iter([peers.softmax(1e-4)]))):
            torch.set_num_threads(count)
            with pools.threadpool_limits(count):
                for row in rows():
                    yield _beside(row, "" if count == 1 else f", {count} threads")
    except peers.MissingPeerError as e:
        yield Line(str(e), float("nan"), None, "", "", 0.0)
    finally:
        torch.set_num_threads(before)
    yield Line(LM_EVAL, float("nan"), None, "", "", 0.0)


def _beside(row: peers.Row, threads: str) -> Line:
    same = "" if row.apart != row.apart else f"{row.apart:.0e} apart"
    limit = same if row.asked is None else f">= {row.asked:g}"
    met = None if row.asked is None else row.ratio >= row.asked
    return Line(row.what + threads, row.ours, row.peer_seconds, row.peer, limit, row.ratio, met=met)


def by_strangers(name: str) -> Iterator[Line]:
    """What reliance and utilisation take of a stranger's model, in plain passes over what they read: counted."""
    limit = 17.0 if name == "no encoders" else 3.0
    found, _, _ = passes_of(STRANGERS[name], 500, ["reliance", "utilisation"], "quick")
    yield Line(f"{name}: passes, counted", found, None, "", f"<= {limit:g}", 0.0, "passes", found <= limit)


def by_wheel() -> Iterator[Line]:
    """The same of a checkpoint from a public wheel, its branches as lists; counted, and timed."""
    fetched = wheel.fetch()
    if isinstance(fetched, str):
        yield Line(f"public wheel skipped: {fetched}", float("nan"), None, "", "", 0.0)
        return
    counted = wheel.measure(fetched, 500)
    yield Line("public wheel: passes, counted", counted.passes, None, "", "<= 3", 0.0, "passes", counted.passes <= 3)
    yield Line("  CPU seconds : of a plain pass", counted.ours, counted.plain, "", "", counted.ours / counted.plain)


OWN: dict[str, Callable[[], Iterator[Line]]] = {
    "passes": by_passes,
    "script": by_script,
    "gram": by_products,
    "moments": by_streams,
    "fusions": by_fusions,
    "coalitions": by_coalitions,
    "start": by_starts,
    "demo": by_demo,
    "shards": by_shards,
    "peers": by_peers,
}
WILD: dict[str, Callable[[], Iterator[Line]]] = {
    **{name.replace(",", "").replace(" ", "-"): partial(by_strangers, name) for name in STRANGERS},
    "public-wheel": by_wheel,
}


def shown(line: Line) -> str:
    """A row of the table."""
    other = "" if line.naive is None else f"{line.naive:.3f}"
    ours = (
        f"{line.ours:.1e}"
        if 0 < line.ours < 1e-4
        else f"{line.ours:.3f}"
        if line.unit == "s"
        else f"{line.ours:.2f}"
        if line.unit == "passes"
        else f"{line.ours:.0f}"
    )
    ratio = f"{line.ratio:.2f}" if line.ratio else ""
    verdict = "" if line.met is None else "met" if line.met else "NOT MET"
    return f"{line.what:50}{ours:>9}{other:>10}{ratio:>9}  {line.limit:12} {verdict or line.peer}"


def rows_of(name: str, kept: Path | None) -> list[str]:
    """The rows of one part of the table, as they are shown: measured, or those that an earlier run left in ``kept``."""
    before = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    if name not in before:
        kind, measure = ("own", OWN[name]) if name in OWN else ("wild", WILD[name])
        before[name] = [f"{kind:5}{shown(line)}" for line in measure()]
        if kept is not None:
            write_atomic(kept, json.dumps(before, indent=1, ensure_ascii=False).encode())
    found: list[str] = before[name]
    return found


def main() -> None:
    names = [*OWN, *WILD]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--kept", type=Path, help="a file of rows that are measured already, to which others are added")
    given = parser.parse_args()
    began, threads = time.monotonic(), torch.get_num_threads()
    print(f"{'':5}{'what':50}{'ours':>9}{'other':>10}{'ratio':>9}  {'limit':12} peer, or whether it is met")
    for name in given.only:
        print("\n".join(rows_of(name, given.kept)), flush=True)
    print(f"{time.monotonic() - began:.0f} s in all, {threads} threads of torch {torch.__version__}")


if __name__ == "__main__":
    main()
