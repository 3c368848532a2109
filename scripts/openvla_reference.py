"""OpenVLA's arithmetic written out in plain tensor operations, for the project's own reference numbers.

It shares no code with vlarl: attention is a softmax, a patch embedding is a product of patches, generation runs the
whole sequence again for every token. Sources: OpenVLA (arXiv 2406.09246), DINOv2 with registers (2309.16588), SigLIP
(2303.15343), Llama (2302.13971), LoRA (2106.09685).
"""

import torch
from torch import Tensor

Weights = dict[str, Tensor]
BLOCK_EPS = 1e-6


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + BLOCK_EPS).sqrt() * weight + bias


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Llama's, with OpenVLA's epsilon."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def gelu(x: Tensor) -> Tensor:
    """Exact."""
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
    """[heads, S, d] each; `allowed` [S, S] bool."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1) @ value


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[S, width] -> [heads, S, width / heads]."""
    return x.view(len(x), heads, -1).transpose(0, 1)


def join_heads(x: Tensor) -> Tensor:
    """Inverse of split_heads."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def vision_tokens(weights: Weights, prefix: str, pixels: Tensor, heads: int) -> list[Tensor]:
    """Input of the first block and output of every block, each [prefix + patches, width], of pixels [3, H, H]."""

    def get(name: str) -> Tensor:
        return weights[f"{prefix}.{name}"]

    kernel = get("patch_embed.proj.weight")
    size = kernel.shape[-1]
    patches = pixels.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    x = patches @ kernel.flatten(1).T + get("patch_embed.proj.bias") + get("pos_embed")[0]
    is_dino = f"{prefix}.cls_token" in weights
    if is_dino:
        x = torch.cat([get("cls_token")[0], get("reg_token")[0], x])
    tokens, depth = [x], 1 + max(int(k.split(".")[3]) for k in weights if k.startswith(f"{prefix}.blocks."))
    for block in range(depth):

        def linear(y: Tensor, name: str, block: int = block) -> Tensor:
            return y @ get(f"blocks.{block}.{name}.weight").T + get(f"blocks.{block}.{name}.bias")

        def scaled(y: Tensor, name: str, block: int = block) -> Tensor:
            return y * get(f"blocks.{block}.{name}.scale_factor") if is_dino else y

        def norm(y: Tensor, name: str, block: int = block) -> Tensor:
            return layer_norm(y, get(f"blocks.{block}.{name}.weight"), get(f"blocks.{block}.{name}.bias"))

        query, key, value = (split_heads(y, heads) for y in linear(norm(x, "norm1"), "attn.qkv").chunk(3, dim=-1))
        x = x + scaled(linear(join_heads(attention(query, key, value)), "attn.proj"), "ls1")
        x = x + scaled(linear(gelu(linear(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2"), "ls2")
        tokens.append(x)
    return tokens


def project(weights: Weights, features: Tensor) -> Tensor:
    """[patches, channels of both towers] -> [patches, width]."""
    for index in (1, 2, 3):
        features = features @ weights[f"projector.fc{index}.weight"].T + weights[f"projector.fc{index}.bias"]
        features = gelu(features) if index < 3 else features
    return features


def rotate(x: Tensor) -> Tensor:
    """Rotary embedding of [heads, S, d] at positions 0 to S - 1, base 10,000, halves paired."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = (torch.arange(x.shape[1], dtype=torch.float64)[:, None] * frequencies).to(torch.float32)
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )


def decoder_states(weights: Weights, x: Tensor, heads: int) -> list[Tensor]:
    """Input, output of every layer but the last, and the normed last output, each [S, width]."""
    prefix = "language_model.model"
    depth = 1 + max(int(k.split(".")[3]) for k in weights if k.startswith(f"{prefix}.layers."))
    allowed = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    states = [x]
    for layer in range(depth):

        def linear(y: Tensor, name: str, layer: int = layer) -> Tensor:
            return y @ weights[f"{prefix}.layers.{layer}.{name}.weight"].T

        normed = rms_norm(x, weights[f"{prefix}.layers.{layer}.input_layernorm.weight"])
        query, key, value = (split_heads(linear(normed, f"self_attn.{n}_proj"), heads) for n in "qkv")
        attended = join_heads(attention(rotate(query), rotate(key), value, allowed))
        x = x + linear(attended, "self_attn.o_proj")
        normed = rms_norm(x, weights[f"{prefix}.layers.{layer}.post_attention_layernorm.weight"])
        gate = linear(normed, "mlp.gate_proj")
        x = x + linear(gate * torch.sigmoid(gate) * linear(normed, "mlp.up_proj"), "mlp.down_proj")
        states.append(x)
    states[-1] = rms_norm(x, weights[f"{prefix}.norm.weight"])
    return states


class Reference:
    """A checkpoint's weights and what is computed with them."""

    def __init__(self, weights: Weights, *, dino_heads: int, siglip_heads: int, text_heads: int) -> None:
        self.weights = weights
        self.heads = {"featurizer": dino_heads, "fused_featurizer": siglip_heads}
        self.text_heads = text_heads

    def tower(self, name: str, pixels: Tensor) -> list[Tensor]:
        """Tokens per block of `name` for pixels [6, H, H]."""
        part = pixels[:3] if name == "featurizer" else pixels[3:]
        return vision_tokens(self.weights, f"vision_backbone.{name}", part, self.heads[name])

    def features(self, name: str, pixels: Tensor) -> Tensor:
        """[patches, width]: the second-to-last block, without the class and register tokens."""
        tokens = self.tower(name, pixels)[-2]
        patches = self.weights[f"vision_backbone.{name}.pos_embed"].shape[1]
        return tokens[-patches:]

    def states(self, pixels: Tensor, ids: list[int]) -> list[Tensor]:
        """Decoder states of BOS, the patches and the other ids."""
        features = torch.cat([self.features(name, pixels) for name in self.heads], dim=-1)
        text = self.weights["language_model.model.embed_tokens.weight"][torch.tensor(ids)]
        sequence = torch.cat([text[:1], project(self.weights, features), text[1:]])
        return decoder_states(self.weights, sequence, self.text_heads)

    def logits(self, pixels: Tensor, ids: list[int]) -> Tensor:
        """[patches + L, vocabulary]."""
        return self.states(pixels, ids)[-1] @ self.weights["language_model.lm_head.weight"].T

    def generate(self, pixels: Tensor, ids: list[int], count: int) -> tuple[list[int], Tensor]:
        """Greedy ids and the logits [count, vocabulary] that they are the largest of."""
        tokens: list[int] = []
        scores = []
        for _ in range(count):
            scores.append(self.logits(pixels, ids + tokens)[-1])
            tokens.append(int(scores[-1].argmax()))
        return tokens, torch.stack(scores)
