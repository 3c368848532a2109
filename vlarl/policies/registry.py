"""Kinds of policies, one module each.

A module has
    make_policy(config, seed) -> VLAPolicy                           fresh, or from the checkpoint that config names
    check_policy(config, instructions, action_dim, proprio_dim)      raises UserError where they do not fit
    count_trained_parameters(config) -> int                          without building it
"""

from importlib import import_module
from types import ModuleType

from vlarl.configs.openvla import OpenVLAPolicyConfig
from vlarl.configs.policy import PolicyConfig

AnyPolicyConfig = PolicyConfig | OpenVLAPolicyConfig
POLICIES: dict[str, tuple[type[AnyPolicyConfig], str]] = {
    "tiny": (PolicyConfig, "vlarl.policies.tiny"),
    "openvla": (OpenVLAPolicyConfig, "vlarl.policies.openvla.policy"),
}
"""kind -> its configuration and its module."""


def policy_module(config: AnyPolicyConfig) -> ModuleType:
    """Returns the module of the configuration's kind."""
    return import_module(POLICIES[config.kind][1])
