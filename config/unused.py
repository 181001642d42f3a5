"""Which keys of a spec have no effect in this version, by the marks that stand at them in the models."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from pydantic.fields import FieldInfo

from config.form_text import written_name
from config.marked_yaml import Problem, read_marked
from config.spec import Spec
from config.spec_values import ForReaders, NotUsed, Section

_Path = tuple[str | int, ...]


def unused_keys(file: Path, spec: Spec) -> list[Problem]:
    """Return the keys of a spec that this version does not use, each with its line.

    A key that stands below several names, e.g. `operations.create_lead.fields.*.required`, is told once.

    Args:
        spec: What the file holds; it was read without a problem.
    """
    marked = read_marked(file)
    found: dict[object, list[_Path]] = {}
    for mark, path in _unused(spec, (), spec.adapter):
        if marked.holds(path):
            # What is unused under a condition is told at each place: other places use it.
            found.setdefault((id(mark), path[-1], path if mark.when else len(path)), []).append(path)
    return [
        Problem(file, marked.line(paths[0]), f"{_name(paths)}: not used by this version") for paths in found.values()
    ]


def _unused(value: object, path: _Path, adapter: str) -> Iterator[tuple[NotUsed, _Path]]:
    if isinstance(value, Section):
        for name, field in type(value).model_fields.items():
            below, mark = (*path, written_name(name, field)), mark_of(field)
            if mark is None or (isinstance(mark, NotUsed) and not _holds(mark, below, value, adapter)):
                yield from _unused(getattr(value, name), below, adapter)
            elif isinstance(mark, NotUsed):
                yield mark, below
    elif isinstance(value, Mapping | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, each in items:
            yield from _unused(each, (*path, key), adapter)


def _holds(mark: NotUsed, path: _Path, section: Section, adapter: str) -> bool:
    return (not mark.by or adapter in mark.by) and (mark.when is None or mark.when(path, section))


def _name(paths: Sequence[_Path]) -> str:
    parts = [each[0] if len(set(each)) == 1 else "*" for each in zip(*paths, strict=True)]
    return ".".join(str(each) for each in parts)


def mark_of(field: FieldInfo) -> NotUsed | ForReaders | None:
    """Return the mark of a key; None for one that is used."""
    return next((each for each in field.metadata if isinstance(each, NotUsed | ForReaders)), None)


def sections(kind: Any) -> set[type[Section]]:
    """Return every section that lies within a type, itself among them."""
    inner: set[type[Section]] = set().union(*(sections(each) for each in get_args(kind)))
    if not isinstance(kind, type) or isinstance(kind, UnionType) or not issubclass(kind, Section):
        return inner
    fields = [field.annotation for field in kind.model_fields.values()]
    return inner | {kind} | set().union(*(sections(each) for each in fields))
