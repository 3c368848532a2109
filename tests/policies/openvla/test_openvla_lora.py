"""Adapters against peft's own merge as the reference ran it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.openvla_fixture import FOLDER, arrays, distance, needs_fixture, prompts
from vlarl.configs.openvla import LoRAConfig, OpenVLAConfig
from vlarl.errors import UserError
from vlarl.policies.openvla.checkpoint import load_model, open_checkpoint
from vlarl.policies.openvla.lora import add_lora, load_adapter, merge, trainable_parameters
from vlarl.policies.openvla.model import OpenVLAModel
from vlarl.policies.openvla.processor import OpenVLAProcessor


def test_trainable_parameters_at_7b():
    """The figure that OpenVLA's fine-tuning prints for rank 32 on all linear layers."""
    with torch.device("meta"):
        adapted = add_lora(OpenVLAModel(OpenVLAConfig()), LoRAConfig())
    assert trainable_parameters(adapted) == 110_828_288


@pytest.fixture(scope="module")
def model():
    return load_model(open_checkpoint(FOLDER / "checkpoint"), dtype=torch.float32)


@needs_fixture
def test_adapter_tensors_have_the_references_names_and_shapes(tmp_path):
    adapted = add_lora(load_model(open_checkpoint(FOLDER / "checkpoint")), LoRAConfig())
    adapted.save_pretrained(str(tmp_path))
    expected = json.loads((FOLDER / "lora.json").read_text())["adapter_tensor_shapes"]
    saved = {name: list(tensor.shape) for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items()}
    # peft also writes the embedding's neighbour when it was wrapped; versions differ in that.
    lora = {name: shape for name, shape in expected.items() if ".lora_" in name}
    assert {name: shape for name, shape in saved.items() if ".lora_" in name} == lora


@needs_fixture
def test_merging_is_the_references(tmp_path):
    raw = arrays("lora.npz")
    source = open_checkpoint(FOLDER / "checkpoint")
    adapted = add_lora(load_model(source, dtype=torch.float32), LoRAConfig())
    given = {name.removeprefix("adapter/"): value for name, value in raw.items() if name.startswith("adapter/")}
    state = adapted.state_dict()
    for name, value in given.items():
        key = name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")
        assert key in state
        state[key].copy_(torch.from_numpy(value))
    merged = merge(adapted)
    weights = merged.state_dict()
    for name, value in raw.items():
        if name.startswith("merged/"):
            assert distance(weights[name.removeprefix("merged/")], value) <= 1e-6
    picture, task = prompts()["cases"][0]
    processor = OpenVLAProcessor.from_folder(FOLDER / "checkpoint")
    ids, mask = processor.encode_instructions([prompts()["tasks"][task]])
    pixels = processor.normalize(torch.from_numpy(processor.resize([arrays("images.npz")[f"image_{picture}"]])))
    with torch.no_grad():
        assert distance(merged(pixels, ids, mask)[0, -1], raw["c0_last_logits_merged"]) <= 5e-4


@needs_fixture
def test_an_adapter_survives_the_disk_and_starts_without_effect(tmp_path, model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = add_lora(model, LoRAConfig(rank=4, alpha=8))
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
    with torch.no_grad():
        adapted.get_parameter("base_model.model.projector.fc1.lora_B.default.weight").fill_(0.01)
    adapted.save_pretrained(str(tmp_path))
    expected = merge(adapted).state_dict()["projector.fc1.weight"]
    assert not torch.equal(expected, before["projector.fc1.weight"])
    again = load_adapter(load_model(open_checkpoint(FOLDER / "checkpoint"), dtype=torch.float32), tmp_path)
    state = merge(again).state_dict()
    assert torch.allclose(state["projector.fc1.weight"], expected)
    assert torch.equal(state["projector.fc2.weight"], before["projector.fc2.weight"])


@needs_fixture
def test_no_adapter(tmp_path, model):
    with pytest.raises(UserError, match=r"no adapter_config\.json|it has no adapter_config\.json"):
        load_adapter(model, tmp_path)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match=r"lora\.rank"):
        LoRAConfig(rank=0)
    with pytest.raises(UserError, match=r"lora\.dropout"):
        LoRAConfig(dropout=1.0)
