"""What the documentation site generates: the reference of all commands, from the command line itself."""

from typing import Any

from voxmim.cli import make_app


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the help of every command in the place of ``COMMANDS`` on its page."""
    if page.file.src_uri != "reference/commands.md":
        return markdown
    return markdown.replace("COMMANDS", make_app().generate_docs(output_format="markdown", heading_level=1))
