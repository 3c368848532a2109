"""Roles that are lost, and what one process cannot do."""

from dataclasses import replace
from itertools import count

import pytest

from vlarl.errors import UserError
from vlarl.recipes import toy
from vlarl.training import build
from vlarl.training.build import LocalRoles, train_to_the_end
from vlarl.training.roles import RoleLostError


class FakeTrainer:
    """Loses a role in its first `losses` runs."""

    def __init__(self, number: int, losses: int) -> None:
        self.number, self.losses = number, losses

    def run(self) -> str:
        if self.number < self.losses:
            raise RoleLostError(f"trainer {self.number} died")
        return f"state of trainer {self.number}"


def train(losses: int, max_restarts: int, monkeypatch) -> tuple[object, list[str], list[float]]:
    made, lines, waits = count(), [], []
    monkeypatch.setattr(build.time, "sleep", waits.append)
    result = train_to_the_end(lambda: FakeTrainer(next(made), losses), max_restarts, lines.append)
    return result, lines, waits


def test_every_loss_begins_anew_and_is_told(monkeypatch):
    result, lines, waits = train(2, 5, monkeypatch)
    assert result == ("state of trainer 2", 2)
    assert lines == [f"trainer {n} died; going on from the newest checkpoint" for n in (0, 1)]
    assert waits == [0.5, 1.0]


def test_too_many_losses_end_with_the_last(monkeypatch):
    with pytest.raises(UserError, match="trainer 2 died; given up after 2 restarts: the same command goes on"):
        train(9, 2, monkeypatch)


def test_one_process_cannot_overlap_rollout_and_update(tmp_path):
    config = toy()
    ahead = replace(config, ppo=replace(config.ppo, max_staleness=1))
    with pytest.raises(UserError, match="ppo.max_staleness is 1: .*--cluster auto"):
        LocalRoles(None).start(ahead, tmp_path, None)
