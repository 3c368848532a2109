"""Every LIBERO task against upstream, live: exact stepping and reference frames bit for bit, fast stepping's distance.

    python benchmarks/libero_parity.py [--suites libero_spatial ...] [--tasks 0 1 ...] [--steps 120] [--keep-models]
        [--without-frames]

Half a minute per task, most of it upstream's. Finished tasks are kept in the output file: the same command goes on
where it was stopped. Ends with the table of docs/libero.md.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vlarl.envs.libero.cache import TaskFiles, write_atomically
from vlarl.envs.libero.parity import Comparison, make_request, run_live
from vlarl.envs.libero.tasks import STANDARD_LIMITS, num_tasks
from vlarl.errors import UserError


def table(results: dict[str, Any]) -> list[str]:
    """Markdown, one line per suite, then one per task that failed."""
    lines = [
        "| suite | tasks | steps | exact: max difference in qpos, qvel | flags | frames identical"
        " | fast: qpos in free motion | fast: qpos with contact |",
        "|---|---|---|---|---|---|---|---|",
    ]
    failed = []
    for suite in STANDARD_LIMITS:
        rows = [value for key, value in results.items() if key.rpartition(":")[0] == suite]
        done = [row for row in rows if "error" not in row]
        failed += [f"{key}: {value['error']}" for key, value in results.items() if value in rows and "error" in value]
        if not done:
            continue
        exact, fast = ([Comparison(**row[stepping]) for row in done] for stepping in ("exact", "fast"))
        identical = sum(comparison.frames for comparison in exact if not comparison.differing_pixels)
        lines.append(
            f"| {suite} | {len(done)} | {sum(c.steps for c in exact)}"
            f" | {max(c.max_qpos for c in exact):.0e}, {max(c.max_qvel for c in exact):.0e}"
            f" | {sum(c.differing_flags for c in exact)} | {identical} of {sum(c.frames for c in exact)}"
            f" | {max(c.max_qpos_free for c in fast):.1e} | {max(c.max_qpos for c in fast):.1e} |"
        )
    return lines + [f"\nNot compared: {line}" for line in failed]


def main() -> None:
    """Compares what is missing, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="+", default=list(STANDARD_LIMITS), help="suites, default LIBERO's own")
    parser.add_argument("--tasks", nargs="+", type=int, help="task ids of each suite, default all")
    parser.add_argument("--steps", type=int, default=120, help="env steps per task")
    parser.add_argument("--seed", type=int, default=0, help="of the actions and the initial state")
    parser.add_argument("--keep-models", action="store_true", help="build into the cache, not into a scratch folder")
    parser.add_argument("--without-frames", action="store_true", help="compare the physics alone, in half the time")
    parser.add_argument("--output", type=Path, default=Path("runs/libero_parity.json"), help="file of the results")
    options = parser.parse_args()
    results = json.loads(options.output.read_text()) if options.output.is_file() else {}
    for suite in options.suites:
        for task_id in options.tasks or range(num_tasks(suite)):
            key = f"{suite}:{task_id}"
            if key in results and "error" not in results[key]:
                continue
            started = time.perf_counter()
            try:
                request = make_request(
                    suite, task_id, steps=options.steps, with_frames=not options.without_frames, seed=options.seed
                )
                if options.keep_models:
                    request = replace(request, models=TaskFiles.of(suite, task_id).folder)
                exact, fast = run_live(request)
                results[key] = {"exact": asdict(exact), "fast": asdict(fast)}
                verdict = f"{'identical' if exact.is_identical else exact}, fast {fast.max_qpos:.1e}"
            except UserError as error:
                results[key] = {"error": str(error)}
                verdict = str(error)
            write_atomically(options.output, lambda path: path.write_text(json.dumps(results, indent=1)))
            print(f"{key} {verdict} ({time.perf_counter() - started:.0f} s)", flush=True)
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
