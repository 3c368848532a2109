"""Ctrl-C in the middle of a checkpoint."""

import pytest
import torch

from vlarl.distributed.checkpoint import load_sharded, save_sharded
from vlarl.distributed.ranks import Ranks


@pytest.mark.parametrize("raised", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_save_is_an_interruption(tmp_path, monkeypatch, raised):
    def interrupt(*_: object) -> None:
        raise raised

    monkeypatch.setattr("torch.distributed.checkpoint.default_planner._flatten_sharded_tensors", interrupt)
    tensors = {"a": torch.ones(2)}
    with pytest.raises(BaseException) as found:  # noqa: PT011 - torch's own is no Exception
        save_sharded(tensors, tmp_path, Ranks())
    assert (found.type is KeyboardInterrupt) == (raised is KeyboardInterrupt)
    monkeypatch.undo()
    save_sharded(tensors, tmp_path, Ranks())
    read = {"a": torch.zeros(2)}
    load_sharded(read, tmp_path, Ranks())
    assert read["a"].tolist() == [1.0, 1.0]
