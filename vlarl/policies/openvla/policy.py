"""OpenVLA as a policy: the published checkpoints through the same class and loop as the tiny policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import LlamaModel

from vlarl.actions.codec import ActionCodec
from vlarl.actions.normalization import ActionStatistics
from vlarl.actions.tokenizer import ActionTokenizer
from vlarl.configs.openvla import OpenVLAPolicyConfig
from vlarl.configs.policy import PolicyConfig
from vlarl.errors import UserError
from vlarl.policies.openvla import checkpoint as checkpoints
from vlarl.policies.openvla.checkpoint import OpenVLACheckpoint, open_checkpoint
from vlarl.policies.openvla.lora import add_lora, merge, trainable_parameters
from vlarl.policies.openvla.model import OpenVLAModel
from vlarl.policies.openvla.processor import OpenVLAProcessor, check_image
from vlarl.policies.tiny import SMALL, TinyTrunk
from vlarl.policies.vla import PolicyInputs, VLAPolicy, VLATrunk, copy_trained
from vlarl.types import Observation


class OpenVLATrunk(VLATrunk):
    """Prompt `[BOS][image patches][text][padding][empty token]`."""

    def __init__(self, model: OpenVLAModel, processor: OpenVLAProcessor, config: OpenVLAPolicyConfig) -> None:
        super().__init__()
        sizes = model.config
        self.config = config
        self.processor = processor
        self.model: OpenVLAModel | PeftModel = model if config.lora is None else add_lora(model, config.lora)
        self.first_token = sizes.action_vocab_size - sizes.num_bins if config.action_tokens_only else 0
        self.end_token = sizes.action_vocab_size if config.action_tokens_only else sizes.text["vocab_size"]
        # Fine-tuning ends each turn with it; restricted to action tokens there is none.
        self.stop_token = None if config.action_tokens_only else processor.stop_id
        if config.gradient_checkpointing:
            self.openvla.enable_gradient_checkpointing()

    @property
    def openvla(self) -> OpenVLAModel:
        """The network itself, adapters in place."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def decoder(self) -> LlamaModel:
        """See VLATrunk."""
        return self.openvla.language_model.model

    def process(self, observations: Observation) -> PolicyInputs:
        """See VLATrunk; proprioception is passed on, but OpenVLA reads none."""
        images = observations.images
        check_image(images, "[B, H, W, 3]")
        if self.config.libero_frames:
            # Needs packages that a GPU machine without a simulator does not have.
            from vlarl.policies.openvla.libero_images import preprocess_frames

            # The simulator's own arrays have their rows bottom-up.
            images = preprocess_frames(images[:, ::-1], center_crop=self.config.center_crop)
        ids, mask = self.processor.encode_prompts(observations.instructions)
        return PolicyInputs(
            images=torch.from_numpy(self.processor.resize(images)),
            proprio=torch.from_numpy(observations.proprio.astype(np.float32, copy=False)),
            instruction_ids=ids,
            instruction_mask=mask,
        )

    def embed_prompt(self, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        """See VLATrunk."""
        pixels = self.processor.normalize(inputs.images).to(self.decoder.embed_tokens.weight.dtype)
        return self.openvla.embed_prompt(pixels, inputs.instruction_ids, inputs.instruction_mask)

    def embed_actions(self, action_tokens: Tensor, first: int = 0) -> Tensor:
        """See VLATrunk."""
        del first  # Positions tell a large decoder which token comes next.
        return self.openvla.language_model.get_input_embeddings()(action_tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """See VLATrunk."""
        return self.openvla.language_model.lm_head(hidden)[..., self.first_token : self.end_token]

    def remove_head(self) -> None:
        """See VLATrunk; the head's weights are shared with the policy and stay, its adapter is not trained."""
        self.openvla.language_model.lm_head.requires_grad_(False)

    def small_value_trunk(self) -> VLATrunk:
        """See VLATrunk."""
        sizes = PolicyConfig(max_instruction_tokens=self.processor.max_tokens, **SMALL)
        trunk = TinyTrunk(sizes, text_vocab_size=self.openvla.config.text["vocab_size"])
        return trunk.to(self.decoder.embed_tokens.weight.device)


class OpenVLAPolicy(VLAPolicy):
    """A VLAPolicy that can be written back in the published layout."""

    trunk: OpenVLATrunk

    def __init__(self, config: OpenVLAPolicyConfig, source: OpenVLACheckpoint, model: OpenVLAModel) -> None:
        processor = make_processor(config, source)
        super().__init__(config, OpenVLATrunk(model, processor, config), make_codec(config, source))
        self.source = source

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, **settings: Any) -> "OpenVLAPolicy":  # noqa: ANN401
        """Loads a checkpoint.

        Args:
            folder_or_hub_id: folder in the published layout, or owner/name.
            **settings: fields of OpenVLAPolicyConfig; `lora` is None unless given.

        Raises:
            UserError: no such checkpoint, one that is damaged or pickled, an unknown `unnorm_key`.
        """
        config = OpenVLAPolicyConfig(**{"lora": None} | settings | {"checkpoint": str(folder_or_hub_id)})
        return make_policy(config)

    def export(self, folder: Path, *, merge_adapter: bool = True) -> None:
        """Writes what the published code can load: the checkpoint with the adapter merged, or the adapter alone.

        Args:
            folder: replaced if it exists.
            merge_adapter: False writes peft's adapter_config.json and adapter_model.safetensors.

        Raises:
            UserError: there is no adapter to write alone.
        """
        model = self.trunk.model
        if isinstance(model, PeftModel):
            if not merge_adapter:
                with checkpoints.atomic_folder(folder) as scratch:
                    model.save_pretrained(str(scratch))
                return
            # Merging changes the model in place; what is frozen would be shared with a copy.
            model = merge(copy_with_weights(model))
        elif not merge_adapter:
            raise UserError("the policy has no adapter: it was trained with policy.lora None; export it merged")
        checkpoints.export(model, self.source, folder)


def copy_with_weights(model: PeftModel) -> PeftModel:
    """Copies an adapted model whole, frozen weights too."""
    copied = copy_trained(model)
    for module in copied.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                setattr(module, name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=False))
    return copied


def make_policy(config: OpenVLAPolicyConfig, seed: int = 0) -> OpenVLAPolicy:
    """Loads the checkpoint and adds fresh adapters, which follow from the seed and change nothing at first."""
    source = open_checkpoint(config.checkpoint)
    make_codec(config, source)
    device = _device(config)
    dtype = _dtype(config, device)
    torch.manual_seed(seed)
    return OpenVLAPolicy(config, source, checkpoints.load_model(source, dtype=dtype, device=device)).eval()


def check_policy(
    config: OpenVLAPolicyConfig, instructions: Mapping[int, str], action_dim: int, proprio_dim: int
) -> None:
    """Checks that the checkpoint is there and fits an environment; reads no weights.

    Raises:
        UserError: no such checkpoint, an unknown `unnorm_key`, other action entries, a prompt that is too long.
    """
    del proprio_dim  # Not read.
    source = open_checkpoint(config.checkpoint)
    make_codec(config, source)
    if config.action_dim != action_dim:
        raise UserError(f"policy.action_dim is {config.action_dim}, the environment has {action_dim}")
    make_processor(config, source).encode_prompts(list(instructions.values()))
    _device(config)


def count_trained_parameters(config: OpenVLAPolicyConfig) -> int:
    """Number of parameters that training changes (the adapters, or everything)."""
    with torch.device("meta"):
        model = OpenVLAModel(open_checkpoint(config.checkpoint).config)
        return trainable_parameters(model if config.lora is None else add_lora(model, config.lora))


def make_processor(config: OpenVLAPolicyConfig, source: OpenVLACheckpoint) -> OpenVLAProcessor:
    """Tokenizer and pixels; prompts leave room for the image and the action in the context.

    Raises:
        UserError: a file is missing or damaged.
    """
    sizes = source.config
    max_tokens = sizes.max_positions - sizes.num_patches - config.num_action_tokens
    return OpenVLAProcessor.from_folder(source.folder, max_tokens=max_tokens, prompt_format=config.prompt)


def make_codec(config: OpenVLAPolicyConfig, source: OpenVLACheckpoint) -> ActionCodec:
    """Action tokens to environment actions with the statistics of `unnorm_key`.

    Raises:
        UserError: an unknown key, or statistics of another number of entries.
    """
    key = config.unnorm_key
    if not key:
        if len(source.norm_stats) != 1:
            raise UserError(
                f"{source.folder} has action statistics of several data sets: name one as policy.unnorm_key"
                f" ({', '.join(sorted(source.norm_stats))})"
            )
        key = next(iter(source.norm_stats))
    statistics = ActionStatistics.from_norm_stats(source.norm_stats, key)
    if len(statistics.q01) != config.action_dim:
        raise UserError(
            f"the statistics of {key!r} are of {len(statistics.q01)} action entries, policy.action_dim is"
            f" {config.action_dim}"
        )
    tokenizer = ActionTokenizer(source.config.action_vocab_size, source.config.num_bins)
    return ActionCodec(
        tokenizer, config.action_horizon, config.action_dim, statistics, openvla_gripper=config.libero_frames
    )


def _device(config: OpenVLAPolicyConfig) -> str:
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("policy.device is cuda, but torch sees no GPU: set it to cpu or install torch for CUDA")
    return config.device


def _dtype(config: OpenVLAPolicyConfig, device: str) -> torch.dtype:
    name = config.dtype if config.dtype != "auto" else ("bfloat16" if device == "cuda" else "float32")
    return getattr(torch, name)
