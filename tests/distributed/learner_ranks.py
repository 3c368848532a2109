"""Trains on a fixed batch as one rank of several; what it computed goes into a file of the first rank.

    python -m tests.distributed.learner_ranks RANK SIZE HOST:PORT FOLDER [CHECKPOINT]

With a checkpoint it goes on from there.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.tiny import make_policy
from tests.training.test_learner import CONFIG, N, make_batch
from vlarl.configs.openvla import LoRAConfig, OpenVLAPolicyConfig
from vlarl.configs.training import TrainConfig
from vlarl.distributed.fsdp import whole
from vlarl.distributed.ranks import Ranks, join_ranks
from vlarl.policies.openvla.random_weights import TINY, make_random_model, make_random_policy, random_inputs
from vlarl.policies.vla import VLAPolicy
from vlarl.recipes import toy
from vlarl.training.batch import RolloutBatch
from vlarl.training.build import make_learner
from vlarl.training.learner import Learner

CASES = ("full", "lora", "bfloat16")


def train_config(case: str) -> TrainConfig:
    # Of minibatches of 12 turns, one process takes micro-batches of 5, 5 and 2, two ranks 5 and 1 each.
    ppo = replace(CONFIG, minibatch_size=12, microbatch_size=5, kl_coef=0.1, learning_rate=1e-3, update_epochs=2)
    return replace(toy(), ppo=ppo, value="homogeneous")


def lora_policy() -> VLAPolicy:
    torch.manual_seed(0)
    config = OpenVLAPolicyConfig(
        lora=LoRAConfig(rank=4), gradient_checkpointing=True, libero_frames=False, action_tokens_only=True
    )
    policy = make_random_policy(make_random_model(TINY, device="cpu", dtype=torch.float32), config)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                # At zero, A has no gradient.
                parameter.normal_(std=0.02)
    return policy.eval()


def batch_of(case: str, policy: VLAPolicy) -> RolloutBatch:
    batch = make_batch()
    if case != "lora":
        return batch
    generator = torch.Generator().manual_seed(2)
    tokens = policy.trunk.first_token + torch.randint(0, 256, (N, 7), generator=generator)
    inputs = random_inputs(TINY, N, 12)
    with torch.no_grad():
        logprobs, _ = policy.token_logprobs(inputs, tokens, 1.0)
    noise = 0.1 * torch.randn(N, 7, generator=generator)
    return replace(
        batch,
        inputs=inputs,
        action_tokens=tokens,
        scores=replace(batch.scores, old_logprobs=logprobs + noise, ref_logprobs=logprobs - noise),
        targets=replace(batch.targets, token_mask=batch.targets.token_mask.repeat(1, 2)[:, :7]),
    )


def run_case(case: str, ranks: Ranks, checkpoint: Path | None = None) -> tuple[dict[str, torch.Tensor], Learner]:
    """Gradients of one optimizer step, then metrics and weights after four more."""
    policy = lora_policy() if case == "lora" else make_policy()
    batch = batch_of(case, policy)
    learner = make_learner(train_config(case), policy, checkpoint, ranks=ranks, bfloat16=case == "bfloat16")
    result = {}
    if checkpoint is None:
        learner._minibatch_step(batch, critic_only=False)
        result |= {f"grad.{n}": whole(p.grad) for n, p in learner.model.named_parameters() if p.grad is not None}
    if case == "bfloat16":
        return result, learner
    metrics = learner.update(batch, 1, critic_only=False)
    result |= {f"metric.{name}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
    result |= {f"weight.{n}": whole(p.detach()) for n, p in learner.model.named_parameters() if p.requires_grad}
    return result, learner


def main() -> None:
    rank, size, address, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    ranks = join_ranks(rank, size, address, timeout_seconds=60)
    cases = {"full": Path(sys.argv[5])} if len(sys.argv) > 5 else dict.fromkeys(CASES)
    for case, checkpoint in cases.items():
        result, learner = run_case(case, ranks, checkpoint)
        if checkpoint is None and case == "full":
            learner.save(folder / "checkpoint")
        if ranks.is_first:
            save_file({name: t.contiguous() for name, t in result.items()}, folder / f"{case}.safetensors")


if __name__ == "__main__":
    main()
