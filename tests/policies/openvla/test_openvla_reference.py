"""Ours against the reference's numbers, on its own tiny checkpoint: every array group of the fixture's list."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

from tests.openvla_fixture import Case, Reference
from vlarl.actions.normalization import ActionStatistics
from vlarl.actions.tokenizer import ActionTokenizer
from vlarl.inference.local import LocalGenerator
from vlarl.policies.openvla.checkpoint import OpenVLACheckpoint, open_checkpoint
from vlarl.policies.openvla.model import OpenVLAModel
from vlarl.policies.openvla.policy import OpenVLAPolicy
from vlarl.policies.openvla.processor import PREPROCESSOR_NAME, TOKENIZER_NAME, OpenVLAProcessor
from vlarl.policies.vla import PolicyInputs
from vlarl.training.supervised import supervised_loss

FEATURES, LOGITS, LOGPROBS = 1e-4, 5e-4, 1e-4
"""Absolute tolerances."""


@pytest.fixture(scope="module")
def checkpoint(reference: Reference) -> OpenVLACheckpoint:
    return open_checkpoint(reference.checkpoint)


@pytest.fixture(scope="module")
def policy(reference: Reference, checkpoint: OpenVLACheckpoint) -> OpenVLAPolicy:
    key = sorted(checkpoint.norm_stats)[0]
    return OpenVLAPolicy.from_pretrained(reference.checkpoint, libero_frames=False, unnorm_key=key, dtype="float32")


@pytest.fixture(scope="module")
def model(policy: OpenVLAPolicy) -> OpenVLAModel:
    return policy.trunk.openvla


@pytest.fixture(scope="module")
def processor(policy: OpenVLAPolicy) -> OpenVLAProcessor:
    return policy.trunk.processor


def inputs_of(reference: Reference, processor: OpenVLAProcessor, *cases: Case) -> PolicyInputs:
    ids, mask = processor.encode_prompts([reference.prompts["tasks"][case.task] for case in cases])
    images = processor.resize([reference.image(case.picture) for case in cases])
    return PolicyInputs(
        images=torch.from_numpy(images),
        proprio=torch.zeros(len(cases), 0),
        instruction_ids=ids,
        instruction_mask=mask,
    )


@torch.no_grad()
def logits_of(reference, model, processor, picture: int, ids: np.ndarray) -> torch.Tensor:
    """[patches + L, vocabulary] of one picture with ids [L]."""
    sequence = torch.from_numpy(np.asarray(ids))[None]
    return model(reference.pixels(processor, picture), sequence, torch.ones_like(sequence, dtype=torch.bool))[0]


def test_pixels(reference, processor):
    cases = reference.model_cases
    for index in range(reference.num_images()):
        resized = cases.get(f"img{index}_resized_uint8")
        if resized is not None:
            reference.within("resized picture (grey levels)", processor.resize([reference.image(index)])[0], resized, 0)
        expected = cases.get(f"img{index}_pixel_values")
        if expected is not None and expected.size:
            reference.within("pixels", reference.pixels(processor, index)[0], expected, 0)


def test_pixels_at_224(reference, processor, tmp_path):
    raw = reference.arrays("processor_224.npz")
    shutil.copyfile(reference.folder / "processor_224_preprocessor_config.json", tmp_path / PREPROCESSOR_NAME)
    shutil.copyfile(reference.checkpoint / TOKENIZER_NAME, tmp_path / TOKENIZER_NAME)
    large = OpenVLAProcessor.from_folder(tmp_path)
    assert large.image_size == 224
    for index in range(reference.num_images()):
        made = reference.pixels(large, index)[0]
        reference.within("pixels at 224", made[:, ::7, ::7], raw[f"img{index}_pixel_values_sub"], 0)
        sums = made.to(torch.float64).sum((1, 2))
        reference.within("pixels at 224, sums", sums, raw[f"img{index}_channel_sum_f64"], 1e-6)


@torch.no_grad()
def test_features(reference, model, processor):
    cases, backbone = reference.model_cases, model.vision_backbone
    for index in range(reference.num_images()):
        pixels = reference.pixels(processor, index)
        dino, siglip = pixels.split(3, dim=1)
        towers = {"dino": backbone.featurizer(dino), "siglip": backbone.fused_featurizer(siglip)}
        for name, features in towers.items():
            reference.within(f"{name} features", features[0], cases[f"img{index}_{name}_features"], FEATURES)
        projected = model.projector(backbone(pixels))[0]
        reference.within("projected patches", projected, cases[f"img{index}_projected"], FEATURES)


@torch.no_grad()
def test_every_block_of_the_towers(reference, model, processor):
    cases = reference.model_cases
    picture = next(reference.cases()).picture
    dino, siglip = reference.pixels(processor, picture).split(3, dim=1)
    towers = {
        "dino": (model.vision_backbone.featurizer, dino),
        "siglip": (model.vision_backbone.fused_featurizer, siglip),
    }
    for name, (tower, inputs) in towers.items():
        tokens = tower.embed(inputs)
        expected = cases[f"c0_{name}_tokens_per_block"]
        assert len(expected) == len(tower.blocks) + 1
        for depth, block in enumerate(expected):
            reference.within(f"{name} blocks", tokens[0], block, FEATURES)
            if depth < len(tower.blocks):
                tokens = tower.blocks[depth](tokens)


@torch.no_grad()
def test_every_layer_of_the_decoder(reference, model, processor):
    case = next(reference.cases())
    ids = torch.from_numpy(reference.model_cases["c0_input_ids"])[None]
    embeddings, mask = model.embed_prompt(reference.pixels(processor, case.picture), ids, torch.ones_like(ids).bool())
    states = model.language_model(
        inputs_embeds=embeddings, attention_mask=mask, output_hidden_states=True
    ).hidden_states
    expected = reference.model_cases["c0_llm_hidden_states"]
    assert len(states) == len(expected)
    for state, row in zip(states, expected, strict=True):
        reference.within("decoder hidden states", state[0], row, FEATURES)


def test_prompts(reference, processor):
    cases, prompts = reference.model_cases, reference.prompts
    for task, expected in zip(prompts["tasks"], prompts["prompt_ids"], strict=True):
        assert processor.prompt_ids(task) == expected
    for case in reference.cases():
        task = prompts["tasks"][case.task]
        assert processor.prompt_ids(task) == cases[f"c{case.index}_input_ids_raw"].tolist()
        assert cases[f"c{case.index}_attention_mask_raw"].all()
        ids, mask = processor.encode_instructions([task])
        assert ids[0].tolist() == cases[f"c{case.index}_input_ids"].tolist()
        assert mask.all()


def test_prompts_of_the_first_release(reference):
    prompts = reference.prompts
    if "prompt_ids_v01" not in prompts:
        pytest.skip(f"{reference.folder} has no v01 prompts")
    old = OpenVLAProcessor.from_folder(reference.checkpoint, prompt_format="v01")
    for task, expected in zip(prompts["tasks"], prompts["prompt_ids_v01"], strict=True):
        assert old.prompt_ids(task) == expected


@torch.no_grad()
def test_logits(reference, model, processor):
    cases = reference.model_cases
    for case in reference.cases():
        name = f"c{case.index}"
        logits = logits_of(reference, model, processor, case.picture, cases[f"{name}_input_ids"])
        selected = logits[cases[f"{name}_positions"]][:, cases["sel_vocab_ids"]]
        reference.within("logits", selected, cases[f"{name}_logits_sel"], LOGITS)
        reference.within("logits, log-sum-exp", logits.logsumexp(-1), cases[f"{name}_logits_logsumexp"], LOGITS)
        assert logits.argmax(-1).tolist() == cases[f"{name}_logits_argmax"].tolist()
        if f"{name}_logits_last" in cases:
            reference.within("logits, last position", logits[-1], cases[f"{name}_logits_last"], LOGITS)


def test_logits_over_the_whole_vocabulary(reference, model, processor):
    raw = reference.arrays("logits_full.npz")
    case = list(reference.cases())[2]
    logits = logits_of(reference, model, processor, case.picture, reference.model_cases["c2_input_ids"])
    rows = raw.get("c2_positions", np.arange(len(logits)))
    reference.within("logits, whole vocabulary", logits[rows], raw["c2_logits"], LOGITS)


@torch.no_grad()
def test_logits_of_a_padded_batch(reference, policy):
    """Prompts of different length together, through the policy: the position that predicts the first action token."""
    cases = [case for case in reference.cases() if f"c{case.index}_gen_scores_sel" in reference.model_cases]
    inputs = inputs_of(reference, policy.trunk.processor, *cases)
    assert len(set(inputs.instruction_mask.sum(1).tolist())) > 1
    tokens = torch.from_numpy(np.stack([reference.model_cases[f"c{case.index}_gen_tokens"] for case in cases]))
    logits = policy(inputs, tokens)
    scored = scored_ids(reference)
    for row, case in enumerate(cases):
        expected = reference.model_cases[f"c{case.index}_gen_scores_sel"]
        reference.within("logits, padded batch", logits[row][:, scored], expected, LOGITS)


def scored_ids(reference) -> np.ndarray:
    """Vocabulary ids of the columns of gen_scores_sel: the last of sel_vocab_ids."""
    width = reference.model_cases["c0_gen_scores_sel"].shape[1]
    return reference.model_cases["sel_vocab_ids"][-width:]


@pytest.mark.parametrize("round_sizes", [False, True])
def test_greedy_generation(reference, policy, round_sizes):
    """All cases in one batch; with the rounded sizes that a GPU's graphs have, too."""
    cases = list(reference.cases())
    inputs = inputs_of(reference, policy.trunk.processor, *cases)
    generator = LocalGenerator(policy, 1.0, round_sizes=round_sizes)
    tokens, logprobs, entropy = generator.decode(inputs, None)
    for row, case in enumerate(cases):
        expected = {key: reference.model_cases[f"c{case.index}_gen_{key}"] for key in ("tokens", "logprobs", "entropy")}
        assert tokens[row].tolist() == expected["tokens"].tolist()
        reference.within("generation, log-probs", logprobs[row], expected["logprobs"], LOGPROBS)
        reference.within("generation, entropy", entropy[row], expected["entropy"], 5e-4)


@torch.no_grad()
def test_teacher_forced_logprobs(reference, policy):
    """What the learner computes for the generated tokens, and the lead of each over the next best."""
    cases = list(reference.cases())
    tokens = torch.from_numpy(np.stack([reference.model_cases[f"c{case.index}_gen_tokens"] for case in cases]))
    inputs = inputs_of(reference, policy.trunk.processor, *cases)
    logprobs, _ = policy.token_logprobs(inputs, tokens, 1.0)
    best = policy(inputs, tokens).topk(2, dim=-1).values
    for row, case in enumerate(cases):
        name = f"c{case.index}"
        expected = reference.model_cases[f"{name}_teacher_forced_logprobs"]
        reference.within("teacher-forced log-probs", logprobs[row], expected, LOGPROBS)
        margins = reference.model_cases[f"{name}_gen_top2_margin"]
        reference.within("generation, margins", best[row, :, 0] - best[row, :, 1], margins, LOGITS)


def test_actions(reference, checkpoint):
    """Every data set of config.json and of dataset_statistics.json."""
    tokenizer = ActionTokenizer(checkpoint.config.action_vocab_size, checkpoint.config.num_bins)
    known = checkpoint.raw_config.get("norm_stats", {}) | checkpoint.norm_stats
    for case in reference.cases():
        prefix = f"c{case.index}_action__"
        normalized = tokenizer.decode(reference.model_cases[f"c{case.index}_gen_tokens"])
        expected = reference.model_cases[f"c{case.index}_normalized_action"]
        reference.within("actions, normalised", normalized, expected, 1e-7)
        keys = [name.removeprefix(prefix) for name in reference.model_cases if name.startswith(prefix)]
        assert keys
        for key in keys:
            action = ActionStatistics.from_norm_stats(known, key).unnormalize(normalized)
            reference.within("actions", action, reference.model_cases[prefix + key], 1e-6)


def test_statistics_by_source(reference, checkpoint):
    """dataset_statistics.json, where there is one, stands above config.json."""
    sources = reference.prompts["unnorm_keys"]
    assert sorted(checkpoint.norm_stats) == sorted(sources.get("file") or sources["config"])


@torch.no_grad()
def test_logprobs_of_vla_rl(reference, policy):
    """Every temperature, log-softmax over the whole vocabulary, the stop token too; prompts of different length."""
    raw = reference.arrays("rl_logprob.npz")
    processor, tasks = policy.trunk.processor, reference.prompts["tasks"]
    rows = [
        Case(row, int(p), int(t)) for row, (p, t) in enumerate(zip(raw["image_index"], raw["task_index"], strict=True))
    ]
    for case in rows:
        length = raw["prompt_length"][case.index]
        ids, _ = processor.encode_instructions([tasks[case.task]])
        assert ids[0].tolist() == raw["queries"][case.index, :length].tolist()
        assert (raw["queries"][case.index, length:] == processor.pad_id).all()
        together = raw["query_responses"][case.index, : length + raw["responses"].shape[1]]
        assert together.tolist() == ids[0].tolist() + raw["responses"][case.index].tolist()
        assert raw["context_length"][case.index] == length + policy.trunk.openvla.config.num_patches
    inputs, responses = inputs_of(reference, processor, *rows), torch.from_numpy(raw["responses"])
    temperatures = [name.removeprefix("logprob_T") for name in raw if name.startswith("logprob_T")]
    assert temperatures
    for temperature in temperatures:
        logprobs, entropy = policy.token_logprobs(inputs, responses, float(temperature))
        reference.within(f"RL log-probs, T = {temperature}", logprobs, raw[f"logprob_T{temperature}"], LOGPROBS)
        reference.within(f"RL entropy, T = {temperature}", entropy, raw[f"entropy_T{temperature}"], 5e-4)


class TestTraining:
    """Supervised fine-tuning on three examples, as the reference's finetune.py."""

    @pytest.fixture(scope="class")
    def raw(self, reference):
        return reference.arrays("training.npz")

    @pytest.fixture(scope="class")
    def examples(self, reference, raw, policy):
        """(inputs, action tokens) of the batch."""
        rows = [Case(row, row, row) for row in range(len(raw["actions"]))]
        tokens = policy.codec.tokenizer.encode(raw["actions"])
        return inputs_of(reference, policy.trunk.processor, *rows), torch.from_numpy(tokens)

    @pytest.mark.parametrize("prompt", ["", "v01_"])
    def test_ids_and_labels(self, reference, raw, policy, prompt):
        if f"{prompt}input_ids" not in raw:
            pytest.skip("the fixture has no v01 batch")
        processor = OpenVLAProcessor.from_folder(reference.checkpoint, prompt_format="v01" if prompt else "openvla")
        actions = policy.codec.tokenizer.encode(raw[f"{prompt}actions"])
        for row, tokens in enumerate(actions):
            ids, _ = processor.encode_instructions([reference.prompts["tasks"][row]])
            targets = [*tokens.tolist(), policy.trunk.stop_token]
            real = raw[f"{prompt}attention_mask"][row]
            assert raw[f"{prompt}input_ids"][row, real].tolist() == ids[0].tolist() + targets
            assert (raw[f"{prompt}input_ids"][row, ~real] == processor.pad_id).all()
            labels = raw[f"{prompt}labels"][row]
            assert labels[real][-len(targets) :].tolist() == targets
            assert (labels != -100).sum() == len(targets)

    def test_pixels(self, reference, raw, policy, examples):
        made = policy.trunk.processor.normalize(examples[0].images)
        if raw["pixel_values"].size:
            reference.within("training, pixels", made, raw["pixel_values"], 0)

    @torch.no_grad()
    def test_logits(self, reference, raw, policy, model):
        ids, mask = torch.from_numpy(raw["input_ids"]), torch.from_numpy(raw["attention_mask"])
        logits = model(reference.pixels(policy.trunk.processor, *range(len(ids))), ids, mask)
        # What stands at padding has no meaning.
        patches = logits.shape[1] - ids.shape[1]
        real = np.pad(raw["attention_mask"], ((0, 0), (patches, 0)), constant_values=True)
        sums = logits.logsumexp(-1)[real]
        reference.within("training, log-sum-exp", sums, raw["logits_logsumexp"][real], LOGITS)
        real = real[:, raw["positions"]]
        selected = logits[:, raw["positions"]][..., raw["sel_vocab_ids"]][real]
        reference.within("training, logits", selected, raw["logits_sel"][real], LOGITS)

    @torch.no_grad()
    def test_logprobs_accuracy_and_error(self, reference, raw, policy, examples):
        """Of the action tokens, through the policy; the reference counts them at the places of its labels."""
        inputs, tokens = examples
        targets = torch.nn.functional.pad(tokens, (0, 1), value=policy.trunk.stop_token)
        logprobs, _ = policy.token_logprobs(inputs, targets, 1.0)
        counted = raw["labels"][:, 1:] != -100
        expected = raw["per_token_logprob"][counted].reshape(logprobs.shape)
        reference.within("training, log-probs", logprobs, expected, LOGPROBS)
        assert (raw["per_token_logprob"][~counted] == 0).all()
        assert raw["action_mask"].sum(1).tolist() == [tokens.shape[1]] * len(tokens)
        predicted = policy(inputs, tokens).argmax(-1)
        accuracy = (predicted == tokens).float().mean()
        reference.within("training, accuracy", accuracy, raw["action_accuracy"], 1e-6)
        decode = policy.codec.tokenizer.decode
        error = np.abs(decode(predicted.numpy()) - decode(tokens.numpy())).mean()
        reference.within("training, mean error of actions", error, raw["action_l1"], 1e-6)

    def test_loss_and_gradients(self, reference, raw, examples):
        """The loss that `vlarl sft` minimises, with the norm of every parameter's gradient, and two in full."""
        key = sorted(open_checkpoint(reference.checkpoint).norm_stats)[0]
        policy = OpenVLAPolicy.from_pretrained(reference.checkpoint, unnorm_key=key, dtype="float32")
        inputs, tokens = examples
        loss = supervised_loss(policy, inputs, tokens, torch.ones(tokens.shape[1]))
        reference.within("training, loss", loss, raw["loss"], 1e-5)
        loss.backward()
        parameters = dict(policy.trunk.openvla.named_parameters())
        expected = dict(zip(raw["grad_names"].tolist(), raw["grad_l2_norms"].tolist(), strict=True))
        assert parameters.keys() == expected.keys()
        for name, parameter in parameters.items():
            norm = 0.0 if parameter.grad is None else float(parameter.grad.double().norm())
            assert norm == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name
            reference.within("training, gradient norms", norm, expected[name], 1e-3 * expected[name] + 1e-6)
        full = {
            "grad_projector_fc3_weight": parameters["projector.fc3.weight"],
            "grad_pos_embed_dino": parameters["vision_backbone.featurizer.pos_embed"],
        }
        for name, parameter in full.items():
            gradient = parameter.grad.reshape(raw[name].shape)
            reference.within("training, whole gradients", gradient, raw[name], 1e-5 + 1e-4 * np.abs(raw[name]).max())


def test_every_file_is_what_its_list_says(reference):
    """A damaged fixture would otherwise look like a wrong number."""
    for name, digest in json.loads((reference.folder / "MANIFEST.json").read_text()).items():
        assert hashlib.sha256((reference.folder / name).read_bytes()).hexdigest() == digest, name
