"""The reward model: one forward pass, the processor's own batch, adapters, folders."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from vlarl.configs.openvla import LoRAConfig
from vlarl.configs.reward import LabelConfig, ProcessRewardConfig, RewardModelConfig
from vlarl.envs.base import make_spec
from vlarl.errors import UserError
from vlarl.policies.checkpoint import trained_state
from vlarl.recipes import toy
from vlarl.rewards.base import check_reward, make_reward_fn
from vlarl.rewards.process.folder import RewardModelCard, load_card, load_reward_model, save_reward_model
from vlarl.rewards.process.model import POSITIVE_ANSWER, add_adapters, make_reward_model

CONFIG = RewardModelConfig(
    image_size=16,
    patch_size=4,
    merge_size=2,
    vision_width=32,
    hidden_size=32,
    num_layers=1,
    vision_layers=1,
)
TEXTS = ["turn on the stove", "put the bowl on the plate", "pick up the alphabet soup and place it in the basket"]


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return make_reward_model(CONFIG).eval()


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)


def test_it_is_the_class_of_the_2b(model):
    assert type(model.backbone) is Qwen2VLForConditionalGeneration


def test_probability_is_that_of_the_processors_own_batch(model, frames):
    texts = [TEXTS[i % 3] for i in range(6)]
    messages = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}] for text in texts]
    prompts = [model.processor.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in messages]
    inputs = model.processor(text=prompts, images=list(frames), padding=True, return_tensors="pt")
    # 16 patches, 4 of which make an image token.
    assert (inputs["input_ids"] == model.processor.image_token_id).sum(1).tolist() == [4] * 6
    with torch.no_grad():
        logits = model.backbone(**inputs).logits[:, -1]
    yes, no = (logits[:, model.processor.tokenizer.convert_tokens_to_ids(answer)] for answer in (POSITIVE_ANSWER, "0"))
    np.testing.assert_allclose(model.score(frames, texts), torch.sigmoid(yes - no).numpy(), atol=1e-6)


def test_scores_do_not_depend_on_the_batch(model, frames):
    texts = [TEXTS[i % 3] for i in range(6)]
    together = model.score(frames, texts, batch_size=6)
    np.testing.assert_allclose(model.score(frames, texts, batch_size=1), together, atol=1e-6)
    assert np.ptp(together) > 0


def test_the_prompt_matters(model, frames):
    assert np.abs(model.score(frames, [TEXTS[0]] * 6) - model.score(frames, [TEXTS[1]] * 6)).min() > 0


def test_no_frames_no_scores(model, frames):
    assert model.score(frames[:0], []).shape == (0,)


def test_bad_input_is_named(model, frames):
    with pytest.raises(UserError, match=r"uint8 images \[16, 16, 3\], got uint8 \[8, 8, 3\]"):
        model.score(frames[:, :8, :8], TEXTS * 2)
    with pytest.raises(UserError, match="instruction is empty"):
        model.score(frames[:1], [" "])
    with pytest.raises(UserError, match="no-such-model.* cannot be loaded"):
        make_reward_model(replace(CONFIG, name="./no-such-model"))
    with pytest.raises(UserError, match="must hold {instruction}"):
        replace(CONFIG, question="Is it done?")
    with pytest.raises(UserError, match="not a multiple of 8"):
        replace(CONFIG, image_size=20)


def test_adapters_start_without_effect_and_are_all_that_is_kept(frames):
    model = make_reward_model(CONFIG).eval()
    before = model.score(frames, [TEXTS[0]] * 6)
    model.backbone = add_adapters(model.backbone, LoRAConfig(rank=2, alpha=4)).eval()
    model._prompts.clear()
    np.testing.assert_allclose(model.score(frames, [TEXTS[0]] * 6), before, atol=1e-6)
    assert all("lora_" in name for name in trained_state(model.backbone))


def test_folder_gives_back_the_model_and_its_card(tmp_path, model, frames):
    figures = {"roc_auc": 0.91, "roc_auc_unbanded": 0.85, "episodes": 4}
    card = RewardModelCard(model=CONFIG, labels=LabelConfig(), instructions=tuple(TEXTS[:2]), figures=figures)
    save_reward_model(model, card, tmp_path / "model")
    loaded, known = load_reward_model(tmp_path / "model")
    assert known == card
    assert "ROC-AUC is 0.910 (0.850" in known.summary
    np.testing.assert_array_equal(loaded.score(frames, TEXTS * 2), model.score(frames, TEXTS * 2))


def test_a_model_for_other_images_or_tasks(tmp_path, model):
    card = RewardModelCard(model=CONFIG, labels=LabelConfig(), instructions=tuple(TEXTS), figures={})
    save_reward_model(model, card, tmp_path / "model")
    config = replace(toy(), reward="process", process_reward=ProcessRewardConfig(model=str(tmp_path / "model")))
    spec = make_spec(config.env)
    with pytest.warns(UserWarning, match="was not trained on .*held-out figures are not known"):
        check_reward(config, spec)
    assert make_reward_fn(config, spec) is not None
    other = replace(config, env=replace(config.env, image_size=32), policy=replace(config.policy, image_size=32))
    with pytest.raises(UserError, match="takes images of 16 pixels, env.image_size is 32"):
        check_reward(other, spec)
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged, or no reward model"):
        load_card(tmp_path / "model")
