"""mkdocs hooks. LaTeX becomes MathML and the commands' help becomes the command-line page when the site is built, so that a
page needs no script and no network to be read."""

import html
import re

import click
from latex2mathml.converter import convert
from noiseshift.cli import COMMANDS, main

FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.DOTALL)
LETTER = re.compile(r"<mi>(&#x003[0-9A-F]{2};|\w)</mi>")
"""Browsers take these from a font of mathematical letters, and leave a gap where none is installed."""
ITALIC = r'<mi mathvariant="normal" style="font-style: italic">\1</mi>'
WIDTH = 80  # a code block holds no more beside the two menus


def on_page_markdown(markdown, page, **_):
    """Every command's `--help` follows the text of reference/cli.md."""
    if page.file.src_uri != "reference/cli.md":
        return markdown
    group = click.Context(main, info_name="noiseshift", **main.context_settings)
    return "\n\n".join([markdown, *(_command(group, name) for name in COMMANDS)])


def _command(group, name):
    command = main.get_command(group, name)
    shown = click.Context(command, parent=group, info_name=name, terminal_width=WIDTH)
    return f"## {name}\n\n{COMMANDS[name]}\n\n```text\n{command.get_help(shown)}\n```"


def on_page_content(content, **_):
    """Replace what pymdownx.arithmatex marked."""
    return FORMULA.sub(lambda found: _formula(found[1], html.unescape(found[2])), content)


def _formula(tag, latex):
    made = convert(latex, display="inline" if tag == "span" else "block").replace("&#x02223;", "|")
    made = LETTER.sub(ITALIC, made)
    return made if tag == "span" else f'<div style="overflow-x: auto">{made}</div>'  # a narrow window scrolls it
