"""Links of the pages to files outside docs/ lead to the repository on the site."""

import re
from typing import Any

REPOSITORY = "https://github.com/vcm-codec/vcm/blob/main/"


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:  # noqa: ANN401  mkdocs' page
    """Replace relative links that leave docs/."""
    depth = page.file.src_uri.count("/")
    outside = "../" * (depth + 1)
    return re.sub(rf"\]\({re.escape(outside)}(?!\.\./)", f"]({REPOSITORY}", markdown)
