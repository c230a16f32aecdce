"""Help texts of options: the comment behind a dataclass field, or its line in the docstring's `Attributes:`.

draccus reads comments too, but misses fields whose annotation or default it does not expect.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
import typing
from typing import Any

from draccus.utils import is_choice_type

MORE = "more"  # key of a field's metadata: text that follows its comment, such as a table of choices


def option_help(cls: type[Any], prefix: str = "", *, is_choice: bool = False) -> dict[str, str]:
    """Return what is known of every option of the dataclass `cls`: dotted name -> text, groups left out.

    Options of a class that is one of several to choose from are named ``Class:dotted.name``: the same name
    may mean something else in another.
    """
    start = f"{cls.__name__}:{prefix}" if is_choice else prefix
    texts = {
        start + name: text
        for name, text in {**section(cls.__doc__ or "", "Attributes"), **_comments(cls)}.items()
    }
    if not dataclasses.is_dataclass(cls):
        return texts
    for field in dataclasses.fields(cls):
        if MORE in field.metadata:
            texts[start + field.name] = f"{texts.get(start + field.name, '')} {field.metadata[MORE]}".strip()
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        for kind in (hints[field.name], *typing.get_args(hints[field.name])):
            for group in kind.get_known_choices().values() if is_choice_type(kind) else (kind,):
                if isinstance(group, type) and dataclasses.is_dataclass(group):
                    texts |= option_help(group, f"{prefix}{field.name}.", is_choice=group is not kind)
    return texts


def _comments(cls: type[Any]) -> dict[str, str]:
    """Comments that stand on the lines of a field's definition."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}  # a class made at run time
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = _last_line(node, source)
            text = " ".join(comments[line] for line in range(node.lineno, last + 1) if line in comments)
            if text:
                found[node.target.id] = text
    return found


def _last_line(node: ast.AnnAssign, source: str) -> int:
    """Last line of a definition; the bracket that closes a wrapped default is not in the syntax tree."""
    last = node.end_lineno or node.lineno
    following = source.splitlines()[last : last + 1]
    return last + 1 if following and following[0].strip().startswith(")") else last


def section(documentation: str, title: str) -> dict[str, str]:
    """Return the entries `name: text` of a Google-style section of a docstring, continued lines joined."""
    found: dict[str, str] = {}
    names: list[str] = []
    pattern = rf"^{title}:\n((?:[ \t]+.*\n?|\n)+)"
    entries = re.search(pattern, inspect.cleandoc(documentation), re.MULTILINE)
    for line in textwrap.dedent(entries[1]).splitlines() if entries else ():
        entry = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
