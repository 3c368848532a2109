"""Hooks of the documentation site (mkdocs.yml): the front page and a reference page per module.

Links in docs/ and README.md are those of the repository and work there; on the site they lead to its pages.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
COPIED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository's root that are pages of the site."""
_LINK = re.compile(r"(?<=\]\()(?!https?://|#|mailto:)([^)#\s]+)(?=[)#])")


def module_pages(package: Path) -> dict[str, str]:
    """Page -> dotted module, for every module but `__main__`, parents before children."""
    pages = {}
    for path in sorted(package.rglob("*.py"), key=lambda p: (p.parent, p.name != "__init__.py", p.name)):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        if parts[-1] == "__main__":
            continue
        if parts[-1] == "__init__":
            pages["/".join(["reference", *parts[1:-1], "index.md"])] = ".".join(parts[:-1])
        else:
            pages["/".join(["reference", *parts[1:]]) + ".md"] = ".".join(parts)
    return pages


def rewrite_links(text: str, source: str, pages: dict[str, str]) -> str:
    """Turns the links of a file of the repository into those between pages.

    Args:
        text: Markdown.
        source: the file, relative to the repository's root.
        pages: file of the repository -> page. A link to other code becomes its text.
    """
    here = posixpath.dirname(pages[source])

    def page(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return posixpath.relpath(pages[target], here or ".") if target in pages else match[0]

    linked = _LINK.sub(page, text)
    outside = re.compile(r"\[([^\]]+)\]\((?:\.\./)*(?:scripts|vlarl|tests|benchmarks)(?:/[^)]*)?\)")
    return outside.sub(r"\1", linked)


def _pages() -> dict[str, str]:
    """File of the repository -> page of the site."""
    docs = ROOT / "docs"
    pages = {
        f"docs/{path.relative_to(docs)}": str(path.relative_to(docs)) for path in docs.rglob("*") if path.is_file()
    }
    pages |= COPIED
    for page, module in module_pages(ROOT / "vlarl").items():
        path = module.replace(".", "/")
        pages[path if page.endswith("index.md") else f"{path}.py"] = page
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the reference to the navigation: a section per package."""
    tree: dict[str, list[Any]] = {}
    for page, module in module_pages(ROOT / "vlarl").items():
        parts = module.split(".")
        section = parts[1] if len(parts) > 1 and (ROOT / "vlarl" / parts[1]).is_dir() else ""
        tree.setdefault(section, []).append({module.removeprefix("vlarl."): page})
    config.nav.append({"Reference": tree.pop("") + [{name: entries} for name, entries in tree.items()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here."""
    pages = _pages()
    for source, page in COPIED.items():
        text = rewrite_links((ROOT / source).read_text(), source, pages)
        files.append(File.generated(config, page, content=text))
    for page, module in module_pages(ROOT / "vlarl").items():
        files.append(File.generated(config, page, content=f"# `{module}`\n\n::: {module}\n"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:  # noqa: ANN401 - mkdocs' Page; what else it passes
    """Rewrites the links of the pages of docs/."""
    source = f"docs/{page.file.src_uri}"
    pages = _pages()
    return rewrite_links(markdown, source, pages) if source in pages else markdown
