"""Published weights are the learner's, adapters merged, or nobody acts with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.distributed.learner_ranks import lora_policy
from tests.tiny import make_observation, make_policy, random_tokens
from vlarl.distributed import weight_sync
from vlarl.distributed.weight_sync import (
    WeightPublisher,
    WeightReceiver,
    WeightSyncError,
    compute_checksum,
    from_numpy,
    to_numpy,
)
from vlarl.policies.openvla.lora import merge
from vlarl.policies.openvla.policy import copy_with_weights
from vlarl.policies.openvla.random_weights import TINY, make_random_model, make_random_policy, random_inputs
from vlarl.policies.served import served_config, served_weights


def plain_policy(adapted):
    """A policy of the same sizes without adapters and with other weights."""
    torch.manual_seed(99)
    model = make_random_model(TINY, device="cpu", dtype=torch.float32)
    return make_random_policy(model, served_config(adapted.config)).eval()


def logprobs(policy, temperature=1.0):
    tokens = policy.trunk.first_token + torch.arange(28).view(4, 7)
    with torch.no_grad():
        return policy.token_logprobs(random_inputs(TINY, 4, 12), tokens, temperature)[0]


def test_a_generator_without_adapters_acts_as_the_adapted_learner():
    learner = lora_policy()
    generator = plain_policy(learner)
    before = (logprobs(learner) - logprobs(generator)).abs().max()
    update = WeightPublisher(learner).publish(3)
    receiver = WeightReceiver(generator)
    receiver.take(update)
    assert receiver.version == 3
    assert before > 1e-2
    # Where the merge is skipped the adapters' part is missing: about 1e-1 here.
    torch.testing.assert_close(logprobs(generator), logprobs(learner), rtol=0, atol=2e-5)


def test_merged_is_what_peft_merges():
    learner = lora_policy()
    merged = merge(copy_with_weights(learner.trunk.model)).state_dict()
    ours = {name.removeprefix("trunk.model."): t for name, t in served_weights(learner)}
    assert ours.keys() == merged.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=1e-7, msg=name)


def test_only_what_changed_travels():
    learner, generator = make_policy(), make_policy(seed=5)
    publisher, receiver = WeightPublisher(learner), WeightReceiver(generator)
    first = publisher.publish(0)
    assert first.base_version is None and len(first.tensors) == len(dict(served_weights(learner)))
    receiver.take(first)
    with torch.no_grad():
        learner.trunk.head.lm_head.bias[2] += 0.5
    second = publisher.publish(1)
    assert set(second.tensors) == {"trunk.head.lm_head.bias"}
    assert second.num_bytes == learner.trunk.head.lm_head.bias.nbytes
    receiver.take(second)
    assert publisher.publish(2).tensors == {}
    complete = publisher.publish(3, complete=True)
    assert complete.base_version is None and len(complete.tensors) == len(first.tensors)
    inputs, tokens = learner.trunk.process(make_observation(3)), random_tokens(learner, 3)
    assert torch.equal(generator(inputs, tokens), learner(inputs, tokens))


def test_what_is_not_whole_is_refused():
    learner = make_policy()
    publisher, receiver = WeightPublisher(learner), WeightReceiver(make_policy(seed=5))
    complete = publisher.publish(0)
    with torch.no_grad():
        learner.trunk.head.lm_head.bias[2] += 0.5
    missed = publisher.publish(1)
    with pytest.raises(WeightSyncError, match="builds on version 0, this generator holds None"):
        receiver.take(missed)
    name = "trunk.projector.weight"
    part = {key: value for key, value in complete.tensors.items() if key != name}
    with pytest.raises(WeightSyncError, match="does not hold the learner's weights of version 0"):
        receiver.take(replace(complete, tensors=part))
    assert receiver.version is None
    flipped = complete.tensors[name].copy()
    flipped.view(np.int32)[0, 0] ^= 1
    with pytest.raises(WeightSyncError, match="fingerprint"):
        receiver.take(replace(complete, tensors=dict(complete.tensors) | {name: flipped}))
    with pytest.raises(WeightSyncError, match="'other', which this generator does not"):
        receiver.take(replace(complete, tensors={"other": flipped}))
    with pytest.raises(WeightSyncError, match=r"trunk.projector.weight is \[1, "):
        receiver.take(replace(complete, tensors={name: flipped[:1]}))
    receiver.take(complete)
    assert receiver.version == 0


def test_checksums_know_position_bits_and_chunks(monkeypatch):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    swapped = values.clone()
    swapped[[3, 700]] = values[[700, 3]]
    negative = values.clone()
    negative[5] *= -1
    sums = {compute_checksum(t) for t in (values, swapped, negative, values.double(), values[:999])}
    assert len(sums) == 5
    assert compute_checksum(torch.zeros(4)) != compute_checksum(torch.zeros(5))
    whole = compute_checksum(values)
    monkeypatch.setattr(weight_sync, "_CHUNK", 7)
    assert compute_checksum(values) == whole


def test_bfloat16_travels_bit_for_bit():
    tensor = torch.randn(5, 3).to(torch.bfloat16)
    array = to_numpy(tensor)
    assert array.dtype == np.uint16
    assert torch.equal(from_numpy(array, torch.bfloat16), tensor)
    tensor.zero_()
    assert array.any(), "a copy"
