"""The README and the pages of the documentation, as what they tell a user to do."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
HOW_TO = ROOT / "docs" / "how_to"
EXPLANATION = ROOT / "docs" / "explanation"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]

_FENCE = re.compile(r"^(`{3,})(.*)\n((?:.*\n)*?)\1\s*$", re.MULTILINE)
_DIRECTIVE = re.compile(r"\{code-block\} (\w+)")
_CAPTION = re.compile(r":caption: (\S+)\n\n?")


@dataclass(frozen=True)
class Block:
    """A listing on a page: of which language, and the name of the file that it stands for, if it does."""

    language: str
    text: str
    file: str | None = None


def blocks(page):
    """All listings of a page in their order."""
    found = []
    for _, kind, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        directive = _DIRECTIVE.fullmatch(kind)
        if directive is None:
            found.append(Block(kind, text))
        else:
            caption = _CAPTION.match(text)
            file = caption[1] if caption else None
            found.append(Block(directive[1], text[caption.end() :] if caption else text, file))
    return found


def command(page, beginning):
    """The words of the command on a page that begins so, for a test that runs it in place of the page's test."""
    lines = [line for text in listings(page, "bash") for line in text.splitlines()]
    (found,) = (line for line in lines if line.startswith(beginning))
    return shlex.split(found)


def listings(page, language):
    return [block.text for block in blocks(page) if block.language == language]
