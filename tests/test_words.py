"""One word, one meaning: the project's former words do not come back. docs/reference/glossary.md has the terms."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = sorted(path for folder in ("noiseshift", "cli", "analysis") for path in (ROOT / folder).rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "analysis/templates/report.html", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "notebooks").glob("*.ipynb"))

NAMES = {
    "again": "what it holds: a second one, a re-noised one",
    "asked": "calls, evaluated, requested",
    "bench": "what it holds",
    "blind": "noise-unconditional, insensitive",
    "encoded": "effective level",
    "finals": "final samples",
    "heard": "what it holds: a call, a time",
    "law": "distribution",
    "laws": "distributions",
    "looks": "extractor, features",
    "mends": "corrects",
    "referee": "independent reference",
    "relatives": "alternatives",
    "told": "t_cond, conditioning time",
    "untold": "without the noise condition",
    "walker": "what it does",
    "witness": "independent reference",
}
PHRASES = {
    r"told": "conditioned on, given; not significant; certain",
    r"(?:noise-|class-)?blind\w*": "noise-unconditional, unconditional, insensitive",
    r"encoded (?:noise )?(?:level|scale|sigma)s?": "effective noise level",
    r"finals": "final samples",
    r"noised again": "re-noised",
    r"laws?": "distribution",
    r"relatives": "alternatives",
    r"mend(?:s|ed)?|takes? off|less %": "corrects, reduces, reduction (%)",
    r"put(?:s|ting)? (?:the|a|its|their) \w+ right|sets? (?:the|a|its|their) [\w ]+ right": "corrects",
    r"referee|witness": "independent reference",
    r"how-manieth|twice is as good as once|a hair of noise": "rank within class, idempotent, ill-conditioned",
    r"somebody(?:'s| else)?": "third-party, a user's, custom",
    r"can be had": "available",
}

KEYWORD = ("noiseshift/diffusion/wrapping.py", "noiseshift/targets/target.py", "noiseshift/studies/correct_exact.py")
ALLOWED = {  # a pattern, and the files where it may stand (all of them where none is named)
    # The public keyword of `wrap` and of exact models, where it is passed and where it is taken.
    r"\bblind=|`blind\b": (),
    r"\bblind\b": KEYWORD,
    # The method's name in version 0.1, which is still read.
    r"blind-free": ("noiseshift/correction/methods.py", "docs/reference/glossary.md"),
    # A card's key `told`, which stands for `conditioning`.
    r"[\"`]told[\"`]": ("noiseshift/diffusion/conventions.py",),
    # Readers who do not see all colours.
    r"colou?r-blind": (),
    # The spectrum k^-a by its usual name, and a relation between quantities: neither is a distribution.
    r"power[-_ ]law|relaxation[- ]law": (),
}
ENCODERS = ("noiseshift/networks/edm_unet.py", "noiseshift/networks/edm2_unet.py")
ENCODERS += ("noiseshift/checkpoints/diffusers/autoencoder.py",)
"""Here a network's encoder encodes."""


def text_of(path, text=None):
    """A file's text, in which what is allowed there is blanked."""
    text, place = path.read_text() if text is None else text, path.relative_to(ROOT).as_posix()
    for pattern, files in ALLOWED.items():
        if not files or place in files:
            text = re.sub(pattern, lambda found: "·" * len(found[0]), text)
    return text


ANY_PHRASE = re.compile(rf"\b(?:{'|'.join(PHRASES)})(?!\w)", re.IGNORECASE)


def phrases(path, text=None):
    """Former phrases in a file, a line each."""
    text = text_of(path, text)
    for found in ANY_PHRASE.finditer(text):
        remedy = next(PHRASES[each] for each in PHRASES if re.fullmatch(each, found[0], re.IGNORECASE))
        line = text[: found.start()].count("\n") + 1
        yield f"{path.relative_to(ROOT)}:{line}: {found[0]!r}: write {remedy}"


EITHER = "|".join(NAMES)
ANY_NAME = re.compile(rf"(?:(?<![A-Za-z])(?i:{EITHER})|(?:{EITHER.title()}))(?![a-z])")
FIELDS = ("id", "attr", "arg", "name", "asname")


def names(path, text=None):
    """Former words as a part of a name in a file of code, a line each."""
    text, place = path.read_text() if text is None else text, path.relative_to(ROOT).as_posix()
    if not ANY_NAME.search(text_of(path, text)):
        return
    for node in ast.walk(ast.parse(text)):
        for name in {str(getattr(node, field, "")) for field in FIELDS} - {"power_law"}:
            found = ANY_NAME.search(name)
            encoder = found and found[0] == "encoded" and place in ENCODERS
            keyword = name == "blind" and (isinstance(node, ast.keyword) or place in KEYWORD)
            if found and not encoder and not keyword:
                yield f"{place}:{getattr(node, 'lineno', '?')}: {name}: say {NAMES[found[0].lower()]}"


def test_no_former_phrase_comes_back():
    assert [each for path in [*CODE, *PAGES] for each in phrases(path)] == []


def test_no_former_name_comes_back():
    assert [each for path in CODE for each in names(path)] == []


def test_a_former_word_is_found():
    page, code = ROOT / "docs/explanation/shift.md", ROOT / "noiseshift/shift/report.py"
    for text in (
        "what the network is told",
        "a noise-blind branch",
        "the encoded level",
        "the laws of the data",
        "NAG mends it",
    ):
        assert list(phrases(page, text))
    for text in (
        "told = 1",
        "def plot_encoded(): ...",
        "class BlindSpace: ...",
        "NOISE_BLIND = 0",
        "x.finals()",
        "again, b = 1, 2",
    ):
        assert list(names(code, text))
    for text in ("colour-blind readers", "a power-law spectrum", "pass `blind`", "draw it again", "it looks well"):
        assert not list(phrases(page, text))
