"""The list of security statements in `docs/security.md`, and those that are proved by reading the tree.

Every other statement is proved by a test that carries its number, next to the tests of the code it is about.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PRODUCT = ("client", "config", "delivery", "ingress", "ledger", "providers", "sandbox", "tasks", "worker")
_NAME = re.compile(r"^(?:async )?def (test_statement_(\d\d)_(?:and_(\d\d)_)?\w+)", re.MULTILINE)
_STATEMENTS = range(1, 55)
_TEMPLATE_ENGINES = {"chameleon", "django", "jinja2", "mako", "tornado.template"}


@cache
def _product_modules():
    return [(path, ast.parse(path.read_text())) for top in _PRODUCT for path in (_ROOT / top).rglob("*.py")]


def _imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _calls(tree):
    return (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_statement_19_no_template_engine_sees_what_a_producer_writes():
    used = {(path.name, name) for path, tree in _product_modules() for name in _imports(tree)}

    assert not {each for each in used if each[1].startswith(tuple(_TEMPLATE_ENGINES))}


def test_statement_20_nothing_evaluates_text_as_code():
    names = {
        (path.name, func.id) for path, tree in _product_modules() for func in _calls(tree) if isinstance(func, ast.Name)
    }

    assert not {each for each in names if each[1] in {"eval", "exec", "compile"}}


def test_statement_14_nothing_switches_the_check_of_certificates_off():
    words = {
        (path.name, word)
        for path, tree in _product_modules()
        for node in ast.walk(tree)
        for word in (getattr(node, "attr", None), getattr(node, "arg", None))
        if word in {"CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context"}
        or (isinstance(node, ast.keyword) and word == "verify" and not getattr(node.value, "value", True))
    }

    assert not words


@cache
def _tests_by_statement():
    found = {number: set() for number in _STATEMENTS}
    for path in (_ROOT / "tests").rglob("test_*.py"):
        for name, *numbers in _NAME.findall(path.read_text()):
            for number in filter(None, numbers):
                found[int(number)].add(f"{path.relative_to(_ROOT)}::{name}")
    return found


@pytest.mark.parametrize("number", _STATEMENTS)
def test_the_page_lists_the_tests_of_each_statement(number):
    lines = (_ROOT / "docs" / "security.md").read_text().splitlines()
    (row,) = [each for each in lines if re.match(rf"\| {number} \| .*`tests/", each)]

    assert set(re.findall(r"`(tests/[^`]+)`", row)) == _tests_by_statement()[number]
