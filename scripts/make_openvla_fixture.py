"""Remakes tests/policies/openvla/data: a tiny checkpoint in OpenVLA's layout with the reference's numbers for it.

    python scripts/make_openvla_fixture.py [FOLDER] [--seed N] [--image-size H] [--statistics-file]

The numbers come from scripts/openvla_reference.py, not from vlarl; the vocabulary is a small one of its own (Llama's is
Meta's). Format and names are those of the fixture made with the published code, which VLARL_OPENVLA_FIXTURE names;
files that only that code can fill (TensorFlow's frames, VLA-RL's loops) are not made.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from openvla_reference import Reference, Weights, project
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

TASKS = ("put the bowl on the plate", "Open the Top Drawer", "turn on the stove and put the pan on it")
CASES = ((0, 0), (1, 1), (2, 2), (0, 2))
PROMPT = "In: What action should the robot take to {}?\nOut:"
TEXT_IDS, NUM_BINS, PADDING = 576, 256, 64
STOP, PAD = 2, TEXT_IDS + NUM_BINS
PATCH = 14
LORA_RANK = 32
SCALE = 0.5
"""LoRA's alpha / rank."""


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


def tower_shapes(prefix: str, width: int, depth: int, hidden: int, patches: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one tower."""
    dino = prefix.endswith(".featurizer")
    block = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
        "mlp.fc2.bias": (width,),
    }
    scales = {f"ls{i}.scale_factor": (width,) for i in (1, 2)} if dino else {}
    pool = {
        "latent": (1, 1, width),
        "q.weight": (width, width),
        "q.bias": (width,),
        "kv.weight": (2 * width, width),
        "kv.bias": (2 * width,),
        "proj.weight": (width, width),
        "proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
        "mlp.fc2.bias": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {
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


def text_shapes(width: int, hidden: int, depth: int) -> dict[str, tuple[int, ...]]:
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


def make_weights(shapes: dict[str, tuple[int, ...]], generator: torch.Generator) -> Weights:
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


def draw_images(rng: np.random.Generator) -> list[np.ndarray]:
    """Pictures of three shapes: a gradient with a block, noise, a checkerboard."""
    gradient = np.linspace(0, 255, 96)[:, None, None] * np.ones((1, 96, 3)) * [1.0, 0.7, 0.4]
    gradient[20:50, 30:70] = [200, 30, 60]
    noise = rng.integers(0, 256, (48, 64, 3))
    board = 255 * (np.indices((60, 60)).sum(0) // 3 % 2)[..., None] * np.ones(3)
    return [image.astype(np.uint8) for image in (gradient, noise, board)]


MEAN = np.array([0.484375, 0.455078125, 0.40625, 0.5, 0.5, 0.5], np.float32)
STD = np.array([0.228515625, 0.2236328125, 0.224609375, 0.5, 0.5, 0.5], np.float32)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Bicubic, to a square."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def normalise(image: np.ndarray) -> Tensor:
    """[H, H, 3] uint8 -> [6, H, H]."""
    scaled = np.concatenate([image.astype(np.float32).transpose(2, 0, 1) / np.float32(255)] * 2)
    return torch.from_numpy((scaled - MEAN[:, None, None]) / STD[:, None, None])


def encode_action(actions: np.ndarray) -> np.ndarray:
    """256 edges over [-1, 1]; the id falls by one per edge that the action reaches."""
    edges = np.linspace(-1, 1, NUM_BINS)
    return PAD - (edges[:, None] <= np.clip(actions, -1, 1).reshape(1, -1)).sum(0).reshape(actions.shape)


def decode_action(ids: np.ndarray) -> np.ndarray:
    """Centres of the bins; other ids take the nearest."""
    edges = np.linspace(-1, 1, NUM_BINS)
    return ((edges[1:] + edges[:-1]) / 2)[np.clip(PAD - ids - 1, 0, NUM_BINS - 2)]


def unnormalise(action: np.ndarray, statistics: dict[str, list]) -> np.ndarray:
    """From [-1, 1] to the range between the quantiles, where the mask is set."""
    low, high = np.array(statistics["q01"]), np.array(statistics["q99"])
    mask = np.array(statistics.get("mask", [True] * len(low)))
    return np.where(mask, (action + 1) / 2 * (high - low) + low, action)


def model_arrays(
    reference: Reference, vocabulary: Vocabulary, images: list[np.ndarray], size: int, statistics: dict[str, dict]
) -> dict[str, np.ndarray]:
    """Arrays of model_cases.npz."""
    arrays: dict[str, np.ndarray] = {}
    pixels = []
    for index, image in enumerate(images):
        arrays[f"img{index}_resized_uint8"] = resize(image, size)
        pixels.append(normalise(arrays[f"img{index}_resized_uint8"]))
        arrays[f"img{index}_pixel_values"] = pixels[-1].numpy()
        features = {name: reference.features(name, pixels[-1]) for name in reference.heads}
        arrays[f"img{index}_dino_features"] = features["featurizer"].numpy()
        arrays[f"img{index}_siglip_features"] = features["fused_featurizer"].numpy()
        from_towers = torch.cat(list(features.values()), dim=-1)
        arrays[f"img{index}_projected"] = project(reference.weights, from_towers).numpy()
    selected = np.arange(PAD + PADDING - 336, PAD + PADDING)[::8]
    arrays["sel_vocab_ids"] = selected
    arrays["c0_dino_tokens_per_block"] = torch.stack(reference.tower("featurizer", pixels[CASES[0][0]])).numpy()
    arrays["c0_siglip_tokens_per_block"] = torch.stack(reference.tower("fused_featurizer", pixels[CASES[0][0]])).numpy()
    for case, (picture, task) in enumerate(CASES):
        ids = vocabulary.prompt(TASKS[task])
        states = reference.states(pixels[picture], ids)
        logits = states[-1] @ reference.weights["language_model.lm_head.weight"].T
        tokens, scores = reference.generate(pixels[picture], ids, 7)
        best = scores.topk(2, dim=-1).values
        logprobs = scores.log_softmax(-1)
        chosen = logprobs.max(-1).values.numpy()
        normalized = decode_action(np.array(tokens))
        positions = np.array([0, 1, *range(len(logits) - 12, len(logits))])
        here = {
            "image_index": picture,
            "task_index": task,
            "input_ids_raw": ids[:-1],
            "attention_mask_raw": np.ones(len(ids) - 1, dtype=np.int64),
            "input_ids": ids,
            "positions": positions,
            "logits_sel": logits[positions][:, selected],
            "logits_logsumexp": logits.logsumexp(-1),
            "logits_argmax": logits.argmax(-1),
            "gen_tokens": tokens,
            "gen_logprobs": chosen,
            "gen_top2_margin": best[:, 0] - best[:, 1],
            "gen_scores_sel": scores[:, selected],
            "gen_entropy": -(logprobs.exp() * logprobs).sum(-1),
            "teacher_forced_logprobs": chosen,
            "normalized_action": normalized,
        } | {f"action__{key}": unnormalise(normalized, value["action"]) for key, value in statistics.items()}
        if case == 0:
            here |= {"llm_hidden_states": torch.stack(states), "logits_last": logits[-1]}
        arrays |= {f"c{case}_{name}": np.asarray(value) for name, value in here.items()}
        assert float((best[:, 0] - best[:, 1]).min()) > 0.03, "greedy tokens hang on rounding: take another seed"
    return arrays


def training_arrays(
    reference: Reference, vocabulary: Vocabulary, pixels: list[Tensor], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Arrays of training.npz: loss and gradients of three examples, actions partly out of range."""
    actions = rng.uniform(-1.2, 1.2, (len(TASKS), 7))
    actions[:, -1] = rng.integers(0, 2, len(TASKS))
    tokens = encode_action(actions)
    rows = [[*vocabulary.prompt(task), *ids.tolist(), STOP] for task, ids in zip(TASKS, tokens, strict=True)]
    width = max(map(len, rows))
    ids = np.array([row + [PAD] * (width - len(row)) for row in rows])
    labels = np.full_like(ids, -100)
    for row, sequence in enumerate(rows):
        labels[row, len(sequence) - 8 : len(sequence)] = sequence[-8:]
    mask = np.arange(width) < np.array([len(row) for row in rows])[:, None]
    parameters = {name: weight.clone().requires_grad_() for name, weight in reference.weights.items()}
    learned = Reference(
        parameters,
        dino_heads=reference.heads["featurizer"],
        siglip_heads=reference.heads["fused_featurizer"],
        text_heads=reference.text_heads,
    )
    # Padding follows everything real, so a causal decoder never sees it: logits there are of no use, but given.
    logits = torch.stack([learned.logits(picture, row.tolist()) for picture, row in zip(pixels, ids, strict=True)])
    patches = logits.shape[1] - width
    shifted = logits[:, patches:-1].log_softmax(-1)
    targets = torch.from_numpy(labels[:, 1:])
    chosen = shifted.gather(-1, targets.clamp_min(0)[..., None]).squeeze(-1).masked_fill(targets < 0, 0.0)
    loss = -chosen.sum() / (targets >= 0).sum()
    loss.backward()
    action_mask = labels[:, 1:] > PAD - NUM_BINS - 1
    predicted = shifted.argmax(-1).numpy()[action_mask]
    true = labels[:, 1:][action_mask]
    gradients = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in parameters.items()}
    positions = np.array([0, 1, *range(logits.shape[1] - 20, logits.shape[1])])
    selected = np.arange(PAD + PADDING - 336, PAD + PADDING)[::8]
    names = list(parameters)
    arrays = {
        "actions": actions,
        "input_ids": ids,
        "labels": labels,
        "attention_mask": mask,
        "pixel_values": np.zeros(0, np.float32),
        "loss": loss.detach(),
        "logits_logsumexp": logits.detach().logsumexp(-1),
        "positions": positions,
        "logits_sel": logits.detach()[:, positions][..., selected],
        "sel_vocab_ids": selected,
        "grad_names": np.array(names),
        "grad_l2_norms": np.array([float(gradients[name].double().norm()) for name in names]),
        "grad_projector_fc3_weight": gradients["projector.fc3.weight"],
        "grad_pos_embed_dino": gradients["vision_backbone.featurizer.pos_embed"][0],
        "action_accuracy": np.float32((predicted == true).mean()),
        "action_mask": action_mask,
        "action_l1": np.abs(decode_action(predicted) - decode_action(true)).mean(),
        "per_token_logprob": chosen.detach(),
    }
    return {name: np.asarray(value) for name, value in arrays.items()}


def rl_arrays(
    reference: Reference, vocabulary: Vocabulary, pixels: list[Tensor], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Arrays of rl_logprob.npz: log-probs and entropies of given responses at three temperatures."""
    responses = np.concatenate([rng.integers(TEXT_IDS, PAD, (len(TASKS), 7)), np.full((len(TASKS), 1), STOP)], axis=1)
    rows = [vocabulary.prompt(task) for task in TASKS]
    width = max(map(len, rows)) + 3
    queries = np.array([row + [PAD] * (width - len(row)) for row in rows])
    joined = [row + ids.tolist() for row, ids in zip(rows, responses, strict=True)]
    patches = reference.weights["vision_backbone.featurizer.pos_embed"].shape[1]
    lengths = np.array([len(row) for row in rows])
    arrays = {
        "queries": queries,
        "responses": responses,
        "query_responses": np.array([row + [PAD] * (width + 8 - len(row)) for row in joined]),
        "context_length": lengths + patches,
        "prompt_length": lengths,
        "image_index": np.arange(len(TASKS)),
        "task_index": np.arange(len(TASKS)),
    }
    scores = torch.stack([reference.logits(p, row)[-9:-1] for p, row in zip(pixels, joined, strict=True)])
    for temperature in (1.0, 1.6, 0.7):
        logprobs = (scores / (temperature + 1e-7)).log_softmax(-1)
        chosen = logprobs.gather(-1, torch.from_numpy(responses)[..., None]).squeeze(-1)
        arrays[f"logprob_T{temperature}"] = chosen.numpy()
        arrays[f"entropy_T{temperature}"] = -(logprobs.exp() * logprobs).sum(-1).numpy()
    return arrays


ADAPTED = (
    "vision_backbone.featurizer.blocks.0.attn.qkv",
    "vision_backbone.featurizer.patch_embed.proj",
    "vision_backbone.fused_featurizer.blocks.1.mlp.fc2",
    "projector.fc1",
    "language_model.model.layers.0.self_attn.q_proj",
)


def lora_arrays(
    reference: Reference, vocabulary: Vocabulary, pixels: list[Tensor], generator: torch.Generator
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Arrays of lora.npz and lora.json: merged weights W + B A / 2, and the logits they give."""
    arrays: dict[str, np.ndarray] = {}
    merged = dict(reference.weights)
    for name in ADAPTED:
        weight = reference.weights[f"{name}.weight"]
        shape_a, shape_b = (LORA_RANK, *weight.shape[1:]), (weight.shape[0], LORA_RANK, *[1] * (weight.ndim - 2))
        a = (0.05 * torch.randn(shape_a, generator=generator)).half()
        b = (0.05 * torch.randn(shape_b, generator=generator)).half()
        update = SCALE * b.float().flatten(1) @ a.float().flatten(1)
        merged[f"{name}.weight"] = weight + update.view_as(weight)
        arrays[f"adapter/base_model.model.{name}.lora_A.weight"] = a.numpy()
        arrays[f"adapter/base_model.model.{name}.lora_B.weight"] = b.numpy()
        arrays[f"merged/{name}.weight"] = merged[f"{name}.weight"].numpy()
    halves = [torch.from_numpy(arrays[f"adapter/base_model.model.projector.fc1.lora_{x}.weight"]) for x in "BA"]
    update = SCALE * (halves[0].bfloat16() @ halves[1].bfloat16())
    low = reference.weights["projector.fc1.weight"].bfloat16() + update
    arrays["merged_bf16_as_f32/projector.fc1.weight"] = low.float().numpy()
    adapted = Reference(
        merged,
        dino_heads=reference.heads["featurizer"],
        siglip_heads=reference.heads["fused_featurizer"],
        text_heads=reference.text_heads,
    )
    picture, task = CASES[0]
    arrays["c0_last_logits_merged"] = adapted.logits(pixels[picture], vocabulary.prompt(TASKS[task]))[-1].numpy()
    modules = sorted(
        name.removesuffix(".weight")
        for name, weight in reference.weights.items()
        if weight.ndim in (2, 4) and name.endswith(".weight") and "embed_tokens" not in name
    )
    shapes = {}
    for name in modules:
        weight = reference.weights[f"{name}.weight"]
        shapes[f"base_model.model.{name}.lora_A.weight"] = [LORA_RANK, *weight.shape[1:]]
        shapes[f"base_model.model.{name}.lora_B.weight"] = [weight.shape[0], LORA_RANK, *[1] * (weight.ndim - 2)]
    described = {
        "adapter_config": {"r": LORA_RANK, "lora_alpha": LORA_RANK / 2, "lora_dropout": 0.0, "bias": "none"},
        "module_names": [name for name in modules if not name.endswith("patch_embed.proj")],
        "conv_module_names": [name for name in modules if name.endswith("patch_embed.proj")],
        "changed_state_dict_keys": sorted(f"{name}.weight" for name in ADAPTED),
        "scaling": SCALE,
        "adapter_tensor_shapes": shapes,
    }
    return arrays, described


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parent.parent / "tests" / "policies" / "openvla" / "data"
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=42)
    parser.add_argument("--width", type=int, default=16, help="of the decoder")
    parser.add_argument("--statistics-file", action="store_true", help="write dataset_statistics.json, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator, rng = torch.Generator().manual_seed(options.seed), np.random.default_rng(options.seed)
    folder = options.folder
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    patches, width = (options.image_size // PATCH) ** 2, options.width
    shapes = tower_shapes("vision_backbone.featurizer", 12, 3, 20, patches)
    shapes |= tower_shapes("vision_backbone.fused_featurizer", 16, 3, 36, patches)
    inner = 4 * (12 + 16)
    for index, (outputs, inputs) in enumerate(((inner, 12 + 16), (width, inner), (width, width)), start=1):
        shapes |= {f"projector.fc{index}.weight": (outputs, inputs), f"projector.fc{index}.bias": (outputs,)}
    shapes |= text_shapes(width, 40, 2)
    weights = make_weights(shapes, generator)
    save_file(weights, folder / "checkpoint" / "model.safetensors", metadata={"format": "pt"})
    reference = Reference({k: v.float() for k, v in weights.items()}, dino_heads=2, siglip_heads=4, text_heads=2)
    vocabulary = Vocabulary()
    vocabulary.save(folder / "checkpoint" / "tokenizer.json")
    libero = {"q01": [-0.7, -0.6, -0.5, -0.1, -0.2, -0.1, 0.0], "q99": [0.9, 0.8, 0.7, 0.1, 0.2, 0.3, 1.0]}
    statistics = {
        "libero_own": {"action": libero | {"mask": [True] * 6 + [False]}},
        "plain": {
            "action": {"q01": [-1.0, -2.0, -3.0, 0.5, 0.0, -0.1, -1.0], "q99": [2.0, 1.0, 3.0, 1, 0.4, 0.2, 1.5]}
        },
    }
    from_file = {
        "libero_file": {"action": {k: [2 * x for x in v] for k, v in libero.items()} | {"mask": [True] * 6 + [False]}}
    }
    config = {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "image_sizes": [options.image_size, options.image_size],
        "n_action_bins": NUM_BINS,
        "pad_to_multiple_of": PADDING,
        "norm_stats": statistics,
        "text_config": {
            "hidden_size": width,
            "intermediate_size": 40,
            "model_type": "llama",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "pad_token_id": PAD,
            "torch_dtype": "bfloat16",
            "vocab_size": PAD + PADDING,
        },
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "timm_model_kwargs": [{"num_heads": 2}, {"num_heads": 4}],
    }
    write_json(folder / "checkpoint" / "config.json", config)
    size = [3, options.image_size, options.image_size]
    normalisation = [
        {"mean": MEAN[i : i + 3].tolist(), "std": STD[i : i + 3].tolist(), "inplace": False} for i in (0, 3)
    ]
    preprocessor = {"input_sizes": [size, size], "tvf_normalize_params": normalisation}
    write_json(folder / "checkpoint" / "preprocessor_config.json", preprocessor)
    sources = {"config": sorted(statistics)}
    if options.statistics_file:
        write_json(folder / "checkpoint" / "dataset_statistics.json", from_file)
        sources["file"], statistics = sorted(from_file), statistics | from_file
    images = draw_images(rng)
    np.savez_compressed(folder / "images.npz", **{f"image_{i}": image for i, image in enumerate(images)})
    write_json(
        folder / "prompts.json",
        {
            "tasks": TASKS,
            "cases": CASES,
            "prompts": [PROMPT.format(task.lower()) for task in TASKS],
            "prompt_ids": [vocabulary.encode(PROMPT.format(task.lower())) for task in TASKS],
            "unnorm_keys": sources,
        },
    )
    arrays = model_arrays(reference, vocabulary, images, options.image_size, statistics)
    np.savez_compressed(folder / "model_cases.npz", **arrays)
    pixels = [normalise(resize(image, options.image_size)) for image in images]
    full = reference.logits(pixels[CASES[2][0]], vocabulary.prompt(TASKS[CASES[2][1]]))
    rows = np.array([0, 3, len(full) - 2, len(full) - 1])
    np.savez_compressed(folder / "logits_full.npz", c2_logits=full[rows].numpy(), c2_positions=rows)
    np.savez_compressed(folder / "training.npz", **training_arrays(reference, vocabulary, pixels, rng))
    np.savez_compressed(folder / "rl_logprob.npz", **rl_arrays(reference, vocabulary, pixels, rng))
    lora, described = lora_arrays(reference, vocabulary, pixels, generator)
    np.savez_compressed(folder / "lora.npz", **lora)
    write_json(folder / "lora.json", described)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "MANIFEST.json"]
    digests = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    write_json(folder / "MANIFEST.json", digests)
    print(f"{folder}: {sum(path.stat().st_size for path in files) / 1000:.0f} kB")


def write_json(path: Path, value: object) -> None:
    """Readable JSON."""
    path.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
