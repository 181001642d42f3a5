"""Walks what packages say that they need, and finds what a requirements file does not give them."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parents[3] / "requirements"
_LINE = re.compile(r"^[\w.-]+==[^\\\n]+", re.MULTILINE)

Environment = Mapping[str, str]


def environments() -> Iterator[Environment]:
    """Yield what markers are asked about, for each Python and platform that we run on."""
    systems = (("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64"))
    for (platform, system, machine), python in product(systems, ("3.11.0", "3.11.7", "3.12.0", "3.13.0", "3.14.0")):
        yield {
            "sys_platform": platform,
            "platform_system": system,
            "platform_machine": machine,
            "os_name": "posix",
            "python_version": python.rpartition(".")[0],
            "python_full_version": python,
            "implementation_name": "cpython",
            "implementation_version": python,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_version": "",
        }


def pins(file: str) -> list[Requirement]:
    """Return the lines of a requirements file."""
    return [Requirement(line.strip()) for line in _LINE.findall((FOLDER / file).read_text())]


def wishes(file: str) -> list[str]:
    """Return the lines of a file that people write, without their comments."""
    lines = (FOLDER / file).read_text().splitlines()
    return [line.partition("#")[0].strip() for line in lines if not line.startswith("#")]


def metadata() -> dict[str, list[Requirement]]:
    """Return what each pinned package needs, by `name==version`, in its own words."""
    written: dict[str, list[str]] = json.loads((FOLDER / "metadata.json").read_text())
    return {pin: [Requirement(need) for need in needs] for pin, needs in written.items()}


def missing(
    wanted: Iterable[Requirement],
    lines: Iterable[Requirement],
    needs: Mapping[str, list[Requirement]],
    environment: Environment,
) -> set[str]:
    """Return what somebody needs in this environment and no line gives, each as `need (of whom)`."""
    given = {canonicalize_name(line.name): line for line in lines if _applies(line, environment, "")}
    found: set[str] = set()
    seen: dict[str, set[str]] = defaultdict(set)
    open_needs = [(need, "the project", "") for need in wanted]
    while open_needs:
        need, owner, extra = open_needs.pop()
        if not _applies(need, environment, extra):
            continue
        name = canonicalize_name(need.name)
        line = given.get(name)
        if line is None or not need.specifier.contains(_version(line), prereleases=True):
            found.add(f"{need} (of {owner})")
            continue
        fresh = {"", *need.extras} - seen[name]
        seen[name] |= fresh
        pin = f"{name}=={_version(line)}"
        open_needs += [(each, pin, extra) for each in needs[pin] for extra in fresh]
    return found


def _applies(requirement: Requirement, environment: Environment, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra})


def _version(line: Requirement) -> str:
    return next(iter(line.specifier)).version
