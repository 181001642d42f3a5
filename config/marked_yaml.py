"""YAML that remembers where every field stands, so that a wrong spec can be refused by file and line.

Owns reading one file into plain data plus line numbers, and finding keys written twice (PyYAML keeps the
last one without a word). Knows nothing of what the fields mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one file.

    Attributes:
        file: The file as it was given, so that an editor can open it.
        line: Counted from 1.
        reason: What is wrong and what was wanted; starts with the field's dotted name when there is one.
    """

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class MarkedYaml:
    """The content of one file with its line numbers.

    Attributes:
        data: Plain values; None for an empty or unreadable file.
        problems: Syntax errors and keys written twice.
    """

    file: Path
    data: Any
    root: yaml.Node | None
    problems: tuple[Problem, ...] = ()

    def holds(self, path: Sequence[str | int]) -> bool:
        """Tell whether the file itself has a key at `path`."""
        node = self.root
        for part in path:
            step = _child(node, part)
            if step is None:
                return False
            _, node = step
        return True

    def line(self, path: Sequence[str | int]) -> int:
        """Return the line of the deepest part of `path` that the file holds; 1 when it holds none.

        Args:
            path: Keys and list positions from the top, e.g. ("operations", "create_lead", "timeouts", "read_s").
        """
        found, node = 1, self.root
        for part in path:
            step = _child(node, part)
            if step is None:
                break
            found, node = step
        return found


def read_marked(file: Path) -> MarkedYaml:
    """Read one YAML file; whatever is wrong with it comes back as problems, never as an exception."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        reason = f"cannot be read ({type(err).__name__}); wanted a readable UTF-8 file"
        return MarkedYaml(file, None, None, (Problem(file, 1, reason),))
    loader = _loader(text)
    try:
        root = loader.get_single_node()
        data = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        return MarkedYaml(file, None, None, (_syntax_problem(file, err),))
    finally:
        loader.dispose()
    return MarkedYaml(file, data, root, tuple(_repeated_keys(file, root)))


def _loader(text: str) -> yaml.SafeLoader | yaml.CSafeLoader:
    loader = yaml.CSafeLoader(text) if yaml.__with_libyaml__ else yaml.SafeLoader(text)
    # Dates stay texts: PyYAML raises on a wrong one without saying where it stands.
    loader.yaml_implicit_resolvers = {
        first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }
    return loader


def _syntax_problem(file: Path, err: Exception) -> Problem:
    mark = getattr(err, "problem_mark", None)
    detail = getattr(err, "problem", None) or type(err).__name__
    return Problem(file, mark.line + 1 if mark else 1, f"not valid YAML: {detail}")


def _child(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        pairs = (pair for pair in node.value if pair[0].value == str(part))
        return next(((key.start_mark.line + 1, value) for key, value in pairs), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None


def _repeated_keys(file: Path, root: yaml.Node | None) -> Iterator[Problem]:
    for node in _mappings(root):
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            first = first_lines.setdefault(str(key.value), line)
            if first != line:
                yield Problem(file, line, f"{key.value}: written twice (first on line {first}); keep one")


def _mappings(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        # An alias makes a node appear twice, or inside itself.
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        waiting.extend(_children(node))
        if isinstance(node, yaml.MappingNode):
            yield node


def _children(node: yaml.Node) -> list[yaml.Node | None]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def as_mapping(data: object) -> Mapping[str, Any]:
    """Return `data` when it is a mapping, else an empty one; the models complain about the rest."""
    return data if isinstance(data, Mapping) else {}
