"""Ours against numbers of the published code, on its own tiny checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.openvla_fixture import FOLDER, arrays, distance, needs_fixture, prompts
from vlarl.actions.normalization import ActionStatistics
from vlarl.actions.tokenizer import ActionTokenizer
from vlarl.policies.openvla.checkpoint import load_model, open_checkpoint
from vlarl.policies.openvla.processor import OpenVLAProcessor

pytestmark = needs_fixture


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(FOLDER / "checkpoint")


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint, dtype=torch.float32)


@pytest.fixture(scope="module")
def processor():
    return OpenVLAProcessor.from_folder(FOLDER / "checkpoint")


def image(index):
    return arrays("images.npz")[f"image_{index}"]


def pixels(processor, index):
    return processor.normalize(torch.from_numpy(processor.resize([image(index)])))


@pytest.mark.parametrize("index", range(4))
def test_pixels_are_the_references(processor, index):
    cases = arrays("model_cases.npz")
    assert np.array_equal(processor.resize([image(index)])[0], cases[f"img{index}_resized_uint8"])
    assert distance(pixels(processor, index)[0], cases[f"img{index}_pixel_values"]) == 0


@pytest.mark.parametrize("index", range(4))
@torch.no_grad()
def test_features_are_the_references(model, processor, index):
    cases, backbone = arrays("model_cases.npz"), model.vision_backbone
    dino, siglip = pixels(processor, index).split(3, dim=1)
    assert distance(backbone.featurizer(dino)[0], cases[f"img{index}_dino_features"]) <= 1e-4
    assert distance(backbone.fused_featurizer(siglip)[0], cases[f"img{index}_siglip_features"]) <= 1e-4
    projected = model.projector(backbone(pixels(processor, index)))[0]
    assert distance(projected, cases[f"img{index}_projected"]) <= 1e-4


@torch.no_grad()
def test_every_block_is_the_references(model, processor):
    cases = arrays("model_cases.npz")
    dino, siglip = pixels(processor, prompts()["cases"][0][0]).split(3, dim=1)
    towers = {
        "dino": (model.vision_backbone.featurizer, dino),
        "siglip": (model.vision_backbone.fused_featurizer, siglip),
    }
    for name, (tower, inputs) in towers.items():
        tokens = tower.embed(inputs)
        for depth, expected in enumerate(cases[f"c0_{name}_tokens_per_block"]):
            assert distance(tokens[0], expected) <= 1e-4
            if depth < len(tower.blocks):
                tokens = tower.blocks[depth](tokens)


@torch.no_grad()
def test_logits_are_the_references(model, processor):
    cases = arrays("model_cases.npz")
    for case, (picture, task) in enumerate(prompts()["cases"]):
        ids, mask = processor.encode_instructions([prompts()["tasks"][task]])
        assert ids[0].tolist() == cases[f"c{case}_input_ids"].tolist()
        logits = model(pixels(processor, picture), ids, mask)[0]
        selected = logits[cases[f"c{case}_positions"]][:, cases["sel_vocab_ids"]]
        assert distance(selected, cases[f"c{case}_logits_sel"]) <= 5e-4
        assert distance(logits.logsumexp(-1), cases[f"c{case}_logits_logsumexp"]) <= 5e-4
        assert logits.argmax(-1).tolist() == cases[f"c{case}_logits_argmax"].tolist()


@torch.no_grad()
def test_padding_changes_nothing(model, processor):
    """Prompts of different length in one batch."""
    cases = arrays("model_cases.npz")
    chosen = [0, 1, 2]
    instructions = [prompts()["tasks"][prompts()["cases"][case][1]] for case in chosen]
    ids, mask = processor.encode_instructions(instructions)
    assert len(set(mask.sum(1).tolist())) > 1
    inputs = torch.cat([pixels(processor, prompts()["cases"][case][0]) for case in chosen])
    logits = model(inputs, ids, mask)
    patches = logits.shape[1] - ids.shape[1]
    for row, case in enumerate(chosen):
        length = patches + int(mask[row].sum())
        assert distance(logits[row, :length].logsumexp(-1), cases[f"c{case}_logits_logsumexp"]) <= 5e-4


@torch.no_grad()
def test_greedy_actions_are_the_references(model, processor, checkpoint):
    cases = arrays("model_cases.npz")
    tokenizer = ActionTokenizer(checkpoint.config.action_vocab_size, checkpoint.config.num_bins)
    for case, (picture, task) in enumerate(prompts()["cases"]):
        ids, mask = processor.encode_instructions([prompts()["tasks"][task]])
        expected = cases[f"c{case}_gen_tokens"]
        sequence = torch.cat([ids, torch.from_numpy(expected)[None]], dim=1)
        logits = model(pixels(processor, picture), sequence, torch.ones_like(sequence, dtype=torch.bool))[0]
        logprobs = logits[-len(expected) - 1 : -1].log_softmax(-1)
        assert logprobs.argmax(-1).tolist() == expected.tolist()
        assert distance(logprobs.max(-1).values, cases[f"c{case}_gen_logprobs"]) <= 5e-4
        normalized = tokenizer.decode(expected)
        assert distance(normalized, cases[f"c{case}_normalized_action"]) <= 1e-7
        for key in checkpoint.norm_stats:
            statistics = ActionStatistics.from_norm_stats(checkpoint.norm_stats, key)
            expected_action = cases[f"c{case}_action__{key}"]
            assert distance(statistics.unnormalize(normalized), expected_action) <= 1e-6


@torch.no_grad()
def test_logprobs_are_those_of_vla_rl(model, processor):
    """Every temperature, log-softmax over the whole vocabulary."""
    raw = arrays("rl_logprob.npz")
    for row, (length, picture) in enumerate(zip(raw["prompt_length"], raw["image_index"], strict=True)):
        responses = torch.from_numpy(raw["responses"][row])
        sequence = torch.from_numpy(raw["query_responses"][row][: length + len(responses)])[None]
        logits = model(pixels(processor, picture), sequence, torch.ones_like(sequence, dtype=torch.bool))[0]
        for key in (name for name in raw if name.startswith("logprob_T")):
            scores = (logits[-len(responses) - 1 : -1] / float(key.removeprefix("logprob_T"))).log_softmax(-1)
            chosen = scores.gather(-1, responses[:, None]).squeeze(-1)
            assert distance(chosen, raw[key][row]) <= 5e-4
            assert distance(-(scores.exp() * scores).sum(-1), raw[key.replace("logprob", "entropy")][row]) <= 5e-4


def test_prompts_of_the_first_release(processor):
    old = replace(processor, prompt_format="v01")
    for task, expected in zip(prompts()["tasks"], prompts()["prompt_ids_v01"], strict=True):
        assert old.prompt_ids(task) == expected


def test_pixels_at_224():
    raw = arrays("processor_224.npz")
    processor = OpenVLAProcessor.from_folder(FOLDER / "checkpoint")
    large = replace(processor, image_size=224)
    for index in range(4):
        made = pixels(large, index)[0]
        assert distance(made[:, ::7, ::7], raw[f"img{index}_pixel_values_sub"]) == 0
        sums = made.to(torch.float64).sum((1, 2))
        assert distance(sums, raw[f"img{index}_channel_sum_f64"]) <= 1e-6


def test_training_loss_and_gradients(checkpoint):
    """The loss of the reference's fine-tuning, and the norm of every parameter's gradient."""
    raw = arrays("training.npz")
    model = load_model(checkpoint, dtype=torch.float32)
    ids, mask, labels, inputs = (
        torch.from_numpy(raw[name]) for name in ("input_ids", "attention_mask", "labels", "pixel_values")
    )
    logits = model(inputs, ids, mask)
    assert distance(logits.detach().logsumexp(-1), raw["logits_logsumexp"]) <= 5e-4
    patches = logits.shape[1] - ids.shape[1]
    predictions = torch.cat([logits[:, :1], logits[:, patches + 1 :]], dim=1)[:, :-1]
    predictions[:, 0] = logits[:, patches]
    loss = torch.nn.functional.cross_entropy(predictions.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert distance(loss.detach(), raw["loss"]) <= 1e-5
    loss.backward()
    norms = {name: 0.0 if p.grad is None else float(p.grad.double().norm()) for name, p in model.named_parameters()}
    expected = dict(zip(raw["grad_names"].tolist(), raw["grad_l2_norms"].tolist(), strict=True))
    assert norms.keys() == expected.keys()
    for name, norm in norms.items():
        assert norm == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name
