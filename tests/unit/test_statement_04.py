"""Statement 4: secrets are compared in constant time. `==` tells by its time how many characters are right."""

import ast
import re
from pathlib import Path

HOME = Path(__file__).parents[2]
PRODUCT = (
    "client",
    "config",
    "delivery",
    "gates",
    "ingress",
    "ledger",
    "operations",
    "providers",
    "tasks",
    "telemetry",
    "worker",
)
SECRET = re.compile(r"(secret|password|passwd|token|signature|proof|hmac|mac|digest|api_key|key_hash|bearer)s?$")
# What is called like a secret and is none: a provider's receipt, and a piece of HTML. Stand-ins guard nothing.
PLAIN = {"proof != found", "token == '<!--'"}


def names(node):
    """Give the words that say what one side of a comparison is; of a call, what it is called on and with."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Call):
        called_on = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        for each in [*called_on, *node.args]:
            yield from names(each)


def is_secret(node):
    return any(SECRET.search(each) for each in names(node))


def is_plain(node):
    """None, True, a number and an empty text are no secrets; nor is the length of one."""
    is_length = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len"
    return is_length or (isinstance(node, ast.Constant) and not (isinstance(node.value, str) and node.value))


def unsafe(tree):
    for each in ast.walk(tree):
        if not isinstance(each, ast.Compare):
            continue
        sides = [each.left, *each.comparators]
        is_equality = any(isinstance(op, ast.Eq | ast.NotEq) for op in each.ops)
        is_bare = any(map(is_secret, sides)) and not any(map(is_plain, sides))
        if is_equality and is_bare and ast.unparse(each) not in PLAIN:
            yield f"{each.lineno}: {ast.unparse(each)}"


def test_statement_04_no_secret_is_compared_with_equals():
    files = [file for folder in PRODUCT for file in (HOME / folder).rglob("*.py")]

    found = {str(file.relative_to(HOME)): list(unsafe(ast.parse(file.read_text()))) for file in files}

    assert len(found) > 100
    assert {file: lines for file, lines in found.items() if lines} == {}


def test_statement_04_the_check_finds_what_it_looks_for():
    wrong = ["a.token == given", "secret != x", "digest.hexdigest() == header", "request.password == kept"]
    right = ["token is None", "token == ''", "len(token) == 3", "hmac.compare_digest(token, given)", "kind == 'oauth'"]

    assert all(list(unsafe(ast.parse(each))) for each in wrong)
    assert not any(list(unsafe(ast.parse(each))) for each in right)


def test_statement_04_webhooks_keys_and_callbacks_compare_in_constant_time():
    places = ("ingress/webhooks.py", "ingress/access.py", "client/entrega_client/callbacks.py")

    assert all("hmac.compare_digest(" in (HOME / each).read_text() for each in places)
