"""Commands on OpenVLA checkpoints: export, the memory plan, evaluation against a published figure."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import make_policy as make_tiny
from vlarl.cli import doctor
from vlarl.cli.evaluate import compare_with_published
from vlarl.cli.main import main
from vlarl.configs.openvla import LoRAConfig, OpenVLAPolicyConfig
from vlarl.policies.checkpoint import load_policy, save_policy
from vlarl.policies.openvla.policy import make_policy
from vlarl.training.memory import StepBytes


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    output = capsys.readouterr()
    return stopped.value.code or 0, output.out, output.err


def first_key(reference) -> str:
    return sorted(load_statistics(reference))[0]


def load_statistics(reference) -> dict:
    file = reference.checkpoint / "dataset_statistics.json"
    return json.loads(file.read_text()) if file.is_file() else reference.json("checkpoint/config.json")["norm_stats"]


@pytest.fixture
def trained(some_reference, tmp_path):
    """A policy folder whose adapters do something."""
    config = OpenVLAPolicyConfig(
        checkpoint=str(some_reference.checkpoint), lora=LoRAConfig(rank=4), unnorm_key=first_key(some_reference)
    )
    policy = make_policy(config)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    save_policy(policy, tmp_path / "policy")
    return tmp_path / "policy"


def test_export_merged_is_read_back_and_exported_again_bit_for_bit(capsys, trained, some_reference, tmp_path):
    code, out, _ = run(capsys, "export", "--policy", str(trained), "--output", str(tmp_path / "merged"))
    assert code == 0 and "exported" in out
    # The merged folder is a published checkpoint: reading and writing it changes nothing.
    policy = load_policy(tmp_path / "merged", unnorm_key=first_key(some_reference))
    policy.export(tmp_path / "again")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "again"))
    assert first.keys() == second.keys() == load_file(some_reference.checkpoint / "model.safetensors").keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    before = load_file(some_reference.checkpoint / "model.safetensors")
    assert not torch.equal(
        first["projector.fc1.weight"], before["projector.fc1.weight"].to(first["projector.fc1.weight"])
    )


def test_export_of_the_adapter_alone(capsys, trained, tmp_path):
    arguments = ("export", "--policy", str(trained), "--output", str(tmp_path / "adapter"), "--adapter-only", "--json")
    code, out, _ = run(capsys, *arguments)
    assert code == 0 and json.loads(out)["bytes"] > 0
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in (tmp_path / "adapter").iterdir()}


def test_bad_exports_are_refused(capsys, trained, tmp_path):
    code, _, errors = run(capsys, "export", "--policy", str(trained), "--output", str(tmp_path))
    assert code == 2 and "exists: choose another --output" in errors
    save_policy(make_tiny(), tmp_path / "tiny")
    code, _, errors = run(capsys, "export", "--policy", str(tmp_path / "tiny"), "--output", str(tmp_path / "out"))
    assert code == 2 and "only OpenVLA has a published layout" in errors


@pytest.mark.parametrize(("percent", "verdict"), [(84.7, "agrees"), (70.1, "agrees"), (99.0, "below"), (50.0, "above")])
def test_verdict_on_a_published_figure(percent, verdict):
    result = compare_with_published({"ci95": (0.70, 0.90), "success_rate": 0.81}, percent)
    assert result["verdict"] == verdict
    assert result["points"] == pytest.approx(81 - percent)


def test_the_plan_is_printed_whole(capsys, monkeypatch):
    """The counts are made elsewhere; here is what is said of them."""
    gb = 10**9
    step = StepBytes(
        frozen=15 * gb,
        policy_trained=gb,
        value_trained=gb,
        activations_fixed=gb,
        activations_per_turn=gb,
        decoder_layer=gb // 4,
        num_layers=32,
        kv_cache_per_environment=gb // 5,
    )
    monkeypatch.setattr("vlarl.training.memory.measure_step", lambda *_, **__: step)
    code, out, _ = run(capsys, "doctor", "--policy", "openvla-7b", "--gpus", "8", "--gpu-memory", "80")
    assert code == 0
    for part in (
        "7 trainers",
        "frozen weights",
        "LoRA",
        "Adam",
        "value network",
        "activations",
        "micro-batch",
        "key-value",
    ):
        assert part in out, part
    code, out, _ = run(capsys, "doctor", "--policy", "openvla-7b", "--gpus", "1", "--gpu-memory", "16")
    assert code == 2 and "nothing fits" in out
    code, out, _ = run(capsys, "doctor", "--policy", "openvla-7b", "--json")
    assert json.loads(out[out.index("{") :])["largest_microbatch"] > 0
    assert doctor.DoctorOptions().value == "homogeneous"


@pytest.mark.slow
@pytest.mark.libero
def test_evaluation_of_a_published_checkpoint_on_libero(capsys, some_reference, tmp_path):
    """Random weights, one episode under OpenVLA's protocol: everything runs, nothing succeeds."""
    arguments = ("evaluate", "--policy", str(some_reference.checkpoint), "--unnorm-key", first_key(some_reference))
    arguments += ("--task-suite", "libero_spatial", "--task-ids", "0", "--episodes", "1", "--num-envs", "1")
    arguments += ("--num-workers", "1", "--expect", "84.7", "--json")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    summary = json.loads(out)
    assert summary["episodes"] == 1
    assert summary["expected"]["percent"] == 84.7
    assert np.isfinite(summary["expected"]["points"])
