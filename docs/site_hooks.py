"""What MkDocs asks while it builds the site: pages from outside ``docs/``, and links that lead out of it.

The pages in `OUTSIDE` stand elsewhere in the repository and are shown as they are there. Links between pages keep
working, and a link to any other file of the repository leads to it on the host of the repository. A link to a missing
file stays as it is, so that ``strict`` fails.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[1]
OUTSIDE: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "data/sample/README.md": "data/sample.md",
    "data/tate/README.md": "data/tate.md",
}
"""Path in the repository, and its page on the site."""
PAGES: Final = {page: source for source, page in OUTSIDE.items()}
_LINK: Final = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<rest>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages in `OUTSIDE`."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links that hold where it is shown."""
    shown = page.file.src_uri
    source = PAGES.get(shown, f"docs/{shown}")

    def moved(link: re.Match[str]) -> str:
        """The `link`, as it holds on this page."""
        target = os.path.normpath(os.path.join(os.path.dirname(source), link["path"]))
        rest = link["rest"] or ""
        if target in OUTSIDE:
            uri = OUTSIDE[target]
        elif target.startswith("docs/") and files.get_file_from_path(target.removeprefix("docs/")):
            uri = target.removeprefix("docs/")
        elif (ROOT / target).exists():
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            return f"{config.repo_url}/{kind}/main/{target}{rest}"
        else:
            return link[0]
        return os.path.relpath(uri, os.path.dirname(shown) or ".") + rest

    return _LINK.sub(moved, markdown)
