"""Remakes tests/policies/openvla/data: a tiny checkpoint in OpenVLA's layout with the reference's numbers for it.

    python scripts/make_openvla_fixture.py [FOLDER] [--seed N] [--image-size H] [--statistics-file]

The numbers come from scripts/openvla_reference.py, not from vlarl; the vocabulary is a small one of its own (Llama's is
Meta's). Format and names are those of the fixture made with the published code, which VLARL_OPENVLA_FIXTURE names;
files that only that code can fill (TensorFlow's frames, VLA-RL's loops) are not made.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from openvla_fixture_arrays import (
    draw_images,
    lora_arrays,
    model_arrays,
    normalise,
    resize,
    rl_arrays,
    training_arrays,
)
from openvla_fixture_checkpoint import (
    CASES,
    HEADS,
    IN_CONFIG,
    IN_FILE,
    PROMPT,
    TASKS,
    Vocabulary,
    write_checkpoint,
    write_json,
)
from openvla_reference import Reference


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parent.parent / "tests" / "policies" / "openvla" / "data"
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=42)
    parser.add_argument("--width", type=int, default=16, help="of the decoder")
    parser.add_argument("--statistics-file", action="store_true", help="write dataset_statistics.json, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(options.seed)
    vocabulary, folder = Vocabulary(), options.folder
    weights = write_checkpoint(folder / "checkpoint", vocabulary, options.image_size, options.width, generator)
    statistics, sources = IN_CONFIG, {"config": sorted(IN_CONFIG)}
    if options.statistics_file:
        write_json(folder / "checkpoint" / "dataset_statistics.json", IN_FILE)
        statistics, sources = IN_CONFIG | IN_FILE, sources | {"file": sorted(IN_FILE)}
    write_prompts(folder, vocabulary, sources)
    reference = Reference({name: weight.float() for name, weight in weights.items()}, **HEADS)
    rng = np.random.default_rng(options.seed)
    write_arrays(folder, reference, vocabulary, options.image_size, statistics, generator, rng)
    write_manifest(folder)


def write_prompts(folder: Path, vocabulary: Vocabulary, sources: dict[str, list[str]]) -> None:
    """prompts.json: tasks, cases, prompts, their ids, and where which statistics lie."""
    prompts = [PROMPT.format(task.lower()) for task in TASKS]
    ids = [vocabulary.encode(prompt) for prompt in prompts]
    described = {"tasks": TASKS, "cases": CASES, "prompts": prompts, "prompt_ids": ids, "unnorm_keys": sources}
    write_json(folder / "prompts.json", described)


def write_arrays(
    folder: Path,
    reference: Reference,
    vocabulary: Vocabulary,
    image_size: int,
    statistics: dict[str, dict],
    generator: torch.Generator,
    rng: np.random.Generator,
) -> None:
    """Pictures and the reference's numbers for them."""
    images = draw_images(rng)
    np.savez_compressed(folder / "images.npz", **{f"image_{i}": image for i, image in enumerate(images)})
    arrays = model_arrays(reference, vocabulary, images, image_size, statistics)
    np.savez_compressed(folder / "model_cases.npz", **arrays)
    pixels = [normalise(resize(image, image_size)) for image in images]
    picture, task = CASES[2]
    full = reference.logits(pixels[picture], vocabulary.prompt(TASKS[task]))
    rows = np.array([0, 3, len(full) - 2, len(full) - 1])
    np.savez_compressed(folder / "logits_full.npz", c2_logits=full[rows].numpy(), c2_positions=rows)
    np.savez_compressed(folder / "training.npz", **training_arrays(reference, vocabulary, pixels, rng))
    np.savez_compressed(folder / "rl_logprob.npz", **rl_arrays(reference, vocabulary, pixels, rng))
    lora, described = lora_arrays(reference, vocabulary, pixels, generator)
    np.savez_compressed(folder / "lora.npz", **lora)
    write_json(folder / "lora.json", described)


def write_manifest(folder: Path) -> None:
    """MANIFEST.json: sha256 of every file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "MANIFEST.json"]
    digests = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    write_json(folder / "MANIFEST.json", digests)
    print(f"{folder}: {sum(path.stat().st_size for path in files) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
