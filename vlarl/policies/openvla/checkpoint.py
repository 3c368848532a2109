"""OpenVLA checkpoints in the published layout: config.json, one or several safetensors files, statistics, tokenizer."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from vlarl.configs.openvla import LLAMA2_7B, OpenVLAConfig, VisionTowerConfig
from vlarl.errors import UserError
from vlarl.files import atomic_folder
from vlarl.policies.openvla.model import OpenVLAModel

CONFIG_NAME = "config.json"
STATISTICS_NAME = "dataset_statistics.json"
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
"""Largest shard of an exported checkpoint, bytes (transformers' own limit when the 7B was published)."""
TOWER_HEADS = {"vit_large_patch14_reg4_dinov2.lvd142m": 16, "vit_so400m_patch14_siglip_224": 16}
"""Attention heads of the published towers: weights alone do not tell them."""
HUB_FILES = ("*.json", "*.safetensors", "tokenizer.model")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Which file holds which tensor, and its shape; read from the files' headers."""

    files: dict[str, Path]
    """tensor name -> file."""
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class OpenVLACheckpoint:
    """A checkpoint folder, read but for the weights."""

    folder: Path
    config: OpenVLAConfig
    raw_config: dict[str, Any]
    """config.json as it is."""
    norm_stats: dict[str, Any]
    """Data set -> action statistics; dataset_statistics.json stands above config.json."""
    shards: Shards


def open_checkpoint(folder_or_hub_id: str | Path) -> OpenVLACheckpoint:
    """Reads configuration, statistics and the headers of the weights; checks every tensor's name and shape.

    Raises:
        UserError: no such checkpoint, pickled weights, a damaged file, missing or unexpected tensors.
    """
    folder = _find_folder(folder_or_hub_id)
    raw = _read_json(folder / CONFIG_NAME)
    shards = _read_headers(folder)
    statistics = folder / STATISTICS_NAME
    norm_stats = _read_json(statistics) if statistics.is_file() else raw.get("norm_stats", {})
    config = _parse_config(raw, shards.shapes, folder / CONFIG_NAME)
    _check_tensors(config, shards.shapes, folder)
    return OpenVLACheckpoint(folder=folder, config=config, raw_config=raw, norm_stats=norm_stats, shards=shards)


def load_model(
    checkpoint: OpenVLACheckpoint, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> OpenVLAModel:
    """Streams the weights tensor by tensor into place: the peak is the model and one tensor.

    Args:
        checkpoint: from open_checkpoint.
        dtype: of the parameters; None keeps each tensor's own.
        device: where the parameters go.

    Raises:
        UserError: a file is damaged.
    """
    with torch.device("meta"):
        model = OpenVLAModel(checkpoint.config)
    for name, path in checkpoint.shards.files.items():
        # Opened for each tensor: closing the file releases its mapped pages, which would count as memory twice.
        try:
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(name)
                placed = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=device).copy_(tensor)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged at {name} ({error}): fetch it again") from error
        _set_parameter(model, name, placed)
    llama = model.language_model.model
    # Not in the checkpoint: computed from the configuration.
    with torch.device(device):
        llama.rotary_emb = LlamaRotaryEmbedding(config=llama.config)
    return model.eval()


def export(model: OpenVLAModel, source: OpenVLACheckpoint, folder: Path) -> None:
    """Writes the published layout: the weights of `model`, everything else as in `source`. Atomic."""
    with atomic_folder(folder) as scratch:
        for path in source.folder.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name != INDEX_NAME:
                shutil.copyfile(path, scratch / path.name)
        save_shards(model.state_dict(), scratch)


def _find_folder(folder_or_hub_id: str | Path) -> Path:
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        return folder
    name = str(folder_or_hub_id)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"no checkpoint folder at {name}, and it is no hub id (owner/name) either")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"the checkpoint {name} could not be fetched from the hub: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"no OpenVLA checkpoint at {path.parent}: it has no {path.name}")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error})") from error


def _read_headers(folder: Path) -> Shards:
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(folder):
        if not path.is_file():
            raise UserError(f"{folder} lacks the shard {path.name} that {INDEX_NAME} names")
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dictionary
                    files[name], shapes[name] = path, tuple(file.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged or truncated ({error}): fetch it again") from error
    return Shards(files=files, shapes=shapes)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX_NAME).is_file():
        return [folder / name for name in sorted(set(_read_json(folder / INDEX_NAME)["weight_map"].values()))]
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise UserError(
            f"{folder} holds pickled weights ({pickles[0]}), which can run code when they are read: convert them to"
            " safetensors where you trust them"
        )
    raise UserError(f"{folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}")


def _parse_config(raw: dict[str, Any], shapes: dict[str, tuple[int, ...]], path: Path) -> OpenVLAConfig:
    """Sizes come from the tensors where they tell them; heads and the decoder's settings from config.json."""
    try:
        models, kwargs = raw["timm_model_ids"], raw.get("timm_model_kwargs") or [{}, {}]
        towers = [
            _tower(shapes, prefix, kwargs[index].get("num_heads") or TOWER_HEADS[models[index]])
            for index, prefix in enumerate(("vision_backbone.featurizer", "vision_backbone.fused_featurizer"))
        ]
        patch = shapes["vision_backbone.featurizer.patch_embed.proj.weight"][-1]
        given = {k: v for k, v in raw["text_config"].items() if k not in ("model_type", "torch_dtype")}
        heads = given.get("num_attention_heads", LLAMA2_7B["num_attention_heads"])
        text = LLAMA2_7B | {"num_key_value_heads": heads} | given
        image_size = raw["image_sizes"][0]
        bins, padding = raw["n_action_bins"], raw["pad_to_multiple_of"]
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path} is no OpenVLA configuration with two vision towers: {error!r} is missing") from error
    return OpenVLAConfig(
        image_size=image_size,
        patch_size=patch,
        dino=towers[0],
        siglip=towers[1],
        text=text,
        num_bins=bins,
        vocab_padding=padding,
    )


def _tower(shapes: dict[str, tuple[int, ...]], prefix: str, num_heads: int) -> VisionTowerConfig:
    registers = shapes.get(f"{prefix}.reg_token", (1, 0))[1]
    mlp_width, width = shapes[f"{prefix}.blocks.0.mlp.fc1.weight"]
    depth = len({name for name in shapes if name.startswith(f"{prefix}.blocks.") and name.endswith("norm1.weight")})
    return VisionTowerConfig(
        width=width, depth=depth, num_heads=num_heads, mlp_width=mlp_width, num_registers=registers
    )


def _check_tensors(config: OpenVLAConfig, shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in OpenVLAModel(config).state_dict().items()}
    wrong = [f"missing {name} {expected[name]}" for name in sorted(expected.keys() - shapes.keys())]
    wrong += [f"unexpected {name} {shapes[name]}" for name in sorted(shapes.keys() - expected.keys())]
    wrong += [
        f"{name} has shape {shapes[name]}, expected {expected[name]}"
        for name in sorted(expected.keys() & shapes.keys())
        if shapes[name] != expected[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise UserError(f"{folder} does not fit its config.json: {'; '.join(wrong[:8])}{more}")


def _set_parameter(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


def save_shards(state: dict[str, Tensor], folder: Path) -> None:
    """Writes the weights into one file, or into several of at most SHARD_BYTES with their index."""
    shards = list(_split(state.items()))
    if len(shards) == 1:
        save_file(shards[0], folder / SINGLE_NAME, metadata={"format": "pt"})
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def _split(tensors: Iterable[tuple[str, Tensor]]) -> Iterable[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.detach().contiguous()
        size += tensor.nbytes
    yield shard
