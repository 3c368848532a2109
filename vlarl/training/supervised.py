"""Supervised fine-tuning: next-token cross-entropy on the action tokens of demonstrations."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vlarl.configs.reward import RewardTrainingConfig
from vlarl.configs.training import SFTConfig
from vlarl.data.episodes import Episode
from vlarl.data.sft import SFTDataset, shift_images, split_episodes
from vlarl.errors import NonFiniteError
from vlarl.policies.vla import PolicyInputs, VLAPolicy, copy_trained
from vlarl.training.learner import trained_parameters
from vlarl.types import Observation

LogFn = Callable[[dict[str, float]], None]


def train_sft(policy: VLAPolicy, episodes: Sequence[Episode], config: SFTConfig, seed: int, log: LogFn) -> VLAPolicy:
    """Trains `policy` in place and returns its exponential moving average, which is the result.

    Args:
        policy: fresh or pretrained; its proprioception statistics are set from the demonstrations.
        episodes: successful demonstrations.
        config: settings.
        seed: decides batches and augmentation (counter-based: step n draws the same whatever came before).
        log: called every `log_interval` steps with step, training and validation loss (nats per token).

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    training, validation = split_episodes(episodes, config.validation_fraction)
    horizon = policy.config.action_horizon
    data = SFTDataset.from_episodes(training, horizon)
    held_out = SFTDataset.from_episodes(validation, horizon) if validation else None
    policy.trunk.fit_statistics(data.observations)
    average = copy_trained(policy)
    policy.train()
    trained = trained_parameters(policy)
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    weights = _token_weights(policy, config.first_action_weight)
    running: list[float] = []
    for step in range(config.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        inputs, tokens = _minibatch(policy, data, config, seed, step)
        optimizer.zero_grad(set_to_none=True)
        loss = _accumulate_gradients(policy, inputs, tokens, weights, config.microbatch_size)
        norm = nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        if not torch.isfinite(norm):
            raise NonFiniteError(
                f"SFT became non-finite at step {step}: train again with a lower sft.learning_rate into a new --output"
            )
        optimizer.step()
        _update_average(average, policy, min(config.ema_decay, (1 + step) / (10 + step)))
        running.append(loss)
        if (step + 1) % config.log_interval == 0 or step + 1 == config.num_steps:
            row = {"step": step + 1, "losses/train_loss": float(np.mean(running))}
            if held_out is not None:
                row["losses/validation_loss"] = validation_loss(average, held_out)
            log(row)
            running.clear()
    return average.eval()


def _accumulate_gradients(
    policy: VLAPolicy, inputs: PolicyInputs, tokens: Tensor, weights: Tensor, microbatch_size: int
) -> float:
    """Adds the gradient of the minibatch's mean loss, micro-batch by micro-batch; returns that loss."""
    total = 0.0
    for rows in torch.arange(len(tokens)).split(microbatch_size):
        part = inputs.map(lambda t, rows=rows: t[rows])
        loss = supervised_loss(policy, part, tokens[rows], weights) * (len(rows) / len(tokens))
        loss.backward()
        total += loss.item()
    return total


def learning_rate(step: int, config: SFTConfig | RewardTrainingConfig) -> float:
    """Linear warm-up, then linear decay to 5 % of the peak at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.learning_rate * (1 - 0.95 * progress)


@torch.no_grad()
def validation_loss(policy: VLAPolicy, data: SFTDataset, max_frames: int = 128) -> float:
    """Mean cross-entropy in nats per token over `max_frames` evenly spaced held-out frames."""
    rows = np.unique(np.linspace(0, len(data) - 1, max_frames).astype(int))
    inputs = policy.trunk.process(data.observations.select(rows))
    tokens = torch.from_numpy(policy.encode_actions(data.actions[rows]))
    return supervised_loss(policy, inputs, tokens, _token_weights(policy, 1.0)).item()


def _minibatch(
    policy: VLAPolicy, data: SFTDataset, config: SFTConfig, seed: int, step: int
) -> tuple[PolicyInputs, Tensor]:
    rng = np.random.Generator(np.random.Philox(key=[seed, 1], counter=[0, step, 0, 0]))
    rows = rng.integers(len(data), size=config.minibatch_size)
    frames = data.observations.select(rows)
    if config.crop_pixels:
        offsets = rng.integers(-config.crop_pixels, config.crop_pixels + 1, size=(len(rows), 2))
        frames = Observation(
            images=shift_images(frames.images, offsets), proprio=frames.proprio, instructions=frames.instructions
        )
    return policy.trunk.process(frames), torch.from_numpy(policy.encode_actions(data.actions[rows]))


def _token_weights(policy: VLAPolicy, first_action_weight: float) -> Tensor:
    """[K] weights of mean 1."""
    weights = torch.ones(policy.config.num_action_tokens)
    weights[: policy.config.action_dim] = first_action_weight
    return weights / weights.mean()


def supervised_loss(policy: VLAPolicy, inputs: PolicyInputs, tokens: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy in nats over a turn's tokens and, where examples end with one, the stop token.

    Args:
        policy: as it is.
        inputs: B prompts.
        tokens: [B, K] ids of the action tokens.
        weights: [K] of the action tokens, mean 1; the stop token weighs 1.
    """
    device, stop = policy.device, policy.trunk.stop_token
    if stop is not None:
        tokens = nn.functional.pad(tokens, (0, 1), value=stop)
        weights = nn.functional.pad(weights, (0, 1), value=1.0)
    logits = policy(inputs.map(lambda t: t.to(device)), tokens.to(device))
    targets = tokens.to(device) - policy.trunk.first_token
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (losses.view_as(tokens) * weights.to(device)).mean()


@torch.no_grad()
def _update_average(average: VLAPolicy, policy: VLAPolicy, decay: float) -> None:
    torch._foreach_lerp_(trained_parameters(average), trained_parameters(policy), 1 - decay)
