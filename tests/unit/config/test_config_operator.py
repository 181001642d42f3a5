import getpass

from config.operator import operator_name


def test_the_operator_is_the_user_of_the_machine(monkeypatch):
    monkeypatch.setenv("LOGNAME", "ana")

    assert operator_name() == "ana"


def test_where_the_machine_knows_no_name_the_operator_is_called_so(monkeypatch):
    def unknown():
        raise OSError("no username set in the environment")

    monkeypatch.setattr(getpass, "getuser", unknown)

    assert operator_name() == "operator"
