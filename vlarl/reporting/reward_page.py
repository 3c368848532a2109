"""HTML pages of the reward model: labels of trajectories, and a model's figures with its reward under the frames."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from vlarl.files import write_text
from vlarl.reporting.page import render_page
from vlarl.reporting.svg import Axis, Series, color, legend, line_chart, nice_axis, percent_axis
from vlarl.rewards.process.labels import IGNORED, POSITIVE, LabelledEpisode

FRAMES = 12
"""Frames shown above a chart."""
FRAME_SIZE = 96
"""Side of a shown frame, pixels."""
FIGURES = (
    ("roc_auc", "ROC-AUC, frames at the windows' edges ignored"),
    ("roc_auc_unbanded", "ROC-AUC, all frames"),
    ("average_precision", "average precision, edges ignored"),
    ("average_precision_unbanded", "average precision, all frames"),
    ("share_positive", "share of positive frames"),
    ("calibration_error", "calibration error"),
    ("keyframe_recall", "keyframes found"),
    ("progress_correlation", "rank correlation of the reward so far with progress"),
    ("separation", "successes above failures at equal length"),
    ("own_prompt_probability", "probability of positive frames"),
    ("other_prompt_probability", "the same under another task's prompt"),
    ("other_prompt_lower", "share of them that this lowers"),
)
"""Key of `evaluate_scores` and its name, in the order of tables."""


def write_label_page(path: Path, episodes: Sequence[LabelledEpisode], title: str) -> None:
    """Draws each episode's curves, segments, keyframes and labels under its frames; atomic."""
    _write(path, title, [], Markup(""), [_label_card(e) for e in episodes])


def write_evaluation_page(
    path: Path,
    title: str,
    figures: Mapping[str, Mapping[str, Any]],
    episodes: Sequence[LabelledEpisode],
    scores: Sequence[np.ndarray],
) -> None:
    """Writes a model's figures, its reliability diagram, and the reward of episodes under their frames; atomic.

    Args:
        path: of the page.
        title: its heading.
        figures: name of a set of episodes -> `evaluate_scores`.
        episodes: to be drawn.
        scores: probabilities [T] of each.
    """
    rows = [
        (name, [_number(sets.get(key)) for sets in figures.values()])
        for key, name in (*FIGURES, ("episodes", "episodes"), ("frames", "frames"))
    ]
    table = [("", list(figures)), *rows]
    cards = [_score_card(e, s) for e, s in zip(episodes, scores, strict=True)]
    _write(path, title, table, _reliability(figures), cards)


def format_table(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The figures as lines of text, a column per set of episodes."""
    lines = [f"{'':<54}" + "".join(f"{name:>20}" for name in figures)]
    for key, name in (*FIGURES, ("episodes", "episodes"), ("frames", "frames")):
        lines.append(f"{name:<54}" + "".join(f"{_number(sets.get(key)):>20}" for sets in figures.values()))
    return lines


def _number(value: float | int | None) -> str:
    return "-" if value is None else (f"{value:.3f}" if isinstance(value, float) else str(value))


def _write(
    path: Path, title: str, table: list[tuple[str, list[str]]], reliability: Markup, cards: list[dict[str, Any]]
) -> None:
    page = render_page("reward_page.html.j2", title=title, table=table, reliability=reliability, cards=cards)
    write_text(path, page)


def _label_card(labelled: LabelledEpisode) -> dict[str, Any]:
    milestones = labelled.milestones
    charts = []
    for name, values in milestones.curves.items():
        low, high = min(0.0, float(values.min())), float(values.max())
        y = nice_axis(low, high, num_ticks=3)
        lines = [*_marks(labelled, y), Series(x=range(len(values)), y=list(values), css="after", title=name)]
        charts.append((name, line_chart(lines, x=_step_axis(labelled), y=y, title=name, height=110)))
    segments = ", ".join(f"{a}\N{EN DASH}{b}" for a, b in milestones.segments)
    note = f"segments {segments}; keyframes {', '.join(map(str, milestones.keyframes)) or 'none'}"
    return _card(labelled, charts, f"{note}. {milestones.warning}".strip())


def _score_card(labelled: LabelledEpisode, scores: np.ndarray) -> dict[str, Any]:
    y = percent_axis()
    lines = [*_marks(labelled, y), Series(x=range(len(scores)), y=list(scores), css="after", title="probability")]
    chart = line_chart(lines, x=_step_axis(labelled), y=y, title="probability of progress", height=130)
    return _card(labelled, [("probability of progress", chart)], "success" if labelled.episode.success else "failure")


def _card(labelled: LabelledEpisode, charts: list[tuple[str, Markup]], note: str) -> dict[str, Any]:
    images = labelled.episode.images
    shown = np.unique(np.linspace(0, len(images) - 1, FRAMES).astype(int))
    return {
        "title": f"{labelled.episode.instruction}, episode {labelled.episode.start.index}",
        "frames": [(int(step), _png(images[step])) for step in shown],
        "charts": charts,
        "legend": legend([(color(2), "positive frames"), (color(1), "ignored frames"), ("before", "segment begins")]),
        "note": note,
    }


def _marks(labelled: LabelledEpisode, y: Axis) -> list[Series]:
    """Labels as a thick line at the bottom, segments as upright lines."""
    steps = range(len(labelled.labels))
    floor = y.low + 0.01 * (y.high - y.low)
    lines = [
        Series(x=steps, y=[floor if v == label else None for v in labelled.labels], css=color(c), title=name)
        for label, c, name in ((POSITIVE, 2, "positive"), (IGNORED, 1, "ignored"))
    ]
    borders = [start for start, _ in labelled.milestones.segments if start]
    return lines + [Series(x=[b, b], y=[y.low, y.high], css="before", title=f"segment from step {b}") for b in borders]


def _step_axis(labelled: LabelledEpisode) -> Axis:
    return nice_axis(0, len(labelled.labels) - 1, num_ticks=6, tight=True, label="env step")


def _reliability(figures: Mapping[str, Mapping[str, Any]]) -> Markup:
    axis = percent_axis("probability")
    lines = [Series(x=[0, 1], y=[0, 1], css="before", title="calibrated")]
    for index, (name, sets) in enumerate(figures.items()):
        rows = sets["reliability"]
        x, y = [r["mean_probability"] for r in rows], [r["share_positive"] for r in rows]
        lines.append(Series(x=x, y=y, css=color(index), title=name))
    names = [("before", "calibrated"), *((color(i), name) for i, name in enumerate(figures))]
    return legend(names) + line_chart(lines, x=axis, y=percent_axis(), title="share of positive frames by probability")


def _png(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
