"""ENTREGA_INTEGRATIONS: a folder of forms that replaces the shipped ones."""

import shutil
from datetime import date
from pathlib import Path

import pytest

import config.integrations
from config.form_text import new_form
from config.policy import SpecError
from config.settings import load_settings
from tasks.app import Entrega
from worker.life import begin

SHIPPED = Path(config.integrations.__file__).parent


def app_with(folder):
    app = Entrega("test")
    app.settings = load_settings({"entrega_integrations": folder, "redis_url": "redis://127.0.0.1:1/0"})
    return app


def test_the_forms_of_the_named_folder_are_used(tmp_path):
    shutil.copytree(SHIPPED, tmp_path, dirs_exist_ok=True)
    form = tmp_path / "whatsapp.yaml"
    form.write_text(form.read_text().replace("wait_s: 900", "wait_s: 15"))

    specs = app_with(tmp_path).specs

    assert specs["whatsapp"].operations["send_whatsapp"].look_up.wait.total_seconds() == 15


def test_a_folder_without_forms_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"holds no \*\.yaml"):
        _ = app_with(tmp_path).specs


def test_a_spec_that_cannot_be_served_ends_the_start_of_every_part_with_its_name(tmp_path):
    shutil.copytree(SHIPPED, tmp_path, dirs_exist_ok=True)
    (tmp_path / "meucrm.yaml").write_text(new_form("meucrm", date(2026, 11, 30)), encoding="utf-8")

    with pytest.raises(SystemExit, match=r"meucrm\.yaml:\d+: name: this version serves"):
        begin(app_with(tmp_path))
