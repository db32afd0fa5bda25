"""Other people's words in our output: names of checkpoints, runs, files and labels may hold anything.

A name is harmless in the place that it is written to: a terminal (escape sequences, line ends), a figure (mathtext), LaTeX,
Markdown. HTML is jinja's to escape.
"""

from __future__ import annotations

import re
import unicodedata

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: "\\" + letter for letter in "_%&#${}"},
    "δ": r"$\delta$",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"\textquotedbl{}",
    "|": r"\textbar{}",
}
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Control, format (also those that turn the writing direction), lone surrogates, line and paragraph ends."""


def plain(text: object) -> str:
    """One line that moves no cursor: white space becomes a space, control and other unseen letters their code."""
    words = " ".join(str(text).split())
    if words.isascii() and words.isprintable():
        return words
    return "".join(_code(letter) if unicodedata.category(letter) in _HIDDEN else letter for letter in words)


def shortened(text: object, length: int = 300) -> str:
    """The same, its middle left out where it is longer than `length`."""
    words = plain(text)
    half = (length - 3) // 2
    return words if len(words) <= length else f"{words[:half]} … {words[-half:]}"


def in_figure(text: object) -> str:
    """For matplotlib: a dollar sign starts no formula, a leading underscore hides no label, a long name leaves room to draw."""
    words = shortened(text, 40).replace("$", r"\$")
    return f" {words}" if words.startswith("_") else words


def in_latex(text: object) -> str:
    """For a cell of a LaTeX table: every letter that TeX reads as a command is written out."""
    return "".join(_LATEX.get(letter, letter) for letter in plain(text))


def in_markdown(text: object) -> str:
    """For a cell of a Markdown table: no letter ends the cell, marks up or starts HTML."""
    return re.sub(r"([\\|`*_\[\]<>#])", r"\\\1", plain(text))


def _code(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
