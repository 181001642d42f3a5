"""Each key of a spec is either used or marked as not used: shown by the type checker, which knows every reader.

In a copy of the code each key becomes a deprecated property, so that mypy lists who reads it. Prose for readers
(`FOR_READERS`) and what this version does not use (`NotUsed`) may be read by the page alone (`ingress/form_page.py`).
"""

import ast
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from config.policy import Spec
from config.spec_values import FOR_READERS, NOT_USED, ForReaders, NotUsed
from config.unused import mark_of, sections

HOME = Path(__file__).parents[3]
PACKAGES = ("config", "delivery", "ledger", "providers", "tasks", "worker", "ingress")
# They show a spec or check it; what they read is not yet done.
ONLY_SHOWN = ("ingress/form_page.py", "config/form_text.py", "config/services.py", "config/unused.py")
KEYS = {(each.__name__, name): mark_of(field) for each in sections(Spec) for name, field in each.model_fields.items()}
# Their section is marked as a whole.
INSIDE = {
    (inner.__name__, name)
    for each in sections(Spec)
    for field in each.model_fields.values()
    if mark_of(field) is FOR_READERS or mark_of(field) == NOT_USED
    for inner in sections(field.annotation)
    for name in inner.model_fields
}
OWNERS = {(each.__name__, name): owner for each in sections(Spec) for name in each.model_fields for owner in [
    next(base.__name__ for base in reversed(each.__mro__) if name in getattr(base, "model_fields", {}))
]}  # fmt: skip


class Watched(ast.NodeTransformer):
    """Makes each key of a section, and each of its methods, something whose use the type checker reports."""

    def __init__(self, names):
        self.names = names
        self.inside = None

    def visit_ClassDef(self, node):
        if node.name not in self.names:
            return node
        self.inside = node.name
        node.body = [self.visit(each) for each in node.body]
        return node

    def visit_AnnAssign(self, node):
        name = node.target.id
        lines = f'@property\n@deprecated("{self.inside}.{name}")\ndef {name}(self) -> object: ...'
        made = ast.parse(lines).body[0]
        made.returns = node.annotation
        return made

    def visit_FunctionDef(self, node):
        if not any("validator" in ast.unparse(each) for each in node.decorator_list):
            node.decorator_list.append(ast.parse(f'deprecated("{self.inside}.{node.name}()")').body[0].value)
        return node


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Return, by class and key, the files that read it, directly or through a method of a section."""
    copy = tmp_path_factory.mktemp("watched")
    names = {each.__name__ for each in sections(Spec)}
    for package in PACKAGES:
        shutil.copytree(HOME / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "migrations"))
    spans = {}
    for file in copy.glob("config/spec*.py"):
        tree = Watched(names).visit(ast.parse(file.read_text(encoding="utf-8")))
        place = next(n for n, each in enumerate(tree.body) if not isinstance(each, ast.Expr))
        tree.body.insert(place, ast.parse("from typing_extensions import deprecated").body[0])
        text = ast.unparse(ast.fix_missing_locations(tree))
        file.write_text(text, encoding="utf-8")
        spans[f"config/{file.name}"] = method_spans(ast.parse(text), names)
    return told(checked(copy), spans)


def method_spans(tree, names):
    classes = [each for each in tree.body if isinstance(each, ast.ClassDef) and each.name in names]
    return {
        range(function.lineno, function.end_lineno + 1): f"{each.name}.{function.name}()"
        for each in classes
        for function in each.body
        if isinstance(function, ast.FunctionDef)
    }


def checked(copy):
    options = ["--no-site-packages", "--ignore-missing-imports", "--check-untyped-defs", "--no-incremental"]
    command = [sys.executable, "-m", "mypy", *options, "--enable-error-code=deprecated", "--config-file=", *PACKAGES]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=600)
    return re.findall(r"^(\S+?\.py):(\d+): .* is deprecated: (\w+\.\w+(?:\(\))?)", done.stdout, re.MULTILINE)


def told(found, spans):
    uses = defaultdict(set)
    for file, line, name in found:
        method = next((each for span, each in spans.get(file, {}).items() if int(line) in span), None)
        uses[name].add(method or file)
    return {tuple(name.split(".")): files_of(name, uses, set()) for name in list(uses) if not name.endswith("()")}


def files_of(name, uses, seen):
    if name in seen:
        return set()
    through = [files_of(each, uses, seen | {name}) if each.endswith("()") else {each} for each in uses[name]]
    return set().union(*through) - set(ONLY_SHOWN)


@pytest.fixture(scope="module")
def read_in_webhooks():
    """Return every attribute that the webhooks' door reads: behind Starlette's helpers the checker sees no types."""
    tree = ast.parse((HOME / "ingress" / "webhooks.py").read_text(encoding="utf-8"))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def keys(chosen):
    return sorted(key for key in KEYS if key not in INSIDE and chosen(KEYS[key]))


@pytest.mark.parametrize("key", keys(lambda mark: isinstance(mark, ForReaders) or mark == NOT_USED), ids=".".join)
def test_a_key_that_is_marked_is_read_by_nothing_but_the_page(readers, key):
    assert readers.get((OWNERS[key], key[1]), set()) == set()


@pytest.mark.parametrize(
    "key", keys(lambda mark: mark is None or (isinstance(mark, NotUsed) and mark != NOT_USED)), ids=".".join
)
def test_a_key_that_is_not_marked_or_only_in_part_is_read(readers, read_in_webhooks, key):
    assert readers.get((OWNERS[key], key[1]), set()) or key[1] in read_in_webhooks


@pytest.mark.parametrize("key", keys(lambda mark: isinstance(mark, NotUsed) and mark.by), ids=".".join)
def test_an_adapter_that_does_not_use_a_key_does_not_read_it(readers, key):
    folders = tuple(f"providers/{adapter}/" for adapter in KEYS[key].by)

    assert [each for each in readers.get((OWNERS[key], key[1]), set()) if each.startswith(folders)] == []
