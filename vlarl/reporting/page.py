"""Self-contained HTML pages from the templates beside this file."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vlarl.reporting.plots import percent


def render_page(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever the template shows
    """Returns the page; every template gets `style`, the style sheet, and the filter `percent`."""
    here = Path(__file__).parent
    # Without the loader's auto-escaping a task's instruction could break the page.
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    style = Markup((here / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, **values)
