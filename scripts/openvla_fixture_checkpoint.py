"""The checkpoint of the OpenVLA fixture: vocabulary, random weights, config.json, preprocessor and statistics."""

import json
from pathlib import Path

import numpy as np
import torch
from openvla_reference import Weights
from safetensors.torch import save_file

Shapes = dict[str, tuple[int, ...]]
TASKS = ("put the bowl on the plate", "Open the Top Drawer", "turn on the stove and put the pan on it")
CASES = ((0, 0), (1, 1), (2, 2), (0, 2))
PROMPT = "In: What action should the robot take to {}?\nOut:"
TEXT_IDS, NUM_BINS, PADDING = 576, 256, 64
STOP, PAD = 2, TEXT_IDS + NUM_BINS
PATCH = 14
MEAN = np.array([0.484375, 0.455078125, 0.40625, 0.5, 0.5, 0.5], np.float32)
STD = np.array([0.228515625, 0.2236328125, 0.224609375, 0.5, 0.5, 0.5], np.float32)
DINO_WIDTH, SIGLIP_WIDTH, TEXT_HIDDEN = 12, 16, 40
HEADS = {"dino_heads": 2, "siglip_heads": 4, "text_heads": 2}
LIBERO = {"q01": [-0.7, -0.6, -0.5, -0.1, -0.2, -0.1, 0.0], "q99": [0.9, 0.8, 0.7, 0.1, 0.2, 0.3, 1.0]}
MASK = {"mask": [True] * 6 + [False]}
PLAIN = {"q01": [-1.0, -2.0, -3.0, 0.5, 0.0, -0.1, -1.0], "q99": [2.0, 1.0, 3.0, 1, 0.4, 0.2, 1.5]}
IN_CONFIG = {"libero_own": {"action": LIBERO | MASK}, "plain": {"action": PLAIN}}
IN_FILE = {"libero_file": {"action": {name: [2 * x for x in values] for name, values in LIBERO.items()} | MASK}}


def make_merges(texts: list[str], count: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Characters and the `count` most frequent merges of byte-pair encoding."""
    words = [list(text) for text in texts]
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: dict[tuple[str, str], int] = {}
        for word in words:
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] = pairs.get(pair, 0) + 1
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [merge(word, best) for word in words]
    return sorted({char for text in texts for char in text}), merges


def merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    """Joins every occurrence of `pair`, from the left."""
    merged: list[str] = []
    index = 0
    while index < len(word):
        step = 2 if tuple(word[index : index + 2]) == pair else 1
        merged.append("".join(word[index : index + step]))
        index += step
    return merged


class Vocabulary:
    """Byte-pair encoding as Llama's tokenizer does it: one leading space, spaces are tokens."""

    def __init__(self) -> None:
        texts = [self._spaced(PROMPT.format(task.lower())) for task in TASKS]
        characters, self.merges = make_merges(texts, 60)
        special = ["<unk>", "<s>", "</s>"]
        tokens = special + [f"<0x{byte:02X}>" for byte in range(256)] + characters + [a + b for a, b in self.merges]
        tokens += [f"<unused_{index}>" for index in range(len(tokens), PAD)]
        self.ids = {token: index for index, token in enumerate(tokens)}
        assert len(self.ids) == PAD

    def _spaced(self, text: str) -> str:
        return ("\u2581" + text).replace(" ", "\u2581")

    def encode(self, text: str) -> list[int]:
        """Ids, BOS first; characters that it does not know as bytes."""
        word = list(self._spaced(text))
        for pair in self.merges:
            word = merge(word, pair)
        ids = [1]
        for token in word:
            known = [self.ids[token]] if token in self.ids else [self.ids[f"<0x{b:02X}>"] for b in token.encode()]
            ids += known
        return ids

    def prompt(self, task: str) -> list[int]:
        """Ids of the prompt with the empty token."""
        return [*self.encode(PROMPT.format(task.lower())), self.ids["\u2581"]]

    def save(self, path: Path) -> None:
        """Writes tokenizer.json."""
        named = [("<unk>", 0), ("<s>", 1), ("</s>", STOP), ("<PAD>", PAD)]
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        spaces = [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ]
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": self.ids,
            "merges": [list(pair) for pair in self.merges],
        }
        raw = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": index, "content": token} | flags for token, index in named],
            "normalizer": {"type": "Sequence", "normalizers": spaces},
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": None,
            "model": model,
        }
        path.write_text(json.dumps(raw, ensure_ascii=False))


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    """A layer's weight and bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def affine(name: str, width: int) -> Shapes:
    """A normalisation's scale and bias."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def tower_shapes(prefix: str, width: int, depth: int, hidden: int, patches: int) -> Shapes:
    """Names and shapes of one tower."""
    dino = prefix.endswith(".featurizer")
    mlp = linear("mlp.fc1", hidden, width) | linear("mlp.fc2", width, hidden)
    block = (
        affine("norm1", width)
        | linear("attn.qkv", 3 * width, width)
        | linear("attn.proj", width, width)
        | affine("norm2", width)
        | mlp
    )
    scales = {f"ls{i}.scale_factor": (width,) for i in (1, 2)} if dino else {}
    pool = (
        {"latent": (1, 1, width)}
        | linear("q", width, width)
        | linear("kv", 2 * width, width)
        | linear("proj", width, width)
        | affine("norm", width)
        | mlp
    )
    shapes: Shapes = {
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
        "pos_embed": (1, patches, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    shapes |= {"cls_token": (1, 1, width), "reg_token": (1, 4, width)} if dino else {}
    shapes |= {f"blocks.{i}.{k}": v for i in range(depth) for k, v in (block | scales).items()}
    shapes |= {} if dino else {f"attn_pool.{k}": v for k, v in pool.items()}
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def text_shapes(width: int, hidden: int, depth: int) -> Shapes:
    """Names and shapes of the decoder."""
    layer = {f"self_attn.{name}_proj.weight": (width, width) for name in "qkvo"} | {
        "mlp.gate_proj.weight": (hidden, width),
        "mlp.up_proj.weight": (hidden, width),
        "mlp.down_proj.weight": (width, hidden),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    vocabulary = PAD + PADDING
    return {
        "language_model.model.embed_tokens.weight": (vocabulary, width),
        "language_model.model.norm.weight": (width,),
        "language_model.lm_head.weight": (vocabulary, width),
    } | {f"language_model.model.layers.{i}.{k}": v for i in range(depth) for k, v in layer.items()}


def make_weights(shapes: Shapes, generator: torch.Generator) -> Weights:
    """Random, rounded to bfloat16: matrices keep the size of their inputs, norms and scales lie around 1."""
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight") or name.endswith("scale_factor"):
            value = 1 + 0.2 * noise
        elif len(shape) > 1 and "embed" not in name.split(".")[-1] and "token" not in name:
            value = noise / np.prod(shape[1:]) ** 0.5
        else:
            value = 0.3 * noise
        if name.endswith("lm_head.weight"):
            value = 3 * value
        if name.endswith("embed_tokens.weight"):
            value = noise
        weights[name] = value.to(torch.bfloat16)
    return weights


def write_checkpoint(
    folder: Path, vocabulary: Vocabulary, image_size: int, width: int, generator: torch.Generator
) -> Weights:
    """Writes the folder's weights, tokenizer and configurations; returns the weights, bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    patches = (image_size // PATCH) ** 2
    shapes = tower_shapes("vision_backbone.featurizer", DINO_WIDTH, 3, 20, patches)
    shapes |= tower_shapes("vision_backbone.fused_featurizer", SIGLIP_WIDTH, 3, 36, patches)
    channels = DINO_WIDTH + SIGLIP_WIDTH
    inner = 4 * channels
    for index, (outputs, inputs) in enumerate(((inner, channels), (width, inner), (width, width)), start=1):
        shapes |= linear(f"projector.fc{index}", outputs, inputs)
    weights = make_weights(shapes | text_shapes(width, TEXT_HIDDEN, 2), generator)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary.save(folder / "tokenizer.json")
    write_json(folder / "config.json", make_config(image_size, width))
    size = [3, image_size, image_size]
    parts = [{"mean": MEAN[i : i + 3].tolist(), "std": STD[i : i + 3].tolist(), "inplace": False} for i in (0, 3)]
    write_json(folder / "preprocessor_config.json", {"input_sizes": [size, size], "tvf_normalize_params": parts})
    return weights


def make_config(image_size: int, width: int) -> dict[str, object]:
    """config.json in the published form, with the towers' heads, which timm's names do not give at these widths."""
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "image_sizes": [image_size, image_size],
        "n_action_bins": NUM_BINS,
        "pad_to_multiple_of": PADDING,
        "norm_stats": IN_CONFIG,
        "text_config": {
            "hidden_size": width,
            "intermediate_size": TEXT_HIDDEN,
            "model_type": "llama",
            "num_attention_heads": HEADS["text_heads"],
            "num_hidden_layers": 2,
            "num_key_value_heads": HEADS["text_heads"],
            "pad_token_id": PAD,
            "torch_dtype": "bfloat16",
            "vocab_size": PAD + PADDING,
        },
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "timm_model_kwargs": [{"num_heads": HEADS["dino_heads"]}, {"num_heads": HEADS["siglip_heads"]}],
    }


def write_json(path: Path, value: object) -> None:
    """Readable JSON."""
    path.write_text(json.dumps(value, indent=1) + "\n")
