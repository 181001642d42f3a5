import os
import pwd

from config.operator import operator_name


def test_the_operator_is_the_account_that_runs_the_process_whatever_the_environment_says(monkeypatch):
    monkeypatch.delenv("SUDO_USER", raising=False)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody.else")

    assert operator_name() == pwd.getpwuid(os.getuid()).pw_name


def test_an_account_without_a_name_is_its_number(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)

    assert operator_name() == "user 4000000"


def test_who_became_root_by_sudo_is_named(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "ana")

    assert operator_name() == "root (sudo: ana)"


def test_an_ordinary_user_becomes_nobody_else_by_a_variable(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    monkeypatch.setenv("SUDO_USER", "ana")

    assert operator_name() == "user 4000000"
