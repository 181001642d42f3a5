"""Copies of the shipped forms with other limits, breakers and rollouts, for tests and benchmarks."""

from collections.abc import Mapping
from pathlib import Path

import yaml

import config.integrations


def write_forms(
    folder: Path,
    limits: Mapping[str, Mapping[str, object]] | None = None,
    breaker: Mapping[str, object] | None = None,
    rollout: Mapping[str, object] | None = None,
) -> None:
    """Write the forms into a folder, for ENTREGA_INTEGRATIONS.

    Args:
        limits: By service, as in a form, e.g. {"crm": {"per_second": 5}}; a service that is not named has none.
        breaker: What differs in every form's breaker, e.g. {"open_s": 3}.
        rollout: What differs in every form's rollout, e.g. {"shares": [0.5, 1.0]}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for form in Path(str(config.integrations.__file__)).parent.glob("*.yaml"):
        spec = yaml.safe_load(form.read_text(encoding="utf-8"))
        own = (limits or {}).get(spec["name"], {})
        spec["limits"] = {**own, "on_excess": spec["limits"]["on_excess"]}
        spec["worker_ceiling"] = f"{max(10_000, 10 * int(str(own.get('per_second', 0))))}/s"
        spec["breaker"] |= breaker or {}
        spec["rollout"] |= rollout or {}
        (folder / form.name).write_text(yaml.safe_dump(spec, allow_unicode=True), encoding="utf-8")
