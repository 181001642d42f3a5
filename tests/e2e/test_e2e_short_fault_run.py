"""A short run of the fault suite. `make faults` runs it at full size, with seeds of its own."""

import json

from tests.faults.run import main

SEED = 20261122


def test_a_short_fault_run_loses_and_doubles_nothing(tmp_path):
    size = ["--deliveries", "300", "--faults", "12", "--control", "40", "--minutes", "12"]

    code = main(["--seed", str(SEED), *size, "--results", str(tmp_path)])

    kept = json.loads((tmp_path / "last-run.json").read_text())
    (run,) = kept["seeds"]
    assert [each for each in run["promises"] if each["broken"]] == []
    assert (run["lost"], run["doubled"], run["whole"]) == (0, 0, True)
    assert len({each["kind"] for each in run["faults"]}) >= 8
    assert kept["control"]["lost"] + kept["control"]["doubled"] > 0
    assert code == 0
