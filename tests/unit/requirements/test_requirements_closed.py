"""An installation resolves nothing, so each requirements file has to name all that its packages need."""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from itertools import chain

import pytest
from closure import FOLDER, environments, metadata, missing, pins, wishes
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_PROJECT = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
_RUNTIME = _PROJECT["project"]["dependencies"]
_BUILD = _PROJECT["build-system"]["requires"]
_EXTRAS = _PROJECT["project"]["optional-dependencies"]
_TESTS = [need for need in _EXTRAS["dev"] if need != "entrega[sandbox]"]

_WANTED = {
    "runtime.txt": _RUNTIME,
    "dev.txt": [*_RUNTIME, *_BUILD, *_TESTS, *_EXTRAS["sandbox"]],
    "bench.txt": wishes("bench.in"),
    "build.txt": _BUILD,
}
_NEEDS = metadata()
_INSTALLED = {canonicalize_name(each.name): each for each in importlib.metadata.distributions()}


def _missing(file: str, lines: list[Requirement]) -> Iterator[str]:
    wanted = [Requirement(need) for need in _WANTED[file]]
    return chain.from_iterable(missing(wanted, lines, _NEEDS, each) for each in environments())


@pytest.mark.parametrize("file", _WANTED)
def test_a_file_names_all_that_its_packages_need_on_every_python_and_platform(file):
    assert set(_missing(file, pins(file))) == set()


@pytest.mark.parametrize("file", _WANTED)
def test_a_line_that_is_removed_is_missed(file):
    lines = pins(file)
    here = [line for line in lines if f"{line.name}{line.specifier}" in _NEEDS]

    unmissed = [line.name for line in here if not any(_missing(file, [each for each in lines if each is not line]))]

    assert unmissed == []


def test_a_version_that_another_package_refuses_is_found():
    lines = [Requirement("celery==4.0.0") if line.name == "celery" else line for line in pins("runtime.txt")]

    assert "celery<5.8,>=5.7 (of the project)" in _missing("runtime.txt", lines)


def test_what_only_an_extra_needs_is_found():
    lines = [line for line in pins("runtime.txt") if line.name != "cryptography"]
    wanted = [Requirement("mcp")]

    assert any(
        need.startswith("cryptography") and "(of pyjwt==" in need
        for each in environments()
        for need in missing(wanted, lines, _NEEDS, each)
    )


@pytest.mark.parametrize("file", _WANTED)
def test_statement_53_every_line_has_hashes_and_no_address_and_no_extra(file):
    text = (FOLDER / file).read_text()
    lines = pins(file)

    assert "://" not in text
    assert not any(line.extras for line in lines)
    assert len(lines) == text.count("==") - text.count("== '")
    assert text.count(" \\\n    --hash=sha256:") >= len(lines)


def _vulnerable(lines: list[Requirement]) -> list[str]:
    floors = {floor.name: floor.specifier for floor in map(Requirement, wishes("advisories.in"))}
    known = [line for line in lines if line.name in floors]
    return [str(line) for line in known if next(iter(line.specifier)).version not in floors[line.name]]


@pytest.mark.parametrize("file", _WANTED)
def test_statement_53_no_line_is_a_version_that_is_known_to_be_vulnerable(file):
    assert _vulnerable(pins(file)) == []


def test_a_vulnerable_version_is_seen():
    assert _vulnerable([Requirement("requests==2.32.0"), Requirement("urllib3==2.8.0")]) == ["requests==2.32.0"]


def test_the_image_resolves_nothing_either():
    steps = (FOLDER.parent / "Dockerfile").read_text().replace("\\\n", " ").replace("&&", "\n").splitlines()
    commands = [step for step in steps if re.search(r"\bpip\b.* (install|wheel) ", step)]

    assert len(commands) == 4  # the builder's packages, ours, our wheel, its installation
    assert all("--no-deps" in each for each in commands)
    assert all("--require-hashes" in each for each in commands if " -r " in each)
    assert [each for each in commands if " wheel " in each and "--no-build-isolation" in each]
    assert all("/wheels/" in each or " -r " in each for each in commands if " install " in each)


def test_the_same_versions_are_tested_and_shipped():
    shipped, tested = ({line.name: line.specifier for line in pins(file)} for file in ("runtime.txt", "dev.txt"))

    assert {name: tested.get(name) for name in shipped} == shipped


def test_the_recorded_needs_are_those_of_the_installed_packages():
    pinned = {
        line.name: str(line.specifier)
        for line in pins("dev.txt")
        if line.name in _INSTALLED and _INSTALLED[line.name].version in line.specifier
    }

    recorded = {name: _NEEDS[f"{name}{version}"] for name, version in pinned.items()}

    assert recorded
    assert recorded == {name: [Requirement(each) for each in _INSTALLED[name].requires or ()] for name in pinned}
