"""Adapters against peft's own merge as the reference ran it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.openvla_fixture import Reference
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


def load(reference: Reference, dtype: torch.dtype = torch.float32) -> OpenVLAModel:
    return load_model(open_checkpoint(reference.checkpoint), dtype=dtype)


def test_adapters_have_the_references_names_shapes_and_settings(reference, tmp_path):
    expected = reference.json("lora.json")
    adapted = add_lora(load(reference), LoRAConfig())
    wrapped = {
        name.removesuffix(".lora_A.default") for name, _ in adapted.named_modules() if name.endswith("lora_A.default")
    }
    names = {name.removeprefix("base_model.model.") for name in wrapped}
    assert names == {*expected["module_names"], *expected["conv_module_names"]}
    adapted.save_pretrained(str(tmp_path))
    saved = {name: list(tensor.shape) for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items()}
    # peft also writes the base weights of a wrapped head; versions differ in that.
    lora = {name: shape for name, shape in expected["adapter_tensor_shapes"].items() if ".lora_" in name}
    assert {name: shape for name, shape in saved.items() if ".lora_" in name} == lora
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    for key in ("r", "lora_alpha", "lora_dropout", "bias"):
        assert written[key] == expected["adapter_config"][key]
    assert written["lora_alpha"] / written["r"] == expected["scaling"]


def put_adapters(adapted, raw) -> None:
    state = adapted.state_dict()
    for name, value in raw.items():
        if name.startswith("adapter/"):
            key = name.removeprefix("adapter/")
            key = key.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")
            state[key].copy_(torch.from_numpy(value))


@torch.no_grad()
def test_merging_is_the_references(reference):
    raw = reference.arrays("lora.npz")
    before = load(reference).state_dict()
    adapted = add_lora(load(reference), LoRAConfig())
    put_adapters(adapted, raw)
    merged = merge(adapted)
    weights = merged.state_dict()
    for name, value in raw.items():
        if name.startswith("merged/"):
            reference.within("LoRA, merged weights", weights[name.removeprefix("merged/")], value, 1e-6)
    changed = {name for name, tensor in weights.items() if not torch.equal(tensor, before[name])}
    assert changed == set(reference.json("lora.json")["changed_state_dict_keys"])
    case = next(reference.cases())
    processor = OpenVLAProcessor.from_folder(reference.checkpoint)
    ids, mask = processor.encode_instructions([reference.prompts["tasks"][case.task]])
    logits = merged(reference.pixels(processor, case.picture), ids, mask)[0, -1]
    reference.within("LoRA, logits of the merged model", logits, raw["c0_last_logits_merged"], 5e-4)


@torch.no_grad()
def test_merging_into_bfloat16_is_the_references(reference):
    raw = reference.arrays("lora.npz")
    adapted = add_lora(load(reference, torch.bfloat16), LoRAConfig())
    put_adapters(adapted, raw)
    weights = merge(adapted).state_dict()
    for name, value in raw.items():
        if name.startswith("merged_bf16_as_f32/"):
            weight = weights[name.removeprefix("merged_bf16_as_f32/")]
            assert weight.dtype == torch.bfloat16
            reference.within("LoRA, merged into bfloat16", weight.float(), value, 0)


def test_an_adapter_survives_the_disk_and_starts_without_effect(some_reference, tmp_path):
    model = load(some_reference)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = add_lora(model, LoRAConfig(rank=4, alpha=8))
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
    with torch.no_grad():
        adapted.get_parameter("base_model.model.projector.fc1.lora_B.default.weight").fill_(0.01)
    adapted.save_pretrained(str(tmp_path))
    expected = merge(adapted).state_dict()["projector.fc1.weight"]
    assert not torch.equal(expected, before["projector.fc1.weight"])
    again = load_adapter(load(some_reference), tmp_path)
    state = merge(again).state_dict()
    assert torch.allclose(state["projector.fc1.weight"], expected)
    assert torch.equal(state["projector.fc2.weight"], before["projector.fc2.weight"])


def test_no_adapter(some_reference, tmp_path):
    with pytest.raises(UserError, match=r"it has no adapter_config\.json"):
        load_adapter(load(some_reference), tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickled weights are not read"):
        load_adapter(load(some_reference), tmp_path)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match=r"lora\.rank"):
        LoRAConfig(rank=0)
    with pytest.raises(UserError, match=r"lora\.dropout"):
        LoRAConfig(dropout=1.0)
