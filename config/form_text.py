"""Forms as text: a checked form written out again as a form, and a new one to start from."""

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from config.spec_values import Section

_HERE = Path(__file__).parent


def as_form(section: Section) -> dict[str, Any]:
    """Return a section as plain values under the names that a form uses; what is not set is left out."""
    fields = type(section).model_fields.items()
    found = {written_name(name, field): _plain(getattr(section, name)) for name, field in fields}
    return {name: value for name, value in found.items() if value is not None}


def form_yaml(section: Section) -> str:
    """Return a section as YAML: read again, it is the same section."""
    return yaml.safe_dump(as_form(section), sort_keys=False, allow_unicode=True, width=120)


def new_form(name: str, today: date) -> str:
    """Return the text of a new form, filled in: the shipped one of a service, else one that explains every field.

    For `crm`, and for a name that this version cannot serve yet, it is the one that explains.
    """
    shipped = _HERE / "integrations" / f"{name}.yaml"
    if name != "crm" and shipped.exists():
        return shipped.read_text(encoding="utf-8")
    text = (_HERE / "form_template.yaml").read_text(encoding="utf-8")
    return text.replace("my_integration", name).replace("2026-01-01", today.isoformat())


def written_name(name: str, field: FieldInfo) -> str:
    """Return a field's name in a form, e.g. `wait_s` for `wait`."""
    alias = field.validation_alias
    return alias if isinstance(alias, str) else name


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return as_form(value)
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        return int(seconds) if seconds.is_integer() else seconds
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, date) else value
