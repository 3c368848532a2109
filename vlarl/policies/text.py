"""The instruction tokenizer: byte-level BPE, so that any text has tokens and known words have one."""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vlarl.errors import UserError

PAD = "<pad>"
BOS = "<bos>"
VOCAB_SIZE = 512


def train_tokenizer(sentences: Iterable[str]) -> Tokenizer:
    """Trains the BPE on `sentences`; every word of them becomes one token as far as VOCAB_SIZE reaches."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


@cache
def load_tokenizer() -> Tokenizer:
    """Returns the tokenizer that ships with the package (trained on LIBERO's 130 instructions)."""
    return Tokenizer.from_str(files("vlarl.policies").joinpath("tokenizer.json").read_text())


def encode_instructions(instructions: Sequence[str], max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a batch, right-padded.

    Returns:
        ids [B, max_tokens] int64 and mask [B, max_tokens] bool (True for real tokens).

    Raises:
        UserError: an empty instruction, or one longer than `max_tokens`.
    """
    tokenizer = load_tokenizer()
    ids = np.full((len(instructions), max_tokens), tokenizer.token_to_id(PAD), dtype=np.int64)
    for row, instruction in enumerate(instructions):
        tokens = _encode_one(instruction)
        if len(tokens) > max_tokens:
            raise UserError(
                f"instruction {instruction!r} has {len(tokens)} tokens, the policy takes {max_tokens}:"
                " raise policy.max_instruction_tokens"
            )
        ids[row, : len(tokens)] = tokens
    return ids, ids != tokenizer.token_to_id(PAD)


@cache
def _encode_one(instruction: str) -> tuple[int, ...]:
    if not instruction.strip():
        raise UserError("the instruction is empty: say what the robot should do")
    tokenizer = load_tokenizer()
    return (tokenizer.token_to_id(BOS), *tokenizer.encode(instruction.strip().lower()).ids)
