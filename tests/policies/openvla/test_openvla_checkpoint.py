"""Reading, refusing and writing checkpoints of the published layout."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlarl.configs.openvla import OpenVLAConfig
from vlarl.errors import UserError
from vlarl.policies.openvla import checkpoint as checkpoint_module
from vlarl.policies.openvla.checkpoint import export, load_model, open_checkpoint
from vlarl.policies.openvla.model import OpenVLAModel


@pytest.fixture
def folder(some_reference, tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree(some_reference.checkpoint, copy)
    for path in (copy, *copy.iterdir()):
        path.chmod(0o755)
    return copy


def change_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def test_the_defaults_are_the_published_7b():
    """982 tensors, 7,541,237,184 parameters (openvla/openvla-7b)."""
    with torch.device("meta"):
        state = OpenVLAModel(OpenVLAConfig()).state_dict()
    assert len(state) == 982
    assert sum(tensor.numel() for tensor in state.values()) == 7_541_237_184


def test_the_names_and_shapes_are_the_published_7bs(published):
    expected = published.json("openvla_7b_state_dict_shapes.json")["shapes"]
    with torch.device("meta"):
        state = OpenVLAModel(OpenVLAConfig()).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == expected


@pytest.mark.parametrize("shard_bytes", [10**10, 10**5])
def test_load_export_load_is_bit_identical(reference, tmp_path, monkeypatch, shard_bytes):
    monkeypatch.setattr(checkpoint_module, "SHARD_BYTES", shard_bytes)
    source = open_checkpoint(reference.checkpoint)
    export(load_model(source), source, tmp_path / "copy")
    copy = open_checkpoint(tmp_path / "copy")
    assert (len(set(copy.shards.files.values())) > 1) == (shard_bytes < 10**9)
    assert (copy.config, copy.norm_stats) == (source.config, source.norm_stats)
    ours, theirs = load_model(copy).state_dict(), load_file(reference.checkpoint / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor)
    assert {p.name for p in (tmp_path / "copy").iterdir()} >= {"config.json", "preprocessor_config.json"}


def test_statistics_of_a_fine_tune_stand_above_the_configuration(folder):
    statistics = {"my_data": {"action": {"q01": [0.0], "q99": [1.0]}}}
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics))
    assert open_checkpoint(folder).norm_stats == statistics


def test_wrong_tensors_are_named_with_their_shapes(folder):
    def change(state):
        del state["projector.fc3.bias"]
        state["surplus"] = torch.zeros(2, 3)
        state["projector.fc2.bias"] = torch.zeros(5)

    change_weights(folder, change)
    with pytest.raises(UserError) as error:
        open_checkpoint(folder)
    for part in ("missing projector.fc3.bias", "unexpected surplus (2, 3)", "projector.fc2.bias has shape (5,)"):
        assert part in str(error.value)


def test_a_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or truncated"):
        open_checkpoint(folder)


def test_pickles_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickled weights \(pytorch_model\.bin\)"):
        open_checkpoint(folder)


def test_a_missing_shard_is_named(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"lacks the shard model-00001-of-00002\.safetensors"):
        open_checkpoint(folder)


def test_no_folder_and_no_hub_id(tmp_path):
    with pytest.raises(UserError, match="no checkpoint folder"):
        open_checkpoint(tmp_path / "nothing")
