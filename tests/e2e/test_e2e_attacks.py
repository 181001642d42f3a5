"""The short version of `make attack`: no known attack harms a running system."""

from tests.attacks.run import main


def test_no_known_attack_harms_a_running_system(capfd):
    exit_code = main(["--short"])

    assert exit_code == 0, capfd.readouterr().out
