import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.actions.tokenizer import ActionTokenizer

TOKENIZER = ActionTokenizer(vocab_size=32000)


def test_ids_by_hand():
    # Five edges, four bins of width 0.5: ids fall as actions rise, and the fifth id is for exactly 1.
    tokenizer = ActionTokenizer(vocab_size=100, num_bins=5)
    actions = np.array([-1.0, -0.75, -0.5, 0.2, 0.9, 1.0, -3.0, 7.0])
    assert tokenizer.encode(actions).tolist() == [99, 99, 98, 97, 96, 95, 99, 95]
    assert tokenizer.decode(np.array([99, 98, 97, 96, 95])).tolist() == [-0.75, -0.25, 0.25, 0.75, 0.75]


def test_shapes_and_dtypes():
    ids = TOKENIZER.encode(np.zeros((2, 3, 7), dtype=np.float64))
    assert (ids.shape, ids.dtype) == ((2, 3, 7), np.int64)
    assert (TOKENIZER.decode(ids).shape, TOKENIZER.decode(ids).dtype) == ((2, 3, 7), np.float64)


@pytest.mark.parametrize("num_bins", [4, 64, 256])
def test_zero_is_exact(num_bins):
    tokenizer = ActionTokenizer(1000, num_bins)
    assert tokenizer.decode(tokenizer.encode(np.array([0.0]))).tolist() == [0.0]


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8), st.sampled_from([2, 16, 255, 256]))
def test_round_trip_is_within_half_a_bin(actions, num_bins):
    tokenizer = ActionTokenizer(vocab_size=1000, num_bins=num_bins)
    clipped = np.clip(actions, -1, 1)
    ids = tokenizer.encode(np.array(actions))
    assert ids.min() >= 1000 - num_bins
    assert ids.max() < 1000
    decoded = tokenizer.decode(ids)
    assert np.abs(decoded - clipped).max() <= 1 / (num_bins - 1) + 1e-6


@given(st.integers(31745, 31999))
def test_decoding_then_encoding_gives_the_id_back(token_id):
    assert TOKENIZER.encode(TOKENIZER.decode(np.array([token_id]))).tolist() == [token_id]


@pytest.fixture
def raw(published) -> dict[str, np.ndarray]:
    return published.arrays("action_tokenizer.npz")


@pytest.mark.parametrize(
    ("actions", "token_ids"),
    [("actions", "token_ids"), ("actions_f32", "token_ids_f32"), ("batch_actions", "batch_token_ids")],
)
def test_reference_ids(raw, actions, token_ids):
    tokenizer = ActionTokenizer(int(raw["vocab_size"]))
    assert np.array_equal(tokenizer.encode(raw[actions]), raw[token_ids])


@pytest.mark.parametrize(
    ("token_ids", "decoded"),
    [("token_ids", "decoded"), ("token_ids_f32", "decoded_f32"), ("all_ids", "all_ids_decoded")],
)
def test_reference_values(published, raw, token_ids, decoded):
    tokenizer = ActionTokenizer(int(raw["vocab_size"]))
    # The centre bin is exactly 0 here and 1e-17 there.
    published.within("action tokenizer, decoded", tokenizer.decode(raw[token_ids]), raw[decoded], 1e-15)


def test_reference_bins(published, raw):
    """Edges and centres, by what tells them apart: an edge belongs to the bin above it."""
    tokenizer = ActionTokenizer(int(raw["vocab_size"]))
    edges, centers = raw["bins"], raw["bin_centers"]
    assert np.array_equal(tokenizer.encode(edges[1:]) + 1, tokenizer.encode(np.nextafter(edges[1:], -2)))
    ids = int(raw["vocab_size"]) - 1 - np.arange(len(centers))
    published.within("action tokenizer, centres", tokenizer.decode(ids), centers, 1e-15)


def test_reference_lowest_id(raw):
    # The reference names the id below the lowest action token.
    lowest = ActionTokenizer(int(raw["vocab_size"])).encode(np.array([1.0]))[0]
    assert lowest == raw["action_token_begin_idx"] + 1
