"""Policies on disk: a folder with config.json and model.safetensors."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vlarl.configs.policy import PolicyConfig
from vlarl.errors import UserError
from vlarl.policies.vla import VLAPolicy

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder beside `path` that replaces it at the end; after an error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield scratch
        if path.exists():
            shutil.rmtree(path)
        os.replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes the module's parameters and buffers as safetensors."""
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Reads weights written by save_weights.

    Raises:
        UserError: the file is missing, damaged, or of another configuration; each wrong tensor is named.
    """
    if not path.is_file():
        raise UserError(f"no weights at {path}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it or delete its folder") from error
    expected = module.state_dict()
    wrong = [f"missing {name}" for name in expected.keys() - state.keys()]
    wrong += [f"unexpected {name}" for name in state.keys() - expected.keys()]
    wrong += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if wrong:
        raise UserError(f"{path} belongs to another configuration: {'; '.join(sorted(wrong)[:5])}")
    module.load_state_dict(state)


def save_policy(policy: VLAPolicy, folder: Path) -> None:
    """Writes the policy folder, atomically."""
    with atomic_folder(folder) as scratch:
        (scratch / CONFIG_NAME).write_text(json.dumps(asdict(policy.config), indent=2))
        save_weights(policy, scratch / WEIGHTS_NAME)


def load_policy(folder: Path) -> VLAPolicy:
    """Reads a policy folder.

    Raises:
        UserError: no policy there, or one that is damaged.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"no policy at {folder}: a policy folder holds {CONFIG_NAME} and {WEIGHTS_NAME}")
    try:
        raw = json.loads(path.read_text())
        known = {f.name for f in fields(PolicyConfig)}
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    except (json.JSONDecodeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error})") from error
    if values.keys() != known:
        raise UserError(f"{path} is of another version: its keys differ in {sorted(values.keys() ^ known)}")
    policy = VLAPolicy(PolicyConfig(**values))
    load_weights(policy, folder / WEIGHTS_NAME)
    return policy.eval()
