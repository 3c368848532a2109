"""A trained reward model on disk: config.json with what it was trained for and its figures, and the weights."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlarl.configs.openvla import LoRAConfig
from vlarl.configs.reward import LabelConfig, RewardModelConfig
from vlarl.errors import UserError
from vlarl.files import atomic_folder
from vlarl.policies.checkpoint import load_weights, save_tensors, trained_state
from vlarl.rewards.process.model import ProcessRewardModel, make_reward_model

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class RewardModelCard:
    """What is known of a trained model."""

    model: RewardModelConfig
    labels: LabelConfig
    instructions: tuple[str, ...]
    """Tasks that it was trained on."""
    figures: dict[str, Any]
    """`evaluate_scores` on held-out episodes of those tasks; empty before it is evaluated."""

    @property
    def summary(self) -> str:
        """Its held-out figures in words."""
        if not self.figures:
            return "its held-out figures are not known: `vlarl reward evaluate` measures them"
        auc, unbanded = self.figures["roc_auc"], self.figures["roc_auc_unbanded"]
        return (
            f"on {self.figures['episodes']} held-out episodes of its tasks its ROC-AUC is {auc:.3f}"
            f" ({unbanded:.3f} with the frames at the windows' edges)"
        )


def save_reward_model(model: ProcessRewardModel, card: RewardModelCard, folder: Path) -> None:
    """Writes the folder, atomically."""
    with atomic_folder(folder) as scratch:
        (scratch / CONFIG_NAME).write_text(json.dumps(asdict(card), indent=2))
        save_tensors(trained_state(model.backbone), scratch / WEIGHTS_NAME)


def model_config_from_json(raw: dict[str, Any]) -> RewardModelConfig:
    """Inverse of asdict through JSON."""
    return RewardModelConfig(**raw | {"lora": LoRAConfig(**raw["lora"])})


def label_config_from_json(raw: dict[str, Any]) -> LabelConfig:
    """Inverse of asdict through JSON."""
    return LabelConfig(**raw | {"progress_fractions": tuple(raw["progress_fractions"])})


def load_card(folder: Path) -> RewardModelCard:
    """Reads what is known of a model.

    Raises:
        UserError: no reward model there, or one of another version.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"no reward model at {folder}: `vlarl reward train` writes one")
    try:
        raw = json.loads(path.read_text())
        return RewardModelCard(
            model=model_config_from_json(raw["model"]),
            labels=label_config_from_json(raw["labels"]),
            instructions=tuple(raw["instructions"]),
            figures=raw["figures"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged, or no reward model of this version ({error})") from error


def load_reward_model(folder: Path) -> tuple[ProcessRewardModel, RewardModelCard]:
    """Reads a model, ready to score.

    Raises:
        UserError: no reward model there, or one that is damaged.
    """
    card = load_card(folder)
    model = make_reward_model(card.model)
    load_weights(model.backbone, folder / WEIGHTS_NAME)
    return model.eval(), card
