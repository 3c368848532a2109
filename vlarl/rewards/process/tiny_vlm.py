"""A Qwen2-VL small enough for a CPU, built from its configuration: the class, the processor and the head of the 2B."""

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from vlarl.configs.reward import RewardModelConfig
from vlarl.policies.text import BOS, PAD, load_tokenizer

VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    f"{VISION_START}{IMAGE}{VISION_END}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


class ImageOnlyProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor without videos, whose processor needs torchvision."""

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.image_token, self.video_token = IMAGE, VIDEO
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def make_tiny_vlm(config: RewardModelConfig) -> tuple[nn.Module, ImageOnlyProcessor]:
    """Returns the model with random weights and its processor, whose text is the project's own tokenizer."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(load_tokenizer().to_str()),
        pad_token=PAD,
        bos_token=BOS,
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [VISION_START, VISION_END, IMAGE, VIDEO]})
    pixels = config.image_size**2
    images = Qwen2VLImageProcessorPil(
        patch_size=config.patch_size,
        merge_size=config.merge_size,
        size={"shortest_edge": pixels, "longest_edge": pixels},
    )
    processor = ImageOnlyProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE)
    return AutoModelForImageTextToText.from_config(_vlm_config(config, tokenizer), dtype=torch.float32), processor


def _vlm_config(config: RewardModelConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    # A quarter of a head's frequencies for time, the rest halved for rows and columns, as the 2B has it.
    frequencies = config.hidden_size // config.num_heads // 2
    sections = [frequencies - 2 * (3 * frequencies // 8), 3 * frequencies // 8, 3 * frequencies // 8]
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            # The 2B's 0.02 is for its width: narrow layers would begin almost deaf and learn late to attend.
            "initializer_range": config.hidden_size**-0.5,
            "hidden_size": config.hidden_size,
            "intermediate_size": 2 * config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.pad_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": config.vision_layers,
            "initializer_range": config.vision_width**-0.5,
            "embed_dim": config.vision_width,
            "hidden_size": config.hidden_size,
            "mlp_ratio": 2,
            "num_heads": config.num_heads,
            "patch_size": config.patch_size,
            "spatial_merge_size": config.merge_size,
        },
        tie_word_embeddings=False,
        **{
            f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
            for name, token in (
                ("image", IMAGE),
                ("video", VIDEO),
                ("vision_start", VISION_START),
                ("vision_end", VISION_END),
            )
        },
    )
