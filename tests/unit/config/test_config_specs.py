"""What the four shipped integration forms promise."""

from datetime import timedelta

import pytest

from config.policy import ERROR_CODES, Spec, Wait, load_specs, tuned

SHIPPED = load_specs()


@pytest.fixture
def crm() -> Spec:
    return SHIPPED["crm"]


@pytest.fixture
def whatsapp() -> Spec:
    return SHIPPED["whatsapp"]


@pytest.fixture
def email() -> Spec:
    return SHIPPED["email"]


def test_the_four_shipped_forms_load_without_a_problem() -> None:
    adapters = {name: spec.adapter for name, spec in SHIPPED.items()}

    assert adapters == {"crm": "crm_rest", "whatsapp": "whatsapp_cloud", "email": "smtp", "callback": "callback"}


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_form_has_a_rule_for_every_error_code(name: str) -> None:
    assert set(SHIPPED[name].errors) == set(ERROR_CODES)


@pytest.mark.parametrize(
    ("code", "retries", "rule"),
    [
        ("not_sent", 3, ("exponential", "park", True, None)),
        ("certificate", 0, ("fixed", "hold", False, "P1")),
        ("misconfigured", 0, ("fixed", "hold", False, "P1")),
        ("redirected", 0, ("fixed", "dead", False, "P1")),
        ("answer_lost", 3, ("exponential", "park", True, None)),
        ("server_error", 3, ("exponential", "park", True, None)),
        ("gateway_error", 3, ("exponential", "park", True, None)),
        ("unavailable", 5, ("linear", "park", True, None)),
        ("rate_limited", 5, ("exponential", "park", False, "P2")),
        ("pair_limited", 4, ("exponential", "park", False, None)),
        ("unauthorized", 1, ("fixed", "hold", False, "P1")),
        ("forbidden", 0, ("fixed", "dead", False, "P1")),
        ("invalid", 0, ("fixed", "dead", False, None)),
        ("not_found", 0, ("fixed", "dead", False, None)),
        ("conflict", 0, ("fixed", "dead", False, None)),
        ("temporary", 3, ("exponential", "park", False, None)),
        ("lease_lost", 3, ("exponential", "dead", False, "P1")),
        ("unknown", 0, ("fixed", "dead", False, "P2")),
    ],
)
def test_the_crm_follows_the_error_table_of_the_users_specification(
    crm: Spec, code: str, retries: int, rule: tuple[str, str, bool, str | None]
) -> None:
    found = crm.rule(code)

    assert found.retries == retries
    assert (found.wait.shape, found.spent, found.breaker, found.alert) == rule


@pytest.mark.parametrize(
    ("status", "verdict", "code"),
    [
        (200, "success", "ok"),
        (201, "success", "ok"),
        (302, "permanent", "redirected"),
        (400, "permanent", "invalid"),
        (401, "retryable", "unauthorized"),
        (403, "permanent", "forbidden"),
        (404, "permanent", "not_found"),
        (409, "permanent", "conflict"),
        (418, "permanent", "invalid"),
        (422, "permanent", "invalid"),
        (429, "retryable", "rate_limited"),
        (500, "ambiguous", "server_error"),
        (502, "ambiguous", "gateway_error"),
        (503, "retryable", "unavailable"),
        (504, "ambiguous", "gateway_error"),
        (599, "ambiguous", "server_error"),
        (999, "ambiguous", "server_error"),
    ],
)
def test_a_crm_status_is_judged_by_its_own_row_or_by_its_class(crm: Spec, status: int, verdict: str, code: str) -> None:
    rule = crm.operations["create_lead"].status(status)

    assert (rule.verdict, rule.code) == (verdict, code)


def test_a_lead_may_be_sent_again_because_the_crm_recognises_a_repeat(crm: Spec) -> None:
    lead = crm.operations["create_lead"]

    assert (lead.idempotent, lead.idempotency_header, lead.on_uncertain) == (True, "Idempotency-Key", "resend")
    assert lead.look_up is not None
    assert dict(lead.look_up.query) == {"external_id": "{delivery_id}"}


def test_the_crm_names_the_interests_that_a_lead_may_have(crm: Spec) -> None:
    choices = crm.operations["create_lead"].choices()

    assert choices == {"interesse": ("produto_a", "produto_b", "servico_x")}


def test_an_uncertain_whatsapp_message_is_held_and_never_sent_twice(whatsapp: Spec) -> None:
    message = whatsapp.operations["send_whatsapp"]

    assert (message.idempotent, message.on_uncertain) == (False, "hold")


def test_whatsapp_is_limited_for_the_number_and_for_each_recipient(whatsapp: Spec) -> None:
    (number,) = whatsapp.limits.windows()
    (pair,) = whatsapp.limits.per_recipient

    assert (number.calls, number.every) == (80, timedelta(seconds=1))
    assert (pair.calls, pair.every, pair.burst) == (1, timedelta(seconds=6), 45)


def test_whatsapp_says_which_version_of_the_graph_api_it_speaks(whatsapp: Spec) -> None:
    assert whatsapp.api_version == "v26.0"
    assert whatsapp.base_url("production") == "https://graph.facebook.com"


def test_the_wait_after_too_many_messages_to_one_person_is_four_times_longer_each_time(whatsapp: Spec) -> None:
    wait = whatsapp.rule("pair_limited").wait

    assert [wait.step(retry).total_seconds() for retry in range(1, 6)] == [1, 4, 16, 64, 256]


def test_an_email_waits_longest_for_the_reply_after_the_final_dot(email: Spec) -> None:
    timeouts = email.operations["send_email"].timeouts

    assert (timeouts.connect_s, timeouts.read_s, timeouts.final_reply_s) == (10, 60, 300)
    assert timeouts.total_s > 300


@pytest.mark.parametrize("name", ["whatsapp", "email"])
def test_a_refused_login_without_renewal_is_not_tried_again(name: str) -> None:
    rule = SHIPPED[name].rule("unauthorized")

    assert (rule.retries, rule.spent, rule.alert) == (0, "hold", "P1")


def test_a_greylisted_email_goes_straight_to_the_fallback_queue(email: Spec) -> None:
    rule = email.rule("temporary")

    assert (rule.retries, rule.spent) == (0, "park")


@pytest.mark.parametrize("name", ["crm", "whatsapp", "email"])
def test_the_fallback_queue_waits_longer_each_time_and_gives_up_after_a_day(name: str) -> None:
    spec = SHIPPED[name]

    assert [each.total_seconds() for each in spec.parking] == [60, 300, 900, 3600, 10800, 21600]
    assert spec.expires_after == timedelta(hours=24)


@pytest.mark.parametrize("name", ["crm", "whatsapp", "email"])
def test_the_breaker_has_the_numbers_of_the_users_specification(name: str) -> None:
    breaker = SHIPPED[name].breaker

    assert (breaker.failure_ratio, breaker.close_ratio, breaker.trials) == (0.5, 0.7, 3)
    assert (breaker.window, breaker.open_for) == (timedelta(seconds=60), timedelta(seconds=30))


@pytest.mark.parametrize("name", ["crm", "whatsapp", "email"])
def test_every_form_holds_the_five_alerts_of_the_template(name: str) -> None:
    severities = {alert: rule.severity for alert, rule in SHIPPED[name].alerts.items()}

    assert severities == {
        "high_error_rate": "P1",
        "slow_response": "P2",
        "rate_limit_hit": "P2",
        "auth_failure": "P1",
        "breaker_open": "P0",
    }


@pytest.mark.parametrize(
    ("code", "verdict", "status", "counts"),
    [
        ("unavailable", "retryable", 503, True),
        ("not_sent", "retryable", None, True),
        ("answer_lost", "ambiguous", None, True),
        ("gateway_error", "ambiguous", 408, False),
        ("rate_limited", "retryable", 429, False),
        ("invalid", "permanent", 400, False),
        ("a code nobody knows", "permanent", 500, False),
    ],
)
def test_only_failures_of_the_provider_count_for_the_breaker(
    crm: Spec, code: str, verdict: str, status: int | None, *, counts: bool
) -> None:
    assert crm.counts_for_breaker(code, verdict, status) is counts  # type: ignore[arg-type] # the table holds plain str


def test_an_unknown_error_code_gets_the_rule_for_the_unknown(crm: Spec) -> None:
    assert crm.rule("never heard of") is crm.rule("unknown")


def test_the_setting_decides_the_base_url_and_the_token_url_follows(crm: Spec) -> None:
    variables = {"CRM_API_URL": "https://crm.example/"}

    assert crm.base_url("staging", variables) == "https://crm.example"
    assert crm.token_url("staging", variables) == "https://crm.example/oauth/token"


def test_a_token_url_of_its_own_wins(crm: Spec) -> None:
    variables = {"CRM_API_URL": "https://crm.example", "CRM_TOKEN_URL": "https://login.example/token"}

    assert crm.token_url("production", variables) == "https://login.example/token"


def test_an_api_with_a_standing_token_has_no_token_url(whatsapp: Spec) -> None:
    assert whatsapp.token_url("production", {}) is None


def test_a_base_url_without_its_setting_names_the_variable(crm: Spec) -> None:
    with pytest.raises(LookupError, match="CRM_API_URL is not set"):
        crm.base_url("production", {})


@pytest.mark.parametrize(
    ("life", "margin"),
    [
        (timedelta(hours=24), timedelta(minutes=30)),
        (timedelta(hours=2), timedelta(minutes=24)),
        (timedelta(minutes=30), timedelta(minutes=6)),
        (timedelta(minutes=2), timedelta(minutes=1)),
    ],
)
def test_a_token_is_renewed_by_a_share_of_its_life_within_bounds(crm: Spec, life: timedelta, margin: timedelta) -> None:
    renewal = crm.authentication.renewal

    assert renewal is not None
    assert renewal.margin(life) == margin


def test_the_users_own_numbers_win_over_the_form(crm: Spec) -> None:
    own = tuned(crm, timeout_s=4, most_retries=2)

    timeouts = own.operations["create_lead"].timeouts
    assert (timeouts.connect_s, timeouts.read_s, timeouts.total_s) == (4, 4, 4)
    assert [own.rule(code).retries for code in ("not_sent", "unavailable", "unauthorized", "invalid")] == [2, 2, 1, 0]


def test_a_form_stays_as_it_is_when_nothing_is_tuned(crm: Spec) -> None:
    assert tuned(crm) == crm


@pytest.mark.parametrize(
    ("shape", "steps"),
    [("exponential", [1, 2, 4, 5]), ("linear", [1, 2, 3, 4]), ("fixed", [1, 1, 1, 1])],
)
def test_a_wait_grows_by_its_shape_and_stops_at_the_longest(shape: str, steps: list[int]) -> None:
    wait = Wait.model_validate({"shape": shape, "first_s": 1, "longest_s": 5})

    assert [wait.step(retry).total_seconds() for retry in (1, 2, 3, 4)] == steps


def test_a_wait_after_very_many_retries_is_still_the_longest() -> None:
    wait = Wait(shape="exponential", first=timedelta(seconds=1), longest=timedelta(hours=6), factor=10)

    assert wait.step(10_000) == timedelta(hours=6)
