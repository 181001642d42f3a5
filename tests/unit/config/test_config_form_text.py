from datetime import date
from types import UnionType
from typing import get_args

import pytest

from config.form_text import as_form, form_yaml, new_form, written_name
from config.policy import Spec, SpecError, load_specs, read_spec
from config.spec_values import Section

TODAY = date(2026, 11, 22)


def sections(kind):
    """Return every section that lies within a type, itself among them."""
    inner = set().union(*(sections(each) for each in get_args(kind))) if get_args(kind) else set()
    if not isinstance(kind, type) or isinstance(kind, UnionType) or not issubclass(kind, Section):
        return inner
    fields = [field.annotation for field in kind.model_fields.values()]
    return inner | {kind} | set().union(*(sections(each) for each in fields))


ALL_FIELDS = sorted({written_name(name, field) for each in sections(Spec) for name, field in each.model_fields.items()})


@pytest.fixture
def template(tmp_path):
    file = tmp_path / "crm.yaml"
    file.write_text(new_form("crm", TODAY), encoding="utf-8")
    return file


def test_a_new_form_of_the_crm_is_accepted_as_it_is(template):
    spec = read_spec(template)

    assert (spec.name, spec.updated) == ("crm", TODAY)


@pytest.mark.parametrize("service", ["whatsapp", "email", "callback"])
def test_a_new_form_of_another_service_is_the_shipped_one(tmp_path, service):
    (tmp_path / "new.yaml").write_text(new_form(service, TODAY), encoding="utf-8")

    assert read_spec(tmp_path / "new.yaml") == load_specs()[service]


def test_a_new_form_of_a_service_that_has_no_code_is_refused_by_its_name(tmp_path):
    (tmp_path / "erp.yaml").write_text(new_form("erp", TODAY), encoding="utf-8")

    with pytest.raises(SpecError, match="serves crm, whatsapp, email, callback and no service 'erp'"):
        read_spec(tmp_path / "erp.yaml")


@pytest.mark.parametrize("field", ALL_FIELDS)
def test_a_new_form_shows_every_field(template, field):
    assert f"{field}:" in template.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["crm", "whatsapp", "email"])
def test_a_form_that_is_written_out_is_the_same_form(tmp_path, name):
    spec = load_specs()[name]
    (tmp_path / "again.yaml").write_text(form_yaml(spec), encoding="utf-8")

    assert read_spec(tmp_path / "again.yaml") == spec


def test_durations_are_seconds_under_the_names_of_the_form():
    form = as_form(load_specs()["crm"])

    assert (form["breaker"]["open_s"], form["errors"]["not_sent"]["wait"]["longest_s"]) == (30, 30)
