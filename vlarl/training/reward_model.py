"""Training of the reward model: cross-entropy on the answer, balanced, stopped early, resumed from a checkpoint."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import nn

from vlarl.configs.reward import RewardTrainingConfig
from vlarl.data.sft import shift_images
from vlarl.errors import NonFiniteError, UserError
from vlarl.files import atomic_folder
from vlarl.policies.checkpoint import load_weights, save_tensors, trained_state
from vlarl.rewards.process.dataset import RewardFrames, draw_minibatch
from vlarl.rewards.process.labels import POSITIVE, LabelledEpisode
from vlarl.rewards.process.metrics import compute_roc_auc
from vlarl.rewards.process.model import ProcessRewardModel
from vlarl.training.supervised import learning_rate

WEIGHTS, BEST, OPTIMIZER, STATE = "model.safetensors", "best.safetensors", "optimizer.pt", "state.json"
LogFn = Callable[[dict[str, float]], None]


def train_reward_model(
    model: ProcessRewardModel,
    training: Sequence[LabelledEpisode],
    validation: Sequence[LabelledEpisode],
    config: RewardTrainingConfig,
    checkpoint: Path,
    log: LogFn,
) -> dict[str, Any]:
    """Trains `model` in place and leaves it with its best weights by the validation's ROC-AUC.

    Minibatches are counter-based functions of the seed and the step: a resumed training goes on as if never stopped.

    Args:
        model: fresh.
        training: episodes to learn from.
        validation: episodes that decide when to stop.
        config: settings.
        checkpoint: folder of the training's state, written at every validation; one that exists is resumed.
        log: called at every validation with step, losses/train_loss (nats) and the validation's ROC-AUC.

    Returns:
        step, best_step and best_auc.

    Raises:
        UserError: episodes without positive or negative frames, or a damaged checkpoint.
        NonFiniteError: the loss became NaN or infinite.
    """
    frames = RewardFrames.from_episodes(training, "the training set")
    # With prompts of other tasks among them: else the best model could be one that does not read.
    held_out = RewardFrames.from_episodes(validation, "the validation set").with_other_prompts()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    state: dict[str, Any] = {"step": 0, "best_step": 0, "best_auc": -1.0}
    if checkpoint.is_dir():
        state = _load(checkpoint, model, optimizer)
    else:
        _save(checkpoint, model, optimizer, state, is_best=True)
    running: list[float] = []
    while state["step"] < config.num_steps and not _is_exhausted(state, config):
        step = state["step"]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        running.append(_take_step(model, frames, optimizer, parameters, config, step))
        state["step"] = step + 1
        if state["step"] % config.evaluation_interval == 0 or state["step"] == config.num_steps:
            auc = compute_validation_auc(model, held_out)
            is_best = auc > state["best_auc"]
            if is_best:
                state |= {"best_step": state["step"], "best_auc": auc}
            _save(checkpoint, model, optimizer, state, is_best=is_best)
            row = {"step": state["step"], "losses/train_loss": float(np.mean(running)), "evaluation/roc_auc": auc}
            log(row)
            running.clear()
    load_weights(model.backbone, checkpoint / BEST)
    model.eval()
    return state


def compute_validation_auc(model: ProcessRewardModel, frames: RewardFrames) -> float:
    """ROC-AUC over frames of which none is ignored."""
    return compute_roc_auc(model.score(frames.images, frames.instructions), frames.labels == POSITIVE)


def _take_step(
    model: ProcessRewardModel,
    frames: RewardFrames,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    config: RewardTrainingConfig,
    step: int,
) -> float:
    rng = np.random.Generator(np.random.Philox(key=[config.seed, 2], counter=[0, step, 0, 0]))
    batch = draw_minibatch(frames, config.minibatch_size, config.other_task_share, rng)
    images = frames.images[batch.rows]
    if config.crop_pixels:
        images = shift_images(images, rng.integers(-config.crop_pixels, config.crop_pixels + 1, size=(len(images), 2)))
    model.train()
    optimizer.zero_grad(set_to_none=True)
    logits = model(model.encode(images, batch.instructions))
    answers = torch.tensor(model.answers, device=logits.device)[
        torch.from_numpy(batch.targets).long().to(logits.device)
    ]
    loss = nn.functional.cross_entropy(logits, answers)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    if not torch.isfinite(norm):
        raise NonFiniteError(
            f"the reward model became non-finite at step {step}: train again with a lower training.learning_rate into"
            " another --output"
        )
    optimizer.step()
    return loss.item()


def _is_exhausted(state: dict[str, Any], config: RewardTrainingConfig) -> bool:
    return state["step"] - state["best_step"] >= config.patience * config.evaluation_interval


def _save(
    folder: Path, model: ProcessRewardModel, optimizer: torch.optim.Optimizer, state: dict[str, Any], *, is_best: bool
) -> None:
    best = None if is_best else (folder / BEST).read_bytes()
    with atomic_folder(folder) as scratch:
        save_tensors(trained_state(model.backbone), scratch / WEIGHTS)
        if best is None:
            save_tensors(trained_state(model.backbone), scratch / BEST)
        else:
            (scratch / BEST).write_bytes(best)
        torch.save(optimizer.state_dict(), scratch / OPTIMIZER)
        (scratch / STATE).write_text(json.dumps(state))


def _load(folder: Path, model: ProcessRewardModel, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    load_weights(model.backbone, folder / WEIGHTS)
    try:
        optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True))
        return json.loads((folder / STATE).read_text())
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise UserError(f"the checkpoint {folder} is damaged: delete it to train from the start") from error
