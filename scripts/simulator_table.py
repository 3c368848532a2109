"""Makes the table that `vlarl doctor` compares a machine with: what every task settles to and looks like.

    python scripts/simulator_table.py [--suites libero_goal ...] [--tasks 0 1 ...]

Rows that exist are kept unless --again is given. A task that is not built is built (half a minute); reference models
that were built for this are deleted again, because each takes up to 0.4 GB.
"""

import argparse
import json
from dataclasses import asdict

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero.simulator_check import TABLE, measure, this_machine  # isort: skip

from vlarl.envs.libero.build import build_models, make_upstream
from vlarl.envs.libero.cache import TaskFiles
from vlarl.envs.libero.tasks import STANDARD_LIMITS, load_task, num_tasks
from vlarl.files import write_atomically


def main() -> None:
    """Measures and writes, task by task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="+", default=list(STANDARD_LIMITS), help="suites, default LIBERO's own")
    parser.add_argument("--tasks", nargs="+", type=int, help="task ids of each suite, default all")
    parser.add_argument("--again", action="store_true", help="measure tasks that have a row too")
    options = parser.parse_args()
    table = json.loads(TABLE.read_text()) if TABLE.is_file() else {"tasks": {}}
    table["machine"] = asdict(this_machine())
    for suite in options.suites:
        for task_id in options.tasks or range(num_tasks(suite)):
            key, files = f"{suite}:{task_id}", TaskFiles.of(suite, task_id)
            if key in table["tasks"] and not options.again:
                continue
            had_reference = files.reference.is_file()
            if not (had_reference and files.is_loadable()):
                task = load_task(suite, task_id)
                build_models(task, files, make_upstream(task, seed=0), "reference")
            table["tasks"][key] = asdict(measure(suite, task_id, ("fast", "reference")))
            if not had_reference:
                files.reference.unlink()
            write_atomically(TABLE, lambda path: path.write_text(_format(table)))
            print(key, flush=True)
    print(f"{TABLE}: {len(table['tasks'])} tasks, {TABLE.stat().st_size / 1000:.0f} kB")


def _format(table: dict[str, object]) -> str:
    """JSON with one line per task."""
    rows = sorted(table["tasks"].items(), key=lambda row: (row[0].partition(":")[0], int(row[0].partition(":")[2])))
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(row, separators=(',', ':'))}" for key, row in rows)
    return f'{{"machine": {json.dumps(table["machine"])},\n"tasks": {{\n{lines}\n}}}}\n'


if __name__ == "__main__":
    main()
