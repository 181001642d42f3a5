"""Refuses what a route does not know or cannot take twice: query parameters, and headers that carry one value.

A parameter that is passed over may be the one that matters: `?dry_run=true` on a submit would really send.
"""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant

from delivery.errors import FieldIssue
from delivery.issues import field_name
from delivery.wording import issue_text
from ingress.problems import Problem, language_of

_ONE_VALUE = frozenset({"idempotency-key", "authorization", "x-api-key", "content-type"})


async def _check(request: Request) -> None:
    known = dict(_declared(request.scope["route"].dependant))
    wrong = [(name, "unknown_parameter") for name in request.query_params if name not in known]
    wrong += [
        (name, "given_twice")
        for name, takes_many in known.items()
        if not takes_many and len(request.query_params.getlist(name)) > 1
    ]
    wrong += [(name, "given_twice") for name in sorted(_ONE_VALUE) if len(request.headers.getlist(name)) > 1]
    if wrong:
        language = language_of(request.headers.get("accept-language", ""))
        issues = [FieldIssue(field_name((name,)), issue_text(code, language)) for name, code in wrong[:50]]
        raise Problem("invalid_command", details=issues)


def _declared(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Yield the query parameters of a route, each with whether it takes several values."""
    for each in dependant.query_params:
        yield each.alias, _is_list(each.field_info.annotation)
    for below in dependant.dependencies:
        yield from _declared(below)


def _is_list(annotation: Any) -> bool:
    return any(get_origin(each) is list for each in (annotation, *get_args(annotation)))


# Every router of our own begins with it. Webhooks do not: a provider may add parameters to the address it was given.
STRICT = [Depends(_check)]
