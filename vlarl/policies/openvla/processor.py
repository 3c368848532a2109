"""Instruction and image -> token ids and pixels, as OpenVLA's own processor does (processing_prismatic.py)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from vlarl.configs.openvla import PromptFormat
from vlarl.errors import UserError

PROMPTS: dict[PromptFormat, str] = {
    "openvla": "In: What action should the robot take to {instruction}?\nOut:",
    "v01": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed,"
        " and polite answers to the user's questions. USER: What action should the robot take to {instruction}?"
        " ASSISTANT:"
    ),
}
"""Prompts of the released models; v01 is that of openvla-v01-7b (Vicuna's chat)."""
SPECIAL_TOKENS = {"bos_id": "<s>", "stop_id": "</s>", "pad_id": "<PAD>", "empty_id": "\u2581"}
"""Their ids come from the tokenizer; the defaults below are Llama-2's."""
PREPROCESSOR_NAME = "preprocessor_config.json"
TOKENIZER_NAME = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class OpenVLAProcessor:
    """Tokenizer and pixel statistics of a checkpoint."""

    tokenizer: Tokenizer
    image_size: int
    mean: Tensor
    """[6, 1, 1] float32, DINOv2's channels first."""
    std: Tensor
    """[6, 1, 1] float32."""
    max_tokens: int = 2048
    """Text tokens of a prompt that fit into the context."""
    prompt_format: PromptFormat = "openvla"
    bos_id: int = 1
    stop_id: int = 2
    """Follows the action tokens in training data."""
    pad_id: int = 32000
    """Fills short rows; masked."""
    empty_id: int = 29871
    """Last id of every prompt: the lone space that the tokenizer puts before the first action token in training."""

    @classmethod
    def from_folder(
        cls, folder: Path, *, max_tokens: int = 2048, prompt_format: PromptFormat = "openvla"
    ) -> "OpenVLAProcessor":
        """Reads tokenizer.json and preprocessor_config.json.

        Raises:
            UserError: a file is missing or damaged, a token is missing, or the pixel statistics would make NaN.
        """
        for name in (PREPROCESSOR_NAME, TOKENIZER_NAME):
            if not (folder / name).is_file():
                raise UserError(f"{folder} has no {name}: copy it from the checkpoint that the weights come from")
        raw = json.loads((folder / PREPROCESSOR_NAME).read_text())
        statistics = raw["tvf_normalize_params"]
        mean, std = (
            torch.tensor([entry[name] for entry in statistics], dtype=torch.float32).reshape(6, 1, 1)
            for name in ("mean", "std")
        )
        if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
            raise UserError(
                f"{folder / PREPROCESSOR_NAME} would make NaN pixels: mean {mean.flatten().tolist()}, std"
                f" {std.flatten().tolist()}; copy it from the checkpoint that the weights come from"
            )
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
        special = {name: tokenizer.token_to_id(token) for name, token in SPECIAL_TOKENS.items()}
        missing = [SPECIAL_TOKENS[name] for name, found in special.items() if found is None]
        if missing:
            raise UserError(f"{folder / TOKENIZER_NAME} is no tokenizer of OpenVLA: it lacks {', '.join(missing)}")
        return cls(
            tokenizer=tokenizer,
            image_size=raw["input_sizes"][0][1],
            mean=mean,
            std=std,
            max_tokens=max_tokens,
            prompt_format=prompt_format,
            **special,
        )

    def prompt_ids(self, instruction: str) -> list[int]:
        """Token ids of the prompt, BOS first, without the final empty token.

        Raises:
            UserError: an empty instruction, or one that is longer than the context.
        """
        text = instruction.strip().lower()
        if not text:
            raise UserError("the instruction is empty: say what the robot is to do")
        prompt = PROMPTS[self.prompt_format].format(instruction=text)
        ids = [self.bos_id, *self.tokenizer.encode(prompt, add_special_tokens=False).ids]
        if len(ids) >= self.max_tokens:
            raise UserError(
                f"the instruction {instruction[:40]!r}... makes a prompt of {len(ids) + 1} tokens, at most"
                f" {self.max_tokens} fit into the context: shorten it"
            )
        return ids

    def encode_instructions(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns ids [B, L] int64, ending with the empty token and right-padded, and their mask [B, L] bool."""
        cached = {text: self.prompt_ids(text) for text in set(instructions)}
        empty = self.empty_id
        rows = [ids if ids[-1] == empty else [*ids, empty] for ids in (cached[text] for text in instructions)]
        length = max(map(len, rows))
        padded = torch.tensor([row + [self.pad_id] * (length - len(row)) for row in rows], dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in rows])
        return padded, torch.arange(length) < lengths[:, None]

    def encode_prompts(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As encode_instructions, but padded before the empty token: the last position is real in every row."""
        ids, mask = self.encode_instructions(instructions)
        rows, last = torch.arange(len(ids)), mask.sum(1) - 1
        ids[rows, last], mask[rows, last] = self.pad_id, False
        ids[:, -1], mask[:, -1] = self.empty_id, True
        return ids, mask

    def resize(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Squashes images [H, W, 3] uint8 to [B, image_size, image_size, 3] uint8 with Pillow's bicubic filter.

        Raises:
            UserError: an image of another dtype or shape.
        """
        # Only frames need it: a GPU machine without a simulator has no Pillow.
        from PIL import Image

        size = (self.image_size, self.image_size)
        resized = np.empty((len(images), *size, 3), dtype=np.uint8)
        for row, image in enumerate(images):
            check_image(image, "[H, W, 3]")
            if image.shape[:2] != size:
                image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
            resized[row] = image
        return resized

    def normalize(self, images: Tensor) -> Tensor:
        """[B, H, H, 3] uint8 -> pixels [B, 6, H, H] float32; done per micro-batch, batches keep uint8."""
        scaled = images.permute(0, 3, 1, 2).contiguous().div(255.0)
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return torch.cat([(scaled - mean[part]).div_(std[part]) for part in (slice(0, 3), slice(3, 6))], dim=1)


def check_image(image: np.ndarray, expected: str) -> None:
    """Checks one image, or a batch of them, as `expected` says ("[H, W, 3]").

    Raises:
        UserError: another dtype or shape; NaN in pixels is said.
    """
    if image.dtype == np.uint8 and image.ndim == expected.count(",") + 1 and image.shape[-1] == 3:
        return
    nan = ", with NaN in it" if image.dtype.kind == "f" and np.isnan(image).any() else ""
    raise UserError(f"an image must be uint8 {expected}, got {image.dtype} {list(image.shape)}{nan}")
