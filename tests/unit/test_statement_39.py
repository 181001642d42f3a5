"""Statement 39: no SQL is built from what comes from outside: values travel as parameters, and pieces are our own."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("config", "delivery", "gates", "ingress", "ledger", "operations", "providers", "sandbox", "tasks", "worker")
SQL = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|FROM|WHERE|JOIN|COPY|ALTER|TRUNCATE|DROP|COMMENT ON|SET|VALUES|CREATE)\b"
)
CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")
# What else may stand in a statement: names of tables, columns and types that our own code spells out. Before you add
# one, make sure that no value from a command, a request, a provider or an operator can get there.
OURS = {
    "ledger/backlogs.py": {"first", "has_key", "name", "ordered"},
    "ledger/backup.py": {"_quoted(columns)", "_quoted(part.columns)", "table"},
    "ledger/contacts.py": {"main", "other", "person"},
    "ledger/hashing.py": {"id_type", "table"},
    "ledger/retention.py": {"key", "key.partition('.')[2]", "lock", "old", "order", "self.old", "table"},
    "ledger/rewrapping.py": {
        "each.by_others",
        "self.by_others",
        "self.key",
        "self.key_type",
        "self.name",
        "self.table",
    },
    "ledger/schema.py": {"encoding"},
    "ledger/setting_aside.py": {"table"},
    # No statement: what a mail server is told.
    "providers/smtp/session.py": {"announced", "sender"},
}
MIGRATIONS = {"environment", "table"}


def built(source):
    """Return what is put into texts that look like SQL, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.JoinedStr(values=values) if looks_like_sql(values):
                parts = [each.value for each in values if isinstance(each, ast.FormattedValue)]
            case ast.BinOp(op=ast.Mod() | ast.Add(), left=ast.Constant() as left, right=right) if looks_like_sql(
                [left]
            ):
                parts = [right]
            case ast.Call(func=ast.Attribute(attr="format", value=ast.Constant() as text)) if looks_like_sql([text]):
                parts = [*node.args, *(each.value for each in node.keywords)]
            case _:
                continue
        found += [(node.lineno, each) for each in parts if not is_constant(each)]
    return [(line, ast.unparse(each)) for line, each in found]


def looks_like_sql(values):
    texts = [each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return SQL.search("".join(texts)) is not None


def is_constant(node):
    """Tell whether an expression is made of constants alone, also through a helper of the same kind."""
    match node:
        case ast.Constant():
            return True
        case ast.Name(id=name):
            return CONSTANT.fullmatch(name) is not None
        case ast.Call(func=ast.Name() | ast.Attribute(value=ast.Name()), args=args, keywords=[]):
            of = node.func.value if isinstance(node.func, ast.Attribute) else None
            return all(map(is_constant, args)) and (of is None or is_constant(of)) and bool(args)
    return False


def files():
    return sorted(each for name in PACKAGES for each in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_statement_39_no_statement_is_built_from_what_comes_from_outside(file):
    name = str(file.relative_to(ROOT))
    allowed = MIGRATIONS if "/migrations/" in name else OURS.get(name, set())

    assert [each for each in built(file.read_text()) if each[1] not in allowed] == []


@pytest.mark.parametrize(
    "source",
    [
        "text(f\"SELECT * FROM deliveries WHERE kind = '{kind}'\")",
        "text(\"SELECT * FROM deliveries WHERE kind = '%s'\" % kind)",
        'text("SELECT * FROM deliveries ORDER BY " + order)',
        'text("SELECT * FROM {}".format(table))',
        'connection.exec_driver_sql(f"DELETE FROM {request.table}")',
        'text(f"SELECT {column(kind)} FROM deliveries")',
        'text(f"SELECT * FROM deliveries {KNOWN.get(asked)}")',
    ],
)
def test_statement_39_the_check_finds_what_it_looks_for(source):
    assert built(source)


@pytest.mark.parametrize(
    "source", ['text(f"SELECT {_COLUMNS} FROM t")', "f\"FROM {names_of('d.person')}\"", 'f"from {x}"']
)
def test_statement_39_the_check_lets_constants_pass(source):
    assert not built(source)


def test_statement_39_nothing_on_the_list_is_left_over():
    used = {name: {each[1] for each in built((ROOT / name).read_text())} for name in OURS}

    assert {name: found for name, found in OURS.items() if found - used[name]} == {}
