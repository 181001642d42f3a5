"""The client is a distribution of its own: it builds, it is typed, and it works where our code is not."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

HOME = Path(__file__).parents[3] / "client"


def test_the_wheel_stands_alone(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    # A copy, because setuptools leaves its traces beside the source.
    shutil.copytree(HOME, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    subprocess.run([*pip, "-w", str(tmp_path), str(tmp_path / "source")], check=True)
    (wheel,) = tmp_path.glob("entrega_client-*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    program = f"import sys; sys.path.insert(0, {str(wheel)!r}); import entrega_client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    loaded = {each.partition(".")[0] for each in done.stdout.split()}
    assert "entrega_client/py.typed" in names
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"entrega_client"}
    assert loaded & {"config", "delivery", "ledger", "providers", "tasks", "worker", "ingress", "sandbox"} == set()
