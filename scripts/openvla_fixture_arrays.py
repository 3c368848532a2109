"""The arrays of the OpenVLA fixture, by the arithmetic of openvla_reference.py and of this file."""

import numpy as np
import torch
from openvla_fixture_checkpoint import (
    CASES,
    MEAN,
    NUM_BINS,
    PAD,
    PADDING,
    STD,
    STOP,
    TASKS,
    TEXT_IDS,
    Vocabulary,
)
from openvla_reference import Reference, project
from PIL import Image
from torch import Tensor

LORA_RANK = 32
SCALE = 0.5
"""LoRA's alpha / rank."""


def draw_images(rng: np.random.Generator) -> list[np.ndarray]:
    """Pictures of three shapes: a gradient with a block, noise, a checkerboard."""
    gradient = np.linspace(0, 255, 96)[:, None, None] * np.ones((1, 96, 3)) * [1.0, 0.7, 0.4]
    gradient[20:50, 30:70] = [200, 30, 60]
    noise = rng.integers(0, 256, (48, 64, 3))
    board = 255 * (np.indices((60, 60)).sum(0) // 3 % 2)[..., None] * np.ones(3)
    return [image.astype(np.uint8) for image in (gradient, noise, board)]


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
