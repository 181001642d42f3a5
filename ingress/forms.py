"""`entrega spec`: check the integration forms, show the policy in force, begin a form, print one as a page."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingress.shell import NOT_WELL, REFUSED, WRONG_USE, Json, fail, print_json

if TYPE_CHECKING:
    from config.policy import Problem, Spec
    from config.settings import Settings

forms = typer.Typer(help="Integration forms: check, show, begin, print as a page.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A service, e.g. crm, or the path of a form.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write it here; a file that exists is not touched.")]


@forms.command("check")
def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Forms; those in use when left out.")] = None,
    as_json: Json = False,
) -> None:
    """Check forms; each problem is told with file, line and reason, and so is each key that this version does not use.

    Example: entrega spec check config/integrations/crm.yaml
    """
    from config.policy import SpecError, load_specs, read_spec, spec_files
    from config.settings import load_settings
    from config.unused import unused_keys

    folder = None if files else load_settings().entrega_integrations
    good, problems, unused = list[str](), list["Problem"](), list["Problem"]()
    for each in files or spec_files(folder):
        try:
            spec = read_spec(each)
        except SpecError as err:
            problems += err.problems
        else:
            good.append(spec.name)
            unused += unused_keys(each, spec)
    if not files and not problems:
        try:
            load_specs(folder)  # all of them together
        except SpecError as err:
            problems += err.problems
    _say_checked(good, problems, unused, as_json=as_json)
    raise typer.Exit(NOT_WELL if problems else 0)


def _say_checked(
    good: Sequence[str], problems: Sequence["Problem"], unused: Sequence["Problem"], *, as_json: bool
) -> None:
    from ingress.printing import say

    if as_json:
        found = {"problems": problems, "not_used": unused}
        print_json({"well": good} | {name: [_facts(each) for each in listed] for name, listed in found.items()})
        return
    for each in (*unused, *problems):
        say(str(each))
    say(f"{len(good)} forms are well" + (f": {', '.join(good)}." if good else "."))


@forms.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show the policy that is in force: the form with the defaults and the environment's numbers filled in.

    Example: entrega spec show crm
    """
    from config.form_text import as_form, form_yaml
    from config.settings import load_settings

    settings = load_settings()
    spec = _found(name, settings)
    missing = settings.configured_services().get(spec.name, ())
    try:
        url = spec.base_url(settings.entrega_env, settings.urls())
    except LookupError:
        url = None
    if as_json:
        print_json({"environment": settings.entrega_env, "url": url, "missing": missing, "form": as_form(spec)})
        return
    typer.echo(
        f"# {settings.entrega_env}: {url or 'no base URL'}" + "".join(f"\n# missing: {each}" for each in missing)
    )
    typer.echo(form_yaml(spec), nl=False)


@forms.command("new")
def new(
    name: Annotated[str, typer.Argument(help="The service, e.g. crm.")],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Write a new form, NAME.yaml here unless told otherwise: filled in, and every field explained.

    This version serves crm, whatsapp, email and callback. Another service also needs code: its form is refused.

    Example: entrega spec new crm
    """
    from datetime import UTC, datetime

    from config.form_text import new_form
    from config.services import name_issue

    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        fail("A service is a word of lower-case letters, digits and _, such as erp.", WRONG_USE)
    file = out or Path(f"{name}.yaml")
    _write(file, new_form(name, datetime.now(UTC).date()))
    issue = name_issue(name)
    next_step = f" It cannot be used yet: {issue}." if issue else f" Fill it in, then: entrega spec check {file}"
    _say_written(file, next_step, as_json=as_json)


@forms.command("doc")
def doc(name: Name, out: Out = None, as_json: Json = False) -> None:
    """Print a form as a Markdown page in the shape of the API specification template, or write it to a file.

    Example: entrega spec doc crm --out crm.md
    """
    from config.settings import load_settings
    from ingress.form_page import form_page

    page = form_page(_found(name, load_settings()))
    if out:
        _write(out, page)
        _say_written(out, "", as_json=as_json)
    elif as_json:
        print_json({"page": page})
    else:
        typer.echo(page, nl=False)


def _found(name: str, settings: "Settings") -> "Spec":
    from config.policy import load_specs, read_spec, tuned

    if name.endswith((".yaml", ".yml")):
        return read_spec(Path(name))
    specs = load_specs(settings.entrega_integrations)
    if name not in specs:
        fail(f"There is no form {name!r}; there are: {', '.join(specs)}", WRONG_USE)
    if name != "crm":
        return specs[name]
    return tuned(specs[name], timeout_s=settings.crm_timeout, most_retries=settings.crm_max_retries)


def _facts(problem: "Problem") -> dict[str, object]:
    return {"file": str(problem.file), "line": problem.line, "reason": problem.reason}


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        fail(f"{file} exists already and was left as it is; name another with --out.", REFUSED)
    except OSError as err:
        fail(f"{file} cannot be written: {err.strerror}. Name another with --out.", REFUSED)


def _say_written(file: Path, next_step: str, *, as_json: bool) -> None:
    from ingress.printing import say

    print_json({"written": str(file)}) if as_json else say(f"{file} is written.{next_step}")
