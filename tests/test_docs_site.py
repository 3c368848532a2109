"""The hooks that turn the repository's Markdown into the documentation site."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs vlarl[docs]: make docs")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def docs_site():
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "scripts/docs_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_module_has_a_page(docs_site):
    pages = docs_site.module_pages(ROOT / "vlarl")
    assert pages["reference/algorithms/losses.md"] == "vlarl.algorithms.losses"
    assert pages["reference/algorithms/index.md"] == "vlarl.algorithms"
    assert pages["reference/index.md"] == "vlarl"
    assert len(pages) == len(list((ROOT / "vlarl").rglob("*.py"))) - 1


def test_links_lead_to_pages(docs_site):
    pages = {
        "docs/a.md": "a.md",
        "docs/images/x.png": "images/x.png",
        "README.md": "index.md",
        "vlarl/types.py": "reference/types.md",
    }
    assert docs_site.rewrite_links("[a](docs/a.md#part) ![](docs/images/x.png)", "README.md", pages) == (
        "[a](a.md#part) ![](images/x.png)"
    )
    assert docs_site.rewrite_links("[r](../README.md) [t](../vlarl/types.py)", "docs/a.md", pages) == (
        "[r](index.md) [t](reference/types.md)"
    )
    assert docs_site.rewrite_links("[w](https://example.org/a) [h](#here)", "docs/a.md", pages) == (
        "[w](https://example.org/a) [h](#here)"
    )


def test_files_that_are_no_pages_are_only_named(docs_site):
    text = docs_site.rewrite_links("see [`run.sh`](../scripts/run.sh)", "docs/a.md", {"docs/a.md": "a.md"})
    assert text == "see `run.sh`"
