"""Write every requirements file, and what its packages say that they need: `make requirements`.

Each file is a closed set: it names everything that is installed, with hashes and without addresses, so that an
installation resolves nothing. `metadata.json` holds what each package needs in its own words (`Requires-Dist`). With it
`tests/unit/requirements` sees that no file lacks a line, also for platforms and Pythons other than the one at hand.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

_FOLDER = Path(__file__).parent
_PINNED = re.compile(r"^([\w.-]+==\S+)(.*)$", re.MULTILINE)
# The lines for other platforms cannot be fetched here, and are never installed: Entrega runs on Linux and macOS.
_ELSEWHERE = re.compile(r"sys_platform == '(win32|emscripten)'")
_COMPILE = (
    *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
    *("--generate-hashes", "--no-emit-index-url", "--no-header"),
)


def main() -> None:
    """Resolve each file anew, keeping what is pinned unless `-U` or `-P NAME` say otherwise."""
    project = tomllib.loads((_FOLDER.parent / "pyproject.toml").read_text())
    _compile("runtime.txt", "pyproject.toml")
    _compile("dev.txt", "pyproject.toml", "--extra", "dev")
    _compile("bench.txt", "requirements/bench.in")
    _compile("build.txt", "-", given="\n".join(project["build-system"]["requires"]))
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        needs = {pin: need for file in _FOLDER.glob("*.txt") for pin, need in _needs(Path(folder), file)}
    (_FOLDER / "metadata.json").write_text(json.dumps(needs, indent=1, sort_keys=True) + "\n")


def _compile(file: str, *source: str, given: str = "") -> None:
    command = [*_COMPILE, *sys.argv[1:], *source, "-o", f"requirements/{file}"]
    subprocess.run(command, input=given, text=True, check=True, cwd=_FOLDER.parent, stdout=subprocess.DEVNULL)


def _needs(venv_folder: Path, file: Path) -> Iterator[tuple[str, list[str]]]:
    pins = [pin for pin, marker in _PINNED.findall(file.read_text()) if not _ELSEWHERE.search(marker)]
    report = venv_folder / "report.json"
    pip = [str(venv_folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]
    subprocess.run([*pip, "--report", str(report), *pins], check=True)
    for each in json.loads(report.read_text())["install"]:
        about = each["metadata"]
        name = re.sub(r"[-_.]+", "-", about["name"]).lower()
        yield f"{name}=={about['version']}", about.get("requires_dist", [])


if __name__ == "__main__":
    main()
