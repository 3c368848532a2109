"""The vector environment against direct stepping, and its behaviour when workers fail."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from vlarl.configs.env import EnvConfig
from vlarl.envs import toy, vector
from vlarl.envs.base import ENVIRONMENTS, Transition
from vlarl.envs.vector import VectorEnv, WorkerError
from vlarl.errors import MissingSystemLibraryError, UserError
from vlarl.types import Start

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_EPISODES = 6


def make_config(num_envs: int, num_workers: int, name: str = "toy") -> EnvConfig:
    return EnvConfig(
        name=name, task_suite="toy", task_ids=(0, 1), image_size=16, num_envs=num_envs, num_workers=num_workers
    )


def episode_start(episode: int) -> Start:
    return Start(task_id=episode % 2, split="train", index=episode)


def turn_actions(episode: int, turn: int) -> np.ndarray:
    # Small enough that no episode ends within the first turns.
    return np.random.default_rng([episode, turn]).uniform(-0.5, 0.5, (3, 2)).astype(np.float32)


def play_directly(episode: int) -> list:
    environment = toy.make_environments(make_config(1, 1), 1)[0]
    replies = [environment.reset(episode_start(episode))]
    while not is_over(replies[-1]):
        replies.append(environment.step(turn_actions(episode, len(replies) - 1)))
    return replies


def play(envs: VectorEnv, disturb=lambda turn: None) -> list[list]:
    """All episodes, as many at a time as there are slots."""
    replies: list[list] = [[] for _ in range(NUM_EPISODES)]
    for first in range(0, NUM_EPISODES, envs.num_envs):
        running = {slot: first + slot for slot in range(min(envs.num_envs, NUM_EPISODES - first))}
        envs.reset({slot: episode_start(episode) for slot, episode in running.items()})
        turn = 0
        while running:
            disturb(turn)
            for slot, reply in zip(list(running), envs.receive(list(running)), strict=True):
                replies[running[slot]].append(reply)
            running = {slot: episode for slot, episode in running.items() if not is_over(replies[episode][-1])}
            envs.step({slot: turn_actions(episode, turn) for slot, episode in running.items()})
            turn += 1
    return replies


def is_over(reply) -> bool:
    return isinstance(reply, Transition) and (reply.terminated or reply.truncated)


def assert_same(left: list, right: list) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert type(a) is type(b)
        seen_a, seen_b = (r.observation if isinstance(r, Transition) else r for r in (a, b))
        assert seen_a.image.tobytes() == seen_b.image.tobytes()
        assert seen_a.proprio.tobytes() == seen_b.proprio.tobytes()
        assert seen_a.instruction == seen_b.instruction
        if isinstance(a, Transition):
            assert [vars(a)[k] for k in ("reward", "terminated", "truncated", "success", "executed_steps")] == [
                vars(b)[k] for k in ("reward", "terminated", "truncated", "success", "executed_steps")
            ]


@pytest.fixture(scope="module")
def expected() -> list[list]:
    return [play_directly(episode) for episode in range(NUM_EPISODES)]


@pytest.mark.parametrize(("num_envs", "num_workers"), [(1, 1), (4, 2), (6, 3)])
def test_same_bits_as_direct_stepping(num_envs, num_workers, expected):
    with VectorEnv(make_config(num_envs, num_workers)) as envs:
        played = play(envs)
    for left, right in zip(played, expected, strict=True):
        assert len(right) > 3
        assert_same(left, right)
    assert envs.restarted_episodes == 0


def test_replies_come_in_the_order_asked_for_and_groups_are_independent():
    with VectorEnv(make_config(4, 2)) as envs:
        envs.reset({0: episode_start(0), 1: episode_start(1)})
        envs.reset({2: episode_start(2), 3: episode_start(3)})
        replies = envs.receive([3, 0])
        envs.step({3: turn_actions(3, 0)})
        replies += envs.receive([2, 1])
        for reply, episode in zip(replies, (3, 0, 2, 1), strict=True):
            assert_same([reply], play_directly(episode)[:1])
        assert_same(envs.receive([3]), play_directly(3)[1:2])


def test_the_caller_may_reuse_its_action_buffer(expected):
    with VectorEnv(make_config(1, 1)) as envs:
        envs.reset({0: episode_start(0)})
        replies = envs.receive([0])
        buffer = np.empty((3, 2), np.float32)
        for turn in range(3):
            buffer[:] = turn_actions(0, turn)
            envs.step({0: buffer})
            buffer[:] = 9.0
            if turn == 1:
                kill_worker(envs, 0)
            replies += envs.receive([0])
    assert_same(replies, expected[0][:4])


def test_rates_are_those_of_busy_workers():
    with VectorEnv(make_config(2, 2)) as envs:
        envs.reset({0: episode_start(0)})
        envs.receive([0])
        assert envs.take_rates() == {}
        envs.step({0: turn_actions(0, 0)})
        (reply,) = envs.receive([0])
        assert reply.executed_steps == 3 and reply.seconds > 0
        assert envs.take_rates() == {"worker_0": pytest.approx(3 / reply.seconds)}
        assert envs.take_rates() == {}


def kill_worker(envs: VectorEnv, index: int) -> None:
    os.kill(envs._workers[index].process.pid, signal.SIGKILL)


def test_killed_workers_change_nothing(expected):
    with VectorEnv(make_config(4, 2)) as envs:

        def disturb(turn: int) -> None:
            # Once with requests open, once right after a send, in both workers.
            if turn in (1, 3):
                kill_worker(envs, turn // 2)

        played = play(envs, disturb)
        restarted = envs.restarted_episodes
    for left, right in zip(played, expected, strict=True):
        assert_same(left, right)
    # Two rounds of episodes (4, then 2 in slots 0 and 1), two kills in each: 2 + 2 + 1 + 1.
    assert restarted == 6


def test_a_worker_killed_between_turns_is_noticed_at_the_next_step(expected):
    with VectorEnv(make_config(2, 1)) as envs:
        envs.reset({0: episode_start(0), 1: episode_start(1)})
        envs.receive([0, 1])
        kill_worker(envs, 0)
        envs._workers[0].process.join()
        envs.step({1: turn_actions(1, 0)})
        assert_same(envs.receive([1]), expected[1][1:2])
        envs.step({0: turn_actions(0, 0)})
        assert_same(envs.receive([0]), expected[0][1:2])
        assert envs.restarted_episodes == 2


def test_a_hung_worker_is_replaced(expected, monkeypatch):
    monkeypatch.setattr(vector, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(vector, "REPLY_TIMEOUT_SECONDS", 0.3)
    with VectorEnv(make_config(1, 1)) as envs:
        envs.reset({0: episode_start(0)})
        envs.receive([0])
        os.kill(envs._workers[0].process.pid, signal.SIGSTOP)
        envs.step({0: turn_actions(0, 0)})
        assert_same(envs.receive([0]), expected[0][1:2])
        assert envs.restarted_episodes == 1


def test_errors_of_the_user_keep_class_and_message_and_leave_the_rest_usable(expected):
    with VectorEnv(make_config(2, 1)) as envs:
        envs.reset({0: Start(task_id=0, split="train", index=10**6), 1: episode_start(1)})
        with pytest.raises(UserError, match="1000000.*0 to 999"):
            envs.receive([0, 1])
        assert_same(envs.receive([1]), expected[1][:1])
        envs.reset({0: episode_start(0)})
        assert_same(envs.receive([0]), expected[0][:1])


def test_unknown_names_fail_in_the_driver():
    with pytest.raises(UserError, match="Did you mean 'toy'"):
        VectorEnv(make_config(1, 1, name="toyy"))
    with pytest.raises(UserError, match="task"):
        VectorEnv(EnvConfig(name="toy", task_suite="toy", task_ids=(7,), num_envs=1, num_workers=1))


@pytest.mark.parametrize("misuse", ["unknown slot", "step before reset", "two requests", "receive nothing"])
def test_misuse_is_refused(misuse):
    with VectorEnv(make_config(1, 1)) as envs, pytest.raises(ValueError, match="slot"):
        if misuse == "unknown slot":
            envs.reset({1: episode_start(0)})
        elif misuse == "step before reset":
            envs.step({0: turn_actions(0, 0)})
        elif misuse == "receive nothing":
            envs.receive([0])
        else:
            envs.reset({0: episode_start(0)})
            envs.reset({0: episode_start(0)})


FAULTY_MODULE = """
import os, signal, sys, time
from vlarl.envs import toy
from vlarl.envs.base import EnvObservation
from vlarl.envs.toy import make_spec, prepare
from vlarl.errors import MissingSystemLibraryError

class Environment(toy.ToyEnvironment):
    def step(self, actions):
        if actions[0, 0] == 1:
            raise ZeroDivisionError("a bug in the simulator")
        if actions[0, 0] == 2:
            raise MissingSystemLibraryError("apt-get install something")
        if actions[0, 0] == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if actions[0, 0] == 4:
            time.sleep(60)
        return super().step(actions)

    def reset(self, start):
        seen = super().reset(start)
        instruction = "torch loaded" if "torch" in sys.modules else "no torch"
        return EnvObservation(image=seen.image, proprio=seen.proprio, instruction=instruction)

def make_environments(config, num_slots):
    return [Environment(config) for _ in range(num_slots)]
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch) -> str:
    (tmp_path / "faulty_environment.py").write_text(FAULTY_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ENVIRONMENTS, "faulty", "faulty_environment")
    return "faulty"


def fault(number: int) -> np.ndarray:
    return np.full((1, 2), number, np.float32)


def test_failures_of_the_simulator(faulty):
    with VectorEnv(make_config(1, 1, name=faulty)) as envs:
        for number, error, message in (
            (1, WorkerError, "in step(.|\n)*ZeroDivisionError: a bug in the simulator"),
            (2, MissingSystemLibraryError, "apt-get install something"),
            (3, WorkerError, "SIGSEGV.*3 times in a row"),
        ):
            envs.reset({0: episode_start(0)})
            envs.receive([0])
            envs.step({0: fault(number)})
            with pytest.raises(error, match=message):
                envs.receive([0])


def test_workers_do_not_load_torch_or_the_callers_main(tmp_path):
    # A stand-in for torch keeps this quick; the script has no main guard.
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "faulty_environment.py").write_text(FAULTY_MODULE)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import torch
            from vlarl.configs.env import EnvConfig
            from vlarl.envs.base import ENVIRONMENTS
            from vlarl.envs.vector import VectorEnv
            from vlarl.types import Start
            ENVIRONMENTS["faulty"] = "faulty_environment"
            config = EnvConfig(name="faulty", task_suite="toy", num_envs=1, num_workers=1)
            with VectorEnv(config) as envs:
                envs.reset({0: Start(task_id=0, split="train", index=0)})
                print(envs.receive([0])[0].instruction)
            """
        )
    )
    done = run_script(script, tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("no torch", 0), done.stderr


def run_script(script: Path, path: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(script)], env=script_environment(path), capture_output=True, text=True, timeout=300
    )


def script_environment(path: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{REPOSITORY}"}


@pytest.mark.parametrize("state", ["idle", "in a long step"])
def test_no_process_outlives_a_killed_driver(tmp_path, state):
    (tmp_path / "faulty_environment.py").write_text(FAULTY_MODULE)
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import time
            import numpy as np
            from vlarl.configs.env import EnvConfig
            from vlarl.envs.base import ENVIRONMENTS
            from vlarl.envs.vector import VectorEnv
            from vlarl.types import Start
            ENVIRONMENTS["faulty"] = "faulty_environment"
            envs = VectorEnv(EnvConfig(name="faulty", task_suite="toy", num_envs=2, num_workers=2))
            envs.reset({{s: Start(task_id=0, split="train", index=s) for s in (0, 1)}})
            envs.receive([0, 1])
            if {state!r} != "idle":
                envs.step({{s: np.full((1, 2), 4, np.float32) for s in (0, 1)}})
            print("running", flush=True)
            time.sleep(60)
            """
        )
    )
    driver = subprocess.Popen(
        [sys.executable, str(script)], env=script_environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout.readline().strip() == "running"
        children = psutil.Process(driver.pid).children(recursive=True)
        assert len(children) >= 3
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_close_is_quick_and_workers_ignore_ctrl_c():
    envs = VectorEnv(make_config(4, 2))
    envs.reset({0: episode_start(0)})
    envs.receive([0])
    processes = [worker.process for worker in envs._workers]
    for process in processes:
        os.kill(process.pid, signal.SIGINT)
    envs.step({0: turn_actions(0, 0)})
    envs.receive([0])
    assert envs.restarted_episodes == 0
    started = time.monotonic()
    envs.close()
    envs.close()
    assert time.monotonic() - started < 1
    assert not any(process.is_alive() for process in processes)
