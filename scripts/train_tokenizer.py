"""Remakes vlarl/policies/tokenizer.json from the instructions of LIBERO's 130 tasks and the toy environment."""

from importlib.util import find_spec
from pathlib import Path

from vlarl.policies.text import train_tokenizer

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")


def libero_instructions() -> list[str]:
    """Reads the (:language ...) line of every task of the five suites."""
    root = Path(next(iter(find_spec("libero").submodule_search_locations))) / "libero" / "bddl_files"
    sentences = []
    for suite in SUITES:
        for path in sorted((root / suite).glob("*.bddl")):
            line = next(x for x in path.read_text().splitlines() if "(:language" in x)
            sentences.append(line.split("(:language")[1].strip().rstrip(")").strip().lower())
    return sentences


if __name__ == "__main__":
    toy = ["go to the red square", "go to the blue square"]
    tokenizer = train_tokenizer(libero_instructions() + toy)
    path = Path(__file__).parent.parent / "vlarl" / "policies" / "tokenizer.json"
    tokenizer.save(str(path))
    lengths = [1 + len(tokenizer.encode(s).ids) for s in libero_instructions()]
    counts = f"{len(lengths)} instructions of {min(lengths)} to {max(lengths)} tokens"
    print(f"{path}: {tokenizer.get_vocab_size()} tokens; {counts}")
