"""The homogeneous value network: the policy's architecture, own parameters, a scalar head on the last prompt token."""

from torch import Tensor, nn

from vlarl.configs.policy import PolicyConfig
from vlarl.policies.vla import PolicyInputs, VLAPolicy, VLATrunk, at_least_float32


class ValueNetwork(nn.Module):
    """V(image, instruction, proprioception): expected discounted return, starting at zero everywhere."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.trunk = VLATrunk(config)
        self.head = nn.Linear(config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def from_policy(cls, policy: VLAPolicy) -> "ValueNetwork":
        """Builds a value network whose trunk starts as a copy of the policy's."""
        value = cls(policy.config)
        value.trunk.load_state_dict(policy.trunk.state_dict())
        return value

    def forward(self, inputs: PolicyInputs) -> Tensor:
        """[B] float32."""
        embeddings, mask = self.trunk.embed_prompt(inputs)
        return at_least_float32(self.head(self.trunk.decode(embeddings, mask)[:, -1])).squeeze(-1)
