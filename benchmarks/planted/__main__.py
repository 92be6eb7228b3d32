"""Verdicts against known truth, beside what people use today.

python -m benchmarks.planted --real
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from functools import partial
from pathlib import Path

from benchmarks.planted import table
from benchmarks.planted.measure import measure_in_process
from benchmarks.planted.real import draw_real
from benchmarks.planted.subjects import draw


def main() -> None:
    parser = argparse.ArgumentParser(description="Verdicts against known truth, beside what people use today.")
    parser.add_argument("--count", type=int, default=60, help="subjects")
    parser.add_argument("--seed", type=int, default=0, help="which subjects are drawn")
    parser.add_argument("--real", action="store_true", help="subjects on real data too")
    parser.add_argument("--profile", default="standard", help="profile of the diagnosis")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--records", type=Path, help="file to write the records to, one JSON object a line")
    parser.add_argument("--cache", type=Path, help="folder of trained baselines, to run the same subjects again sooner")
    given = parser.parse_args()
    began = time.perf_counter()
    job = partial(measure_in_process, profile=given.profile, cache=given.cache)
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        records = []
        for record in pool.imap(job, [*draw(given.count, given.seed), *(draw_real() if given.real else [])]):
            records.append(record)
            if given.records is not None:
                with given.records.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    found = table.summary(records)
    print(
        f"{len(records)} subjects, {found['modalities']:.0f} modalities; {found['between']:.0f} more lie between used and"
    )
    print(f"ignored and are left out; {time.perf_counter() - began:.0f} s\n")
    print(table.confusion(records))
    print(f"\naccuracy on decided {found['accuracy']:.1%}, inconclusive {found['inconclusive']:.1%}\n")
    print(table.peers(found))
    for key in ("kind", "world", "task", "fusion", "n"):
        print("\n" + table.by(records, key))
    print("\nwrong\n" + (table.wrong(records) or "none"))


if __name__ == "__main__":
    main()
