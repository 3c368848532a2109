"""Writes a checkpoint of OpenVLA-7B's layout with random weights: `python scripts/make_synthetic_openvla.py FOLDER`.

Three bfloat16 shards with the published names and shapes (15.1 GB), config.json and action statistics. With
`--layers N` the decoder has N layers, for a smaller file. There is no tokenizer: that is Meta's.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from vlarl.configs.openvla import LLAMA2_7B, OpenVLAConfig
from vlarl.policies.openvla.checkpoint import CONFIG_NAME, INDEX_NAME
from vlarl.policies.openvla.model import OpenVLAModel
from vlarl.policies.openvla.random_weights import published_config

NUM_SHARDS = 3


def main() -> None:
    """Writes shard by shard: memory holds one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=LLAMA2_7B["num_hidden_layers"])
    arguments = parser.parse_args()
    sizes = OpenVLAConfig(text=LLAMA2_7B | {"num_hidden_layers": arguments.layers})
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in OpenVLAModel(sizes).state_dict().items()}
    arguments.folder.mkdir(parents=True)
    (arguments.folder / CONFIG_NAME).write_text(json.dumps(published_config(sizes), indent=2))
    names = list(shapes)
    per_shard = -(-sum(shape.numel() for shape in shapes.values()) // NUM_SHARDS)
    weight_map, shard, size, number = {}, {}, 0, 1
    for name in names:
        shard[name] = torch.empty(shapes[name], dtype=torch.bfloat16).normal_(std=0.02)
        size += shapes[name].numel()
        if size >= per_shard or name == names[-1]:
            file = f"model-{number:05d}-of-{NUM_SHARDS:05d}.safetensors"
            save_file(shard, arguments.folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
            shard, size, number = {}, 0, number + 1
    total = 2 * sum(shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (arguments.folder / INDEX_NAME).write_text(json.dumps(index, indent=1))
    print(f"{arguments.folder}: {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
