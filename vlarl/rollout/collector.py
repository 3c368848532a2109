"""Collects whole trajectories: two groups of slots take turns, one decodes while the other simulates."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlarl.envs.base import EnvObservation, Transition
from vlarl.envs.vector import VectorEnv
from vlarl.inference.base import ActionGenerator, sampling_noise
from vlarl.rewards.base import RewardFn
from vlarl.types import Generation, Observation, Rollout, WorkItem

ObservationTransform = Callable[[Observation], Observation]
ProgressFn = Callable[[int, int, int], None]
"""Called with (finished trajectories, successes, env steps) so far."""


@dataclass
class _Episode:
    """A trajectory under construction."""

    item: WorkItem
    observations: list[EnvObservation] = field(default_factory=list)
    generations: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)


class Collector:
    """Runs work lists on a vector environment.

    The schedule follows from the work list and the outcomes alone, never from timing: the same list with the same
    weights gives the same rollout, bit for bit on the same number of slots and threads.
    """

    def __init__(self, envs: VectorEnv, replan_steps: int) -> None:
        self._envs = envs
        self._replan_steps = replan_steps
        # Neighbouring slots go to the same group so that both groups have slots in every worker.
        workers = max(1, envs.num_workers)
        groups = [[s for s in range(envs.num_envs) if (s // workers) % 2 == g] for g in (0, 1)]
        self._groups = [group for group in groups if group]
        self._submitted: deque[tuple[ActionGenerator, Sequence[WorkItem]]] = deque()

    def submit(self, generator: ActionGenerator, items: Sequence[WorkItem]) -> None:
        """Asks for a trajectory per item; in this process they are collected when `result` is called."""
        self._submitted.append((generator, items))

    def result(self, reward_fn: RewardFn, progress: ProgressFn | None = None) -> Rollout:
        """Returns the rollout that was submitted first and not yet returned; hands its observations to `reward_fn`."""
        generator, items = self._submitted.popleft()
        return self.collect(generator, items, reward_fn=reward_fn, progress=progress)

    def collect(
        self,
        generator: ActionGenerator,
        items: Sequence[WorkItem],
        *,
        greedy: bool = False,
        transform: ObservationTransform | None = None,
        reward_fn: RewardFn | None = None,
        progress: ProgressFn | None = None,
    ) -> Rollout:
        """Collects one trajectory per work item.

        Args:
            generator: decodes the actions.
            items: the work list; noise of an item depends on its seed, trajectory_index and turn only.
            greedy: takes the most probable token instead of sampling.
            transform: changes what the policy sees (probes); the rollout holds the changed observations.
            reward_fn: is handed every observation once the actions that follow it are on their way.
            progress: called whenever a trajectory ends.
        """
        waiting, active, done = deque(items), {}, []
        for group in self._groups:
            self._assign(group, waiting, active)
        while active:
            for group in self._groups:
                slots = [slot for slot in group if slot in active]
                if not slots:
                    continue
                finished = len(done)
                ready, ended = self._receive(slots, active, done)
                self._assign(ended, waiting, active)
                if ended and progress:
                    progress(len(done), _count_successes(done), _count_steps(done))
                if ready:
                    self._decode(ready, active, generator, greedy, transform)
                if reward_fn:
                    seen = [(active[slot].item, active[slot].observations[-1]) for slot in ready]
                    seen += [(episode.item, episode.transitions[-1].observation) for episode in done[finished:]]
                    _submit(reward_fn, seen)
        return _pack(sorted(done, key=lambda e: e.item.trajectory_index), generator.policy_version, self._replan_steps)

    def _assign(self, slots: Sequence[int], waiting: deque[WorkItem], active: dict[int, _Episode]) -> None:
        starts = {}
        for slot in slots:
            if waiting:
                active[slot] = _Episode(waiting.popleft())
                starts[slot] = active[slot].item.start
        if starts:
            self._envs.reset(starts)

    def _receive(
        self, slots: list[int], active: dict[int, _Episode], done: list[_Episode]
    ) -> tuple[list[int], list[int]]:
        """Takes the replies; returns the slots that wait for actions and those whose trajectory ended."""
        ready, ended = [], []
        for slot, reply in zip(slots, self._envs.receive(slots), strict=True):
            episode = active[slot]
            if isinstance(reply, Transition):
                episode.transitions.append(reply)
                if reply.terminated or reply.truncated:
                    done.append(active.pop(slot))
                    ended.append(slot)
                    continue
                reply = reply.observation
            episode.observations.append(reply)
            ready.append(slot)
        return ready, ended

    def _decode(
        self,
        slots: list[int],
        active: dict[int, _Episode],
        generator: ActionGenerator,
        greedy: bool,
        transform: ObservationTransform | None,
    ) -> None:
        episodes = [active[slot] for slot in slots]
        observations = _stack([episode.observations[-1] for episode in episodes])
        if transform:
            observations = transform(observations)
            for row, episode in enumerate(episodes):
                episode.observations[-1] = EnvObservation(
                    image=observations.images[row],
                    proprio=observations.proprio[row],
                    instruction=observations.instructions[row],
                )
        noise = None if greedy else np.stack([self._noise(episode, generator) for episode in episodes])
        generation: Generation = generator.generate(observations, noise)
        actions = generation.actions[:, : self._replan_steps]
        for row, episode in enumerate(episodes):
            episode.generations.append(
                (generation.action_tokens[row], generation.logprobs[row], generation.entropy[row], actions[row])
            )
        self._envs.step({slot: actions[row] for row, slot in enumerate(slots)})

    def _noise(self, episode: _Episode, generator: ActionGenerator) -> np.ndarray:
        turn = len(episode.generations)
        return sampling_noise(episode.item.seed, episode.item.trajectory_index, turn, generator.num_action_tokens)


def _stack(observations: Sequence[EnvObservation]) -> Observation:
    return Observation(
        images=np.stack([o.image for o in observations]),
        proprio=np.stack([o.proprio for o in observations]).astype(np.float32, copy=False),
        instructions=tuple(o.instruction for o in observations),
    )


def _submit(reward_fn: RewardFn, seen: Sequence[tuple[WorkItem, EnvObservation]]) -> None:
    if seen:
        reward_fn.submit([item for item, _ in seen], _stack([observation for _, observation in seen]))


def _count_successes(episodes: Sequence[_Episode]) -> int:
    return sum(e.transitions[-1].success for e in episodes)


def _count_steps(episodes: Sequence[_Episode]) -> int:
    return sum(t.executed_steps for e in episodes for t in e.transitions)


def _pack(episodes: Sequence[_Episode], policy_version: int, replan_steps: int) -> Rollout:
    turns = [(e, index) for e in episodes for index in range(len(e.transitions))]
    tokens, logprobs, entropy, actions = (
        np.stack([e.generations[index][part] for e, index in turns]) for part in range(4)
    )
    last = [e.transitions[-1] for e in episodes]
    return Rollout(
        observations=_stack([e.observations[index] for e, index in turns]),
        final_observations=_stack([t.observation for t in last]),
        action_tokens=tokens,
        generator_logprobs=logprobs,
        generator_entropy=entropy,
        executed_actions=actions[:, :replan_steps],
        executed_steps=np.array([e.transitions[index].executed_steps for e, index in turns], dtype=np.int64),
        env_rewards=np.array([e.transitions[index].reward for e, index in turns], dtype=np.float32),
        trajectory_offsets=np.cumsum([0] + [len(e.transitions) for e in episodes], dtype=np.int64),
        terminated=np.array([t.terminated for t in last]),
        truncated=np.array([t.truncated for t in last]),
        success=np.array([t.success for t in last]),
        items=tuple(e.item for e in episodes),
        policy_version=policy_version,
    )
