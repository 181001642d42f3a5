"""A wrong form is refused with file, line and reason for everything that is wrong."""

import pickle
from pathlib import Path

import pytest

import config.policy
from config.policy import SpecError, load_specs, read_spec

CRM = (Path(config.policy.__file__).parent / "integrations" / "crm.yaml").read_text(encoding="utf-8")


def _line(text: str, marker: str) -> int:
    return text[: text.index(marker)].count("\n") + 1


def _wrong(folder: Path, old: str, new: str) -> Path:
    assert CRM.count(old) == 1, f"the marker {old!r} must stand once in crm.yaml"
    file = folder / "crm.yaml"
    file.write_text(CRM.replace(old, new), encoding="utf-8")
    return file


def _refusal(file: Path) -> SpecError:
    with pytest.raises(SpecError) as caught:
        read_spec(file)
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "marker", "reason"),
    [
        ("trials: 3 ", "trails: 3 ", "trails", "breaker.trails: unknown field; did you mean trials?"),
        ("owner: integrations team", "onwer: x\nowner: y", "onwer", "onwer: unknown field; did you mean owner?"),
        ("    idempotent: true ", "    about: true ", "  create_lead:", "operations.create_lead.idempotent: missing"),
        ("  trials: 3 ", "  # trials: 3 ", "breaker:", "breaker.trials: missing field; add it"),
        ("  trials: 3 ", "  trials: three ", "trials: three", "breaker.trials: input should be a valid integer"),
        ("  trials: 3 ", "  trials: '3' ", "trials: '3'", "(found '3')"),
        ("  trials: 3 ", "  trials: 0 ", "trials: 0", "greater than or equal to 1 (found 0)"),
        ("failure_ratio: 0.5", "failure_ratio: 50", "failure_ratio", "less than or equal to 1 (found 50)"),
        ("window_s: 60", "window_s: -1", "window_s", "breaker.window_s: wanted seconds between 0"),
        ("window_s: 60", "window: 60", "window: 60", "breaker.window: unknown field; did you mean window_s?"),
        ("      connect_s: 5 ", "      connect_s: 31 ", "    timeouts:", "total_s must not be shorter"),
        ('X-API-Version: "1.0"', "X-API-Version: 1.0", "X-API-Version", "input should be a valid string (found 1.0)"),
        ('X-API-Version: "1.0"', "Authorization: abc", "    headers:", "credentials belong under authentication"),
        ("path: /api/v1/leads\n    headers", "path: leads\n    headers", "path: leads", 'a path that starts with "/"'),
        ("      4xx: {", "      6xx: {", "      6xx", "unknown status or status class"),
        ("      4xx: {", "      499: {", "    statuses:", "no rule for 4xx"),
        ("code: conflict}", "code: conflcit}", "      409:", "409.code: unknown error code; known: not_sent"),
        (
            "permanent, code: conflict}",
            "success, code: ok}",
            "    statuses:",
            "409: only a 2xx status can be a success",
        ),
        ("code: conflict}", "code: ok}", "      409:", 'code "ok" and verdict "success" go together'),
        ("verdict: permanent, code: conflict}", "verdict: maybe, code: conflict}", "      409:", "409.verdict: input"),
        ("errors: {}", "errors: {timeout: {retries: 1}}", "errors: {", "errors.timeout: unknown error code"),
        ("errors: {}", "errors: {unavailable: {retries: many}}", "errors: {", "errors.unavailable.retries: input"),
        ("errors: {}", "errors: [unavailable]", "errors: [", "errors: input should be a valid"),
        (
            "errors: {}",
            "errors: {unavailable: {wait: {shape: linear, first_s: 9, longest_s: 1}}}",
            "errors: {",
            "longest_s must be at least first_s",
        ),
        (
            "limits:\n  most_due:",
            "limits:\n  per_second: 5000\n  most_due:",
            "worker_ceiling",
            "at least 10 times the limit of 5000/s",
        ),
        ('production: "${CRM_API_URL}"', "production: http://127.0.0.1", "base_urls:", "for the sandbox only"),
        ('production: "${CRM_API_URL}"', "production: ftp://crm.example", "production:", "wanted https://, smtp://"),
        ('  production: "${CRM_API_URL}"', "", "base_urls:", "no base URL for production"),
        ("client_secret: CRM_CLIENT_SECRET", "id: CRM_ID", "authentication:", "also needs client_secret"),
        ("  token_life_s: 7200", "", "authentication:", "also needs token_life"),
        ("adapter: crm_rest", "adapter: crm_soap", "adapter:", "'crm_rest', 'whatsapp_cloud', 'smtp' or 'callback'"),
        ("      items: items", "", "    look_up:", "a look-up by query needs path, query and items"),
        ("enum: [produto_a, produto_b,", "enum: [produto_a, produto_a,", "      interesse:", "an entry stands twice"),
        ("shares: [0.1, 0.5, 1.0]", "shares: [0.5, 0.1, 1.0]", "  shares:", "larger than the one before"),
        ("shares: [0.1, 0.5, 1.0]", "shares: [0.1, 0.5]", "  shares:", "and the last one 1.0"),
        ("criticality: high", "criticality: huge", "criticality:", "overview.criticality: input should be 'critical'"),
        ("criticality: high", "criticality: no", "criticality:", "overview.criticality: input should be 'critical'"),
        ("updated: 2026-11-22", "updated: 2026-13-40", "updated:", "updated: wanted a day"),
        ("owner: integrations team", "name: other", "name: other", "name: written twice (first on line"),
        ("owner: integrations team", "owner: [open", "", "not valid YAML: "),
        ("owner: integrations team", "owner: !!python/name:os.system x", "owner:", "could not determine a constructor"),
    ],
)
def test_a_wrong_form_is_refused_with_file_line_and_reason(
    tmp_path: Path, old: str, new: str, marker: str, reason: str
) -> None:
    file = _wrong(tmp_path, old, new)

    refusal = _refusal(file)

    expected = [each for each in refusal.problems if reason in each.reason]
    assert expected, str(refusal)
    assert f"{file}:{expected[0].line}: " in str(refusal)
    assert not marker or expected[0].line == _line(file.read_text(encoding="utf-8"), marker), str(refusal)


def test_every_problem_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CRM.replace("trials: 3 ", "trials: x ").replace("window_s: 60", "window: 60"))
    (tmp_path / "b.yaml").write_text("name: [unclosed\n")

    with pytest.raises(SpecError) as caught:
        load_specs(tmp_path)

    assert {each.file.name for each in caught.value.problems} == {"a.yaml", "b.yaml"}
    assert len(caught.value.problems) == 4


def test_what_stands_under_authentication_is_never_quoted(tmp_path: Path) -> None:
    file = _wrong(tmp_path, "client_secret: CRM_CLIENT_SECRET", "client_secret: hunter2-pasted-by-mistake")

    refusal = _refusal(file)

    assert "authentication.variables.client_secret" in str(refusal)
    assert "hunter2" not in str(refusal)


def test_two_files_may_not_describe_the_same_service(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CRM, encoding="utf-8")
    (tmp_path / "b.yaml").write_text(CRM, encoding="utf-8")

    with pytest.raises(SpecError, match=r"b\.yaml:1: name: another file already describes 'crm'"):
        load_specs(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="wanted at least one integration spec"):
        load_specs(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty; wanted an integration spec"),
        (b"- a list\n", "the whole file: input should be a valid dictionary"),
        (b"\xff\xfe", "cannot be read (UnicodeDecodeError)"),
        (b"a: &a [*a]\n", "a: unknown field"),
    ],
)
def test_a_file_that_is_no_form_at_all_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "crm.yaml"
    file.write_bytes(content)

    assert reason in str(_refusal(file))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read (FileNotFoundError)" in str(_refusal(tmp_path / "none.yaml"))


def test_a_form_overrides_single_parts_of_a_default_rule(tmp_path: Path) -> None:
    file = _wrong(tmp_path, "errors: {}", "errors: {unavailable: {retries: 9}}")

    rule = read_spec(file).rule("unavailable")

    assert (rule.retries, rule.wait.shape, rule.breaker) == (9, "linear", True)


def test_an_operation_without_key_and_look_up_is_not_idempotent(tmp_path: Path) -> None:
    start, end = CRM.index("    idempotency_header:"), CRM.index("    idempotent: true")
    file = tmp_path / "crm.yaml"
    file.write_text(CRM[:start] + CRM[end:], encoding="utf-8")

    assert "idempotent: an idempotent operation needs idempotency_header or look_up" in str(_refusal(file))


def test_a_sandbox_may_be_reached_by_plain_http_on_this_machine(tmp_path: Path) -> None:
    file = _wrong(tmp_path, 'sandbox: "${CRM_API_URL}"', "sandbox: http://127.0.0.1:8000/")

    assert read_spec(file).base_url("sandbox") == "http://127.0.0.1:8000"


@pytest.mark.parametrize(("word", "meaning"), [("critica", "critical"), ("Média", "medium"), ("baixa", "low")])
def test_criticality_may_be_written_in_the_words_of_the_template(tmp_path: Path, word: str, meaning: str) -> None:
    file = _wrong(tmp_path, "criticality: high", f"criticality: {word}")

    assert read_spec(file).overview.criticality == meaning


def test_a_spec_error_survives_the_border_between_processes(tmp_path: Path) -> None:
    refusal = _refusal(tmp_path / "none.yaml")

    assert str(pickle.loads(pickle.dumps(refusal))) == str(refusal)  # noqa: S301 - our own bytes
