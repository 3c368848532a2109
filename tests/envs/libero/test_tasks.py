"""Suites and tasks as LIBERO's own files have them; no simulator."""

import numpy as np
import pytest

from vlarl.envs.libero.tasks import STANDARD_LIMITS, STEP_LIMITS, load_task, num_tasks, parse_language
from vlarl.errors import UserError

SUPPORTED = {"on", "in", "open", "close", "turnon", "turnoff"}


def test_counts_of_the_suites():
    assert sum(num_tasks(suite) for suite in STANDARD_LIMITS) == 130
    assert len(STEP_LIMITS) == 5 + 4 * 4
    assert all(num_tasks(suite) == 10 for suite in STEP_LIMITS if suite != "libero_90")


@pytest.mark.parametrize("suite", STEP_LIMITS)
def test_every_task_is_readable(suite):
    for task_id in range(num_tasks(suite)):
        task = load_task(suite, task_id)
        assert {predicate[0] for predicate in task.goal} <= SUPPORTED
        assert task.instruction == task.instruction.strip() != ""
        assert "_" not in task.instruction
    states = np.load(task.init_states_file, allow_pickle=False)["states"]
    assert len(states) == 50


def test_perturbed_tasks_say_what_differs():
    assert load_task("libero_goal", 9).instruction == "put the wine bottle on the rack"
    assert load_task("libero_goal_lan", 9).instruction == "place the wine bottle on the rack"
    assert load_task("libero_goal_task", 9).instruction == "Put the cream cheese on the rack"
    assert load_task("libero_goal_task", 9).goal != load_task("libero_goal", 9).goal
    assert STEP_LIMITS["libero_10_swap"] == STEP_LIMITS["libero_10"] == 520


def test_language_of_a_bddl_file():
    assert parse_language("(define\n  (:language  Put it down )\n (:goal (And)))") == "Put it down"
    with pytest.raises(UserError, match="no \\(:language"):
        parse_language("(define)")
