"""Integration specs: the user's API specification as a form. What it asks for and no code does is refused, or named.

Each file in `config/integrations/` is one filled-in form; the sections of the template map to the fields of
`Spec`. This module reads the files, merges the defaults of `error_policy.yaml` and refuses a wrong form with
file, line and reason. It decides nothing about a delivery and reaches nothing but those files.

Source: the user's template "Especificação de Integração com API", read 2026-11-22. Its section 4 (the flow) is
the engine, 9 (tests) is `tests/`, 10.1 (libraries) is `pyproject.toml`, 13 (checklist) is `docs/`.
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.form_text import written_name
from config.marked_yaml import MarkedYaml, Problem, as_mapping, read_marked
from config.services import SERVICES
from config.spec import Spec
from config.spec_operations import ErrorRule, FieldRule, LookUp, Operation, StatusRule, Timeouts, Wait
from config.spec_sections import (
    BREAKER_IS_OPEN,
    Authentication,
    Breaker,
    Cache,
    Fallback,
    Limits,
    RetryBudget,
    Rollback,
    Rollout,
    TlsVersion,
    Window,
)
from config.spec_values import ERROR_CODES, Environment, Severity, Verdict
from config.spec_webhook import Shape, Signature, Webhook

__all__ = [
    "BREAKER_IS_OPEN",
    "ERROR_CODES",
    "Authentication",
    "Breaker",
    "Environment",
    "ErrorRule",
    "FieldRule",
    "Limits",
    "LookUp",
    "Operation",
    "Problem",
    "RetryBudget",
    "Rollback",
    "Rollout",
    "Severity",
    "Shape",
    "Signature",
    "Spec",
    "SpecError",
    "StatusRule",
    "Timeouts",
    "TlsVersion",
    "Verdict",
    "Wait",
    "Webhook",
    "Window",
    "load_specs",
    "read_spec",
    "spec_files",
    "tuned",
]

_HERE = Path(__file__).parent
_DEFAULTS = _HERE / "error_policy.yaml"
_INTEGRATIONS = _HERE / "integrations"


class SpecError(ValueError):
    """One or more integration specs cannot be used.

    Attributes:
        problems: Everything that was found wrong, in the order of files and lines.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda each: (str(each.file), each.line, each.reason)))
        listing = "\n".join(f"  {each}" for each in self.problems)
        super().__init__(
            f"{len(self.problems)} problem(s) in the integration specs; correct them and start again:\n{listing}"
        )

    def __reduce__(self) -> tuple[type["SpecError"], tuple[Sequence[Problem]]]:
        """Keep the problems when the error crosses a process border."""
        return type(self), (self.problems,)


def tuned(spec: Spec, *, timeout_s: float | None = None, most_retries: int | None = None) -> Spec:
    """Return the spec with the user's own numbers in place of the form's.

    Args:
        spec: The form as it was read.
        timeout_s: Total time of one call, from CRM_TIMEOUT; None keeps the form's.
        most_retries: No rule retries more often, from CRM_MAX_RETRIES; None keeps the form's.
    """
    operations = {kind: _with_timeout(each, timeout_s) for kind, each in spec.operations.items()}
    errors = {code: _with_cap(rule, most_retries) for code, rule in spec.errors.items()}
    return spec.model_copy(update={"operations": operations, "errors": errors})


def _with_timeout(operation: Operation, total_s: float | None) -> Operation:
    if total_s is None:
        return operation
    old = operation.timeouts
    shorter = {"connect_s": min(old.connect_s, total_s), "read_s": total_s, "total_s": total_s}
    return operation.model_copy(update={"timeouts": old.model_copy(update=shorter)})


def _with_cap(rule: ErrorRule, most: int | None) -> ErrorRule:
    return rule if most is None else rule.model_copy(update={"retries": min(rule.retries, most)})


def load_specs(folder: Path | None = None) -> Mapping[str, Spec]:
    """Read every integration form in a folder, by name.

    Args:
        folder: Another folder than the one we ship; the defaults of the error policy stay ours.

    Raises:
        SpecError: A form is wrong, two have the same name, or a service has none; names file, line and reason for each.
    """
    place, files = folder or _INTEGRATIONS, spec_files(folder)
    read = {file: _read(file) for file in files}
    problems = [each for _, found in read.values() for each in found]
    if not files:
        problems.append(Problem(place, 1, "holds no *.yaml; wanted at least one integration spec"))
    specs: dict[str, Spec] = {}
    for file, (spec, _) in read.items():
        if spec is not None and specs.setdefault(spec.name, spec) is not spec:
            problems.append(Problem(file, 1, f"name: another file already describes {spec.name!r}"))
    if not problems:
        problems += [
            Problem(place, 1, f"holds no spec of {each}; every service needs one: entrega spec new {each}")
            for each in SERVICES
            if each not in specs
        ]
    if problems:
        raise SpecError(problems)
    return specs


def spec_files(folder: Path | None = None) -> list[Path]:
    """Return the files that `load_specs` reads."""
    return sorted((folder or _INTEGRATIONS).glob("*.yaml"))


def read_spec(path: Path) -> Spec:
    """Read and check one integration form.

    Raises:
        SpecError: The form is wrong; names file, line and reason for every problem.
    """
    spec, problems = _read(path)
    if spec is None or problems:
        raise SpecError(problems)
    return spec


def _read(file: Path) -> tuple[Spec | None, tuple[Problem, ...]]:
    marked, defaults = read_marked(file), _defaults()
    found = (*marked.problems, *defaults.problems)
    if marked.root is None:
        return None, found or (Problem(file, 1, "is empty; wanted an integration spec"),)
    try:
        # By alias only: in a form a number of seconds says so in its name.
        return Spec.model_validate(_merged(marked.data, defaults.data), by_alias=True, by_name=False), found
    except ValidationError as err:
        return None, (*found, *(_problem(marked, each) for each in err.errors(include_url=False)))


@cache  # the same file for every form
def _defaults() -> MarkedYaml:
    return read_marked(_DEFAULTS)


def _merged(data: object, defaults: object) -> object:
    """Lay a spec's own error rules over the defaults, field by field."""
    own = as_mapping(data).get("errors", {})
    if not isinstance(data, Mapping) or not isinstance(own, Mapping):
        return data
    base = as_mapping(defaults)
    rules = {
        code: {**as_mapping(base.get(code)), **rule} if isinstance(rule, Mapping) else rule
        for code, rule in own.items()
    }
    return {**data, "errors": {**base, **rules}}


def _problem(marked: MarkedYaml, error: Mapping[str, Any]) -> Problem:
    loc = tuple(each for each in error["loc"] if each != "[key]")
    name = ".".join(str(each) for each in loc) or "the whole file"
    return Problem(marked.file, marked.line(loc), f"{name}: {_reason(error)}")


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field" + _nearest(str(error["loc"][-1]))
    if error["type"] == "missing":
        return "missing field; add it"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{error['msg'][0].lower()}{error['msg'][1:]}{_found(error)}"


def _found(error: Mapping[str, Any]) -> str:
    # Someone may have written a credential where the name of its variable belongs.
    if error["loc"][:1] == ("authentication",) or not isinstance(error["input"], str | int | float | bool):
        return f" (found a {type(error['input']).__name__})"
    return f" (found {error['input']!r:.60})"


def _nearest(word: str) -> str:
    near = difflib.get_close_matches(word, _field_names(), n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else "; remove it or correct its name"


def _field_names() -> list[str]:
    models = (
        Spec,
        Operation,
        ErrorRule,
        Timeouts,
        Wait,
        StatusRule,
        FieldRule,
        LookUp,
        Limits,
        Breaker,
        Fallback,
        Cache,
        Webhook,
        Signature,
        Shape,
    )
    return sorted({written_name(name, field) for model in models for name, field in model.model_fields.items()})
