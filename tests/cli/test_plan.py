"""`vlarl plan` from the command line."""

import json

import pytest

from vlarl.cli.main import main

PIECES = ["--pieces.env-turn", "2", "--pieces.decode", "1", "--pieces.decode-observation", "0.5"]
PIECES += ["--pieces.learn-turn", "20", "--pieces.publish", "3", "--trajectories", "10", "--turns", "5"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(["plan", *arguments])
    return raised.value.code


def test_rows_for_powers_of_two_and_the_largest(capsys):
    assert run(*PIECES, "--gpus", "12", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["gpus"] for row in rows] == [1, 2, 4, 8, 12]
    # Learning takes 1000 s on one trainer: all GPUs but one train, until halving the rollout gains more.
    assert [row["num_trainers"] for row in rows] == [1, 1, 3, 7, 10]
    assert rows[1]["seconds"] == pytest.approx(rows[0]["seconds"])
    assert rows[2]["learn"] == pytest.approx(1000 / 3 + 3)
    assert {row["bottleneck"] for row in rows} == {"trainers"}
    assert run(*PIECES) == 0
    assert "more of these would help" in capsys.readouterr().out


def test_pieces_are_needed_and_checked(capsys):
    assert run("--gpus", "4") == 2
    assert run(*PIECES, "--gpus", "0") == 2
    assert "--gpus must be at least 1, got 0" in capsys.readouterr().err
