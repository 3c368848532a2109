"""One picture of a suite: a start of every task with its instruction."""

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlarl.configs.env import EnvConfig
from vlarl.reporting.progress import Console

THUMBNAIL = 192
"""Side of a thumbnail, pixels."""
CAPTION = 44
COLUMNS = 5
MARGIN = 8


def write_contact_sheet(suite: str, path: Path) -> None:
    """Renders evaluation start 0 of every task of a LIBERO suite into one PNG.

    Raises:
        UserError: unknown suite, or a task that cannot be built.
    """
    from vlarl.envs.libero.env import make_environments, prepare
    from vlarl.envs.libero.tasks import num_tasks
    from vlarl.types import Start

    config = EnvConfig(task_suite=suite, task_ids=tuple(range(num_tasks(suite))), image_size=THUMBNAIL)
    prepare(config, Console().line)
    (slot,) = make_environments(config, 1)
    seen = [slot.reset(Start(task_id=t, split="evaluation", index=0)) for t in config.task_ids]
    sheet = draw_sheet([o.image for o in seen], [f"{t}  {o.instruction}" for t, o in enumerate(seen)])
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def draw_sheet(images: list[np.ndarray], captions: list[str]) -> Image.Image:
    """Lays out images [S, S, 3] uint8 in rows of five, each over its caption."""
    rows = -(-len(images) // COLUMNS)
    width, height = THUMBNAIL + MARGIN, THUMBNAIL + CAPTION + MARGIN
    sheet = Image.new("RGB", (COLUMNS * width + MARGIN, rows * height + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = MARGIN + index % COLUMNS * width, MARGIN + index // COLUMNS * height
        sheet.paste(Image.fromarray(image), (left, top))
        lines = textwrap.wrap(caption, 32)[:3]
        draw.multiline_text((left, top + THUMBNAIL + 3), "\n".join(lines), fill="black", font=font, spacing=2)
    return sheet
