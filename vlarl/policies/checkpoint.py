"""Policies on disk: a folder with config.json and the parameters that training changes.

What is frozen is not written: config.json names the checkpoint that it comes from.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlarl.configs.openvla import LoRAConfig, OpenVLAPolicyConfig
from vlarl.errors import UserError
from vlarl.files import atomic_folder
from vlarl.policies.registry import POLICIES, AnyPolicyConfig, policy_module
from vlarl.policies.vla import VLAPolicy

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that get a gradient, and buffers that are part of the state, by name."""
    # A frozen parameter may have two names, such as a head that is tied to the embedding.
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as safetensors."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Reads a module's trained state, written by save_tensors.

    Raises:
        UserError: the file is missing, damaged, or of another configuration; each wrong tensor is named.
    """
    if not path.is_file():
        raise UserError(f"no weights at {path}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it or delete its folder") from error
    expected = trained_state(module)
    wrong = [f"missing {name}" for name in expected.keys() - state.keys()]
    wrong += [f"unexpected {name}" for name in state.keys() - expected.keys()]
    wrong += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if wrong:
        raise UserError(f"{path} belongs to another configuration: {'; '.join(sorted(wrong)[:5])}")
    module.load_state_dict(state, strict=False)


def save_policy(policy: VLAPolicy, folder: Path) -> None:
    """Writes the policy folder, atomically."""
    write_policy(policy.config, trained_state(policy), folder)


def write_policy(config: AnyPolicyConfig, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Writes a policy folder of a configuration and the policy's trained state, atomically."""
    with atomic_folder(folder) as scratch:
        (scratch / CONFIG_NAME).write_text(json.dumps(asdict(config), indent=2))
        save_tensors(tensors, scratch / WEIGHTS_NAME)


def load_policy(folder: Path, *, unnorm_key: str = "") -> VLAPolicy:
    """Reads a policy folder, or an OpenVLA checkpoint in the published layout.

    Args:
        folder: of a run, or published.
        unnorm_key: for a published checkpoint: the data set whose action statistics apply.

    Raises:
        UserError: no policy there, or one that is damaged.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"no policy at {folder}: a policy folder holds {CONFIG_NAME} and {WEIGHTS_NAME}")
    try:
        raw = json.loads(path.read_text())
        is_published = "timm_model_ids" in raw
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error})") from error
    if is_published:
        config: AnyPolicyConfig = OpenVLAPolicyConfig(checkpoint=str(folder), unnorm_key=unnorm_key, lora=None)
        return policy_module(config).make_policy(config).eval()
    config = _parse_config(raw, path)
    policy = policy_module(config).make_policy(config)
    load_weights(policy, folder / WEIGHTS_NAME)
    return policy.eval()


def _parse_config(raw: dict[str, Any], path: Path) -> AnyPolicyConfig:
    if raw.get("kind") not in POLICIES:
        raise UserError(f"{path} is of another version: its kind is {raw.get('kind')!r}, known are {list(POLICIES)}")
    kind, _ = POLICIES[raw["kind"]]
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    differing = values.keys() ^ {f.name for f in fields(kind)}
    if differing:
        raise UserError(f"{path} is of another version: its keys differ in {sorted(differing)}")
    if values.get("lora"):
        values["lora"] = LoRAConfig(**values["lora"])
    return kind(**values)
