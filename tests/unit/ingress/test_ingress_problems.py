import pytest

from delivery.errors import FieldIssue, InvalidCommand, KeyReused, LedgerUnavailable
from ingress.pressure import Pressure
from ingress.problems import Problem, language_of, problem_of


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "pt"),
        ("en", "en"),
        ("en-US,en;q=0.9", "en"),
        ("pt-BR,en;q=0.9", "pt"),
        ("en;q=0.2, pt;q=0.8", "pt"),
        ("fr, en;q=0.1", "en"),
        ("*", "pt"),
        ("en;q=0", "pt"),
        ("en;q=nada", "pt"),
        ("," * 10_000, "pt"),
    ],
)
def test_english_is_spoken_where_it_is_wanted_more_than_portuguese(accept, language):
    assert language_of(accept) == language


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidCommand("create_lead", (FieldIssue("email", "?"),)), 422, "invalid_command"),
        (KeyReused("x"), 409, "key_reused"),
        (LedgerUnavailable("x"), 503, "ledger_away"),
        (RuntimeError("segredo"), 500, "internal_error"),
    ],
)
def test_every_error_leaves_in_one_shape_and_tells_nothing_of_its_own(error, status, code):
    problem = problem_of(error, "pt")

    assert (problem.status, problem.code) == (status, code)
    assert set(problem.body("en")["error"]) == {"code", "message", "details"}
    assert "segredo" not in str(problem.body("pt"))


def test_what_can_be_sent_again_says_when():
    assert problem_of(LedgerUnavailable("x"), "pt").headers() == {"Retry-After": "5"}


class Form:
    class limits:  # noqa: N801 - as a spec names it
        most_due = 10


class Counter:
    def __init__(self, due):
        self.due = due
        self.asked = 0

    def __call__(self, most):
        self.asked += 1
        return self.due


def test_only_the_service_that_is_behind_is_turned_away():
    pressure = Pressure(Counter({"crm": 11}), {"crm": Form, "email": Form}, ticks=lambda: 0.0)

    pressure.check("send_email")
    with pytest.raises(Problem) as caught:
        pressure.check("create_lead")

    assert (caught.value.code, caught.value.retry_after_s) == ("too_far_behind", 30)


def test_a_flood_of_commands_is_no_flood_of_counting():
    now, count = [0.0], Counter({"crm": 10})
    pressure = Pressure(count, {"crm": Form}, ticks=lambda: now[0])

    pressure.check("create_lead")
    pressure.check("create_lead")
    now[0] = 2.5
    pressure.check("create_lead")

    assert count.asked == 2
