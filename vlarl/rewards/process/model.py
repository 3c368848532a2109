"""The reward model: a vision-language model that answers 1 or 0 to a question about a frame and an instruction.

Any image-text-to-text model of transformers; the reward is the probability of the positive answer, read from the
language model's head in one forward pass.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlarl.configs.openvla import LoRAConfig
from vlarl.configs.reward import TINY, RewardModelConfig
from vlarl.errors import UserError
from vlarl.rewards.process.tiny_vlm import make_tiny_vlm

POSITIVE_ANSWER, NEGATIVE_ANSWER = "1", "0"
QUESTION = (
    "A robot is told: {instruction}. Does this picture show that it has just completed a step of that task?"
    " Answer 1 for yes or 0 for no."
)
_IGNORED_KEYS = ("attention_mask",)


class ProcessRewardModel(nn.Module):
    """A vision-language model with its processor.

    Args:
        config: of the model.
        backbone: takes what the processor makes and returns `logits`.
        processor: of the backbone; its text must depend on the size of an image only.
    """

    def __init__(self, config: RewardModelConfig, backbone: nn.Module, processor: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.processor = processor
        self.question = config.question or ("{instruction}" if config.name == TINY else QUESTION)
        self.answers = [_answer_id(processor.tokenizer, answer) for answer in (NEGATIVE_ANSWER, POSITIVE_ANSWER)]
        self._prompts: dict[str, dict[str, Tensor]] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backbone.parameters()).device

    def encode(self, images: np.ndarray, instructions: Sequence[str]) -> dict[str, Tensor]:
        """Makes the backbone's inputs.

        Args:
            images: [B, H, H, 3] uint8 RGB of the configured size.
            instructions: B.

        Raises:
            UserError: images of another size or type, or an empty instruction.
        """
        size = self.config.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise UserError(
                f"the reward model takes uint8 images [{size}, {size}, 3], got {images.dtype}"
                f" {list(images.shape[1:])}: set env.image_size to {size}, or train one for these images"
            )
        prompts = [self._prompt(instruction) for instruction in instructions]
        length = max(prompt["input_ids"].shape[-1] for prompt in prompts)
        lengths = torch.tensor([prompt["input_ids"].shape[-1] for prompt in prompts])
        inputs = {
            name: torch.cat([_pad_left(prompt[name], length, self._padding(name)) for prompt in prompts], dim=-2)
            for name in prompts[0]
        }
        # Padded on the left: the answer of every row is the last position's.
        inputs["attention_mask"] = (torch.arange(length)[None] >= length - lengths[:, None]).long()
        pictures = self.processor.image_processor(images=list(images), return_tensors="pt")
        return {name: value.to(self.device) for name, value in (inputs | dict(pictures)).items()}

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Scores [B, vocabulary] of the answer token, float32."""
        return self.backbone(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float()

    def compute_probability(self, logits: Tensor) -> Tensor:
        """Probability [B] of the positive answer among both, from scores [B, vocabulary]."""
        return torch.softmax(logits[:, self.answers], dim=-1)[:, 1]

    @torch.no_grad()
    def score(self, images: np.ndarray, instructions: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Probability of progress for each of n frames, [n] float32; see `encode`."""
        self.eval()
        parts = [
            self.compute_probability(self(self.encode(images[rows], instructions[rows])))
            for rows in (slice(first, first + batch_size) for first in range(0, len(images), batch_size))
        ]
        return torch.cat(parts).cpu().numpy() if parts else np.zeros(0, dtype=np.float32)

    def _prompt(self, instruction: str) -> dict[str, Tensor]:
        """What the processor makes of the text: [1, L] each, and the positions [3, 1, L] where the model has such."""
        if instruction not in self._prompts:
            if not instruction.strip():
                raise UserError("the instruction is empty: say what the robot should do")
            text = self.question.replace("{instruction}", instruction.strip().lower())
            message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
            prompt = self.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
            size = self.config.image_size
            made = self.processor(
                text=[prompt], images=[np.zeros((size, size, 3), dtype=np.uint8)], return_tensors="pt"
            )
            length = made["input_ids"].shape[-1]
            rows = {k: v for k, v in made.items() if v.shape == (1, length) and k not in _IGNORED_KEYS}
            positions = getattr(_inner(self.backbone), "get_rope_index", None)
            if positions is not None:
                grid = made["image_grid_thw"]
                types = {"mm_token_type_ids": made["mm_token_type_ids"]} if "mm_token_type_ids" in made else {}
                rows["position_ids"] = positions(made["input_ids"], image_grid_thw=grid, **types)[0]
            self._prompts[instruction] = rows
        return self._prompts[instruction]

    def _padding(self, name: str) -> int:
        return self.processor.tokenizer.pad_token_id if name == "input_ids" else 0


def make_reward_model(config: RewardModelConfig, seed: int = 0) -> ProcessRewardModel:
    """Returns a fresh model: tiny with random weights, or pretrained with adapters that change nothing yet.

    Raises:
        UserError: the checkpoint cannot be loaded.
    """
    if config.name == TINY:
        torch.manual_seed(seed)
        return ProcessRewardModel(config, *make_tiny_vlm(config))
    try:
        processor = AutoProcessor.from_pretrained(config.name)
        backbone = AutoModelForImageTextToText.from_pretrained(config.name, dtype="auto")
    except (OSError, ImportError, ValueError) as error:
        raise UserError(
            f"the reward model {config.name!r} cannot be loaded ({str(error).splitlines()[0]}): name a folder or a"
            f" model that transformers can get, or {TINY}"
        ) from error
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return ProcessRewardModel(config, add_adapters(backbone, config.lora).to(device), processor)


def add_adapters(backbone: nn.Module, config: LoRAConfig) -> nn.Module:
    """Puts LoRA on every linear layer but the head; only the adapters are trainable, in float32."""
    settings = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules="all-linear"
    )
    return get_peft_model(backbone, settings)


def _inner(backbone: nn.Module) -> nn.Module:
    """The model below the head, adapters or not."""
    get_base = getattr(backbone, "get_base_model", partial(_same, backbone))
    base = get_base()
    return getattr(base, "model", base)


def _same(module: nn.Module) -> nn.Module:
    return module


def _answer_id(tokenizer: Any, answer: str) -> int:  # noqa: ANN401
    token = tokenizer.convert_tokens_to_ids(answer)
    if token is None or token == tokenizer.unk_token_id:
        raise UserError(f"the reward model's tokenizer has no token {answer!r}: choose another model")
    return int(token)


def _pad_left(row: Tensor, length: int, value: int) -> Tensor:
    return nn.functional.pad(row, (length - row.shape[-1], 0), value=value)
