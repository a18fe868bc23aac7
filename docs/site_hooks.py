"""Adds to the site the pages that live outside docs/: README, experiments, examples, security."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from reference_pages import PAGES  # noqa: E402

OUTSIDE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "SECURITY.md",
    "deploy/kubernetes/README.md",
    "examples/**/*.*",
    "experiments/**/README.md",
    "experiments/*/*.svg",
    "experiments/*/*.png",
    "experiments/*/*.yaml",
    "tests/workers/oracle/README.md",
)
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any, **_: object) -> Files:
    """Gives each page outside docs/ its path in the repository; README is the home page."""
    for name, written in PAGES.items():
        files.append(File.generated(config, name, content=written()))
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = site_path(path.relative_to(ROOT).as_posix())
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Turns links that hold in the repository into links that hold in the site."""
    here = repository_path(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[2]))
        start = posixpath.dirname(page.file.src_uri)
        return link[1] + posixpath.relpath(site_path(target), start or ".") + link[3]

    return LINK.sub(moved, markdown)


def site_path(repository: str) -> str:
    """docs/concepts/x.md -> concepts/x.md; README.md -> index.md; others keep their path."""
    return "index.md" if repository == "README.md" else repository.removeprefix("docs/")


def repository_path(site: str) -> str:
    """The inverse of `site_path`."""
    if site == "index.md":
        return "README.md"
    return f"docs/{site}" if (ROOT / "docs" / site).exists() else site
