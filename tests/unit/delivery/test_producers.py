from datetime import UTC, datetime, timedelta

import pytest

from config.policy import load_specs
from delivery.commands import CreateLead, SendEmail, SendWhatsApp
from delivery.errors import InvalidCommand, ProducerRefused
from delivery.intake import Intake, Item
from delivery.ports import Opened
from delivery.producers import ProducerPolicy, Used, allowed_entry, excess, refusal

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
CHAT = {"kind": "send_whatsapp", "to": "+5511999990001", "text": "Oi"}
MAIL = {"to": "ana.teste@exemplo.com.br", "subject": "Teste", "text": "Olá"}


class Rules:
    """One policy for everybody; a hash is the text with a sharp before it."""

    def __init__(self, policy):
        self.policy = policy
        self.forgotten = 0
        self.suppressed = set()

    def of(self, producer):
        return self.policy

    def mark(self, recipient):
        return f"#{recipient}"

    def is_suppressed(self, recipient):
        return recipient in self.suppressed

    def forget(self):
        self.forgotten += 1


class Book:
    def __init__(self, **answer):
        self.asked = []
        self.answer = answer

    def open(self, new):
        self.asked += new
        made = {"fresh": True, "same_body": True, "state": "ready", "next_at": NOON}
        return [Opened(each.id, **(made | ({"state": "held"} if each.held_code else {}) | self.answer)) for each in new]


class Voice:
    def __init__(self):
        self.sent = []

    def send(self, hints):
        self.sent += hints
        return len(self.sent)


def used(minutes_ago=0.5, in_minute=0, hours_ago=1, in_day=0, new_in_day=0):
    minute_from, day_from = NOON - timedelta(minutes=minutes_ago), NOON - timedelta(hours=hours_ago)
    return Used(minute_from, in_minute, day_from, in_day, new_in_day)


def to(*recipients):
    if recipients[0].startswith("+"):
        return SendWhatsApp(to=recipients[0], text="Oi")
    return SendEmail(to=list(recipients), subject="Teste", text="Olá")


def fallback_body(command):
    return {"kind": command.kind, **command.content()}


def intake(policy, book=None, voice=None, **more):
    accounts = ("crm:default", "email:default", "whatsapp:default")
    rules = policy if isinstance(policy, Rules) else Rules(policy)
    return Intake(book or Book(), voice or Voice(), load_specs(), accounts, policies=rules, now=lambda: NOON, **more)


@pytest.mark.parametrize(
    ("policy", "stands", "new_person", "code", "retry_at"),
    [
        ({"per_minute": 3}, {"in_minute": 2}, True, None, None),
        ({"per_minute": 3}, {"in_minute": 3}, True, "rate_exceeded", NOON + timedelta(seconds=30)),
        ({"per_day": 3}, {"in_day": 2}, True, None, None),
        ({"per_day": 3}, {"in_day": 3}, False, "daily_cap", NOON + timedelta(hours=23)),
        ({"new_recipients_per_day": 2}, {"new_in_day": 2}, True, "new_recipients_cap", NOON + timedelta(hours=23)),
        ({"new_recipients_per_day": 2}, {"new_in_day": 2}, False, None, None),
        ({"per_minute": 1, "per_day": 1}, {"in_minute": 1, "in_day": 1}, True, "daily_cap", NOON + timedelta(hours=23)),
        ({}, {"in_minute": 10**6, "in_day": 10**6}, True, None, None),
    ],
)
def test_one_more_delivery_is_refused_exactly_at_a_cap_and_until_its_window_ends(
    policy, stands, new_person, code, retry_at
):
    refused = excess(ProducerPolicy(**policy), used(**stands), people=1, new_people=int(new_person))

    assert (refused and refused.code, refused and refused.retry_at) == (code, retry_at)


@pytest.mark.parametrize(
    ("policy", "stands", "people", "code"),
    [
        ({"per_day": 150}, {}, 150, None),
        ({"per_day": 150}, {"in_day": 1}, 150, "daily_cap"),
        ({"per_minute": 10}, {"in_minute": 5}, 6, "rate_exceeded"),
        ({"new_recipients_per_day": 10}, {"new_in_day": 5}, 6, "new_recipients_cap"),
        ({"per_day": 100}, {}, 150, "too_many_recipients"),
        ({"per_minute": 10}, {}, 11, "too_many_recipients"),
    ],
)
def test_caps_count_people_and_what_can_never_fit_is_not_told_to_come_back(policy, stands, people, code):
    refused = excess(ProducerPolicy(**policy), used(**stands), people=people, new_people=people)

    assert (refused and refused.code) == code
    assert refused is None or (refused.retry_at is None) == (code == "too_many_recipients")


@pytest.mark.parametrize(
    ("stands", "left"),
    [
        ({"minutes_ago": 0.9, "in_minute": 5, "in_day": 7, "new_in_day": 2}, (5, 7, 2)),
        ({"minutes_ago": 1, "in_minute": 5, "in_day": 7, "new_in_day": 2}, (0, 7, 2)),
        ({"minutes_ago": 1, "in_minute": 5, "hours_ago": 24, "in_day": 7, "new_in_day": 2}, (0, 0, 0)),
    ],
)
def test_a_window_that_is_over_is_an_empty_one(stands, left):
    found = used(**stands).at(NOON)

    assert (found.in_minute, found.in_day, found.new_in_day) == left


def test_a_window_begins_with_its_first_delivery():
    found = used().at(NOON)

    assert (found.minute_from, found.day_from) == (NOON, NOON)


@pytest.mark.parametrize(
    ("allowed", "recipients", "code"),
    [
        (None, ["ana.teste@exemplo.com.br"], None),
        ({"@exemplo.com.br"}, ["ana.teste@exemplo.com.br"], None),
        ({"@exemplo.com.br"}, ["ana.teste@sub.exemplo.com.br"], "recipient_not_allowed"),
        ({"@exemplo.com.br"}, ["ana.teste@exemplo.com.br", "bia@outro.com.br"], "recipient_not_allowed"),
        ({"#bia@outro.com.br", "@exemplo.com.br"}, ["ana.teste@exemplo.com.br", "bia@outro.com.br"], None),
        ({"#+5511999990001"}, ["+5511999990001"], None),
        ({"#+5511999990001"}, ["+5511999990002"], "recipient_not_allowed"),
        (set(), ["+5511999990001"], "recipient_not_allowed"),
    ],
)
def test_everybody_whom_a_command_reaches_must_be_on_the_list(allowed, recipients, code):
    policy = ProducerPolicy(allowed=None if allowed is None else frozenset(allowed))

    refused = refusal(policy, to(*recipients), Rules(policy))

    assert (refused and refused.code) == code


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"email": "bia@exemplo.com.br", "telefone": "+5511999990001"},
        {"email": "bia@exemplo.com.br", "options": {"fallback": {"kind": "send_whatsapp", "to": "+5511999990001",
                                                                  "text": "Oi"}}},
    ],
    ids=["its recipient", "a lead's number", "its fallback"],
)  # fmt: skip
def test_a_command_that_names_a_suppressed_person_is_refused_whatever_the_policy(changes):
    rules = Rules(ProducerPolicy())
    rules.suppressed = {"ana.teste@exemplo.com.br", "+5511999990001"}
    command = CreateLead(
        **({"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"} | changes)
    )

    refused = refusal(ProducerPolicy(), command, rules)

    assert refused.code == "suppressed"


@pytest.mark.parametrize(("most", "code"), [(None, None), (3, None), (2, "too_many_recipients")])
def test_the_recipients_of_one_mail_are_bound_those_in_copy_included(most, code):
    mail = SendEmail(to=["a@exemplo.com.br", "A@exemplo.com.br"], cc=["b@exemplo.com.br"], bcc=["c@exemplo.com.br"],
                     subject="Teste", text="Olá")  # fmt: skip
    policy = ProducerPolicy(recipients_per_mail=most)

    by_itself = refusal(policy, mail, Rules(policy))
    as_fallback = refusal(policy, CreateLead(**LEAD, options={"fallback": fallback_body(mail)}), Rules(policy))

    assert [each and each.code for each in (by_itself, as_fallback)] == [code, code]


@pytest.mark.parametrize(
    ("typed", "entry"),
    [
        ("@Exemplo.com.br", "@exemplo.com.br"),
        ("Ana.Teste@exemplo.com.br", "#ana.teste@exemplo.com.br"),
        ("+55 11 99999-0001", "#+5511999990001"),
        ("BR.abc123", "#BR.abc123"),
    ],
)
def test_an_entry_is_kept_as_a_hash_or_a_domain(typed, entry):
    assert allowed_entry(typed, Rules(None)) == entry


@pytest.mark.parametrize("typed", ["", "@", "@x y", "ana", "11 99999-0001", "@@exemplo.com.br"])
def test_what_is_no_recipient_cannot_be_an_entry(typed):
    with pytest.raises(ValueError, match=r"domain|recipient"):
        allowed_entry(typed, Rules(None))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("send_email", MAIL | {"cc": ["bia@outro.com.br"]}),
        ("send_email", MAIL | {"bcc": ["bia@outro.com.br"]}),
        ("create_lead", LEAD | {"options": {"fallback": CHAT}}),
    ],
)  # fmt: skip
def test_a_copy_or_a_fallback_does_not_slip_past_the_allow_list(kind, body):
    book = Book()

    with pytest.raises(ProducerRefused, match="recipient_not_allowed"):
        intake(ProducerPolicy(allowed=frozenset({"@exemplo.com.br"})), book).submit(kind, body, producer="loja")

    assert book.asked == []


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (ProducerPolicy(frozen="it looped"), "producer_frozen"),
        (ProducerPolicy(allowed=frozenset()), "recipient_not_allowed"),
        (ProducerPolicy(needs_approval=True), "needs_approval"),
    ],
)
def test_a_message_that_cannot_come_back_is_held_and_not_hinted(policy, code):
    book, voice = Book(), Voice()

    answer = intake(policy, book, voice).submit("create_lead", LEAD, producer="celery", origin="message-1")

    assert (answer.state, answer.next_step, book.asked[0].held_code) == ("held", "ask_operator", code)
    assert voice.sent == []


def test_an_approval_is_asked_for_without_an_error():
    answer = intake(ProducerPolicy(needs_approval=True)).submit("create_lead", LEAD, producer="loja")

    assert (answer.state, answer.next_step) == ("held", "ask_operator")
    assert answer.message == "Seu pedido está registrado e aguarda a nossa equipe."


def test_a_wrong_body_is_told_before_a_policy():
    with pytest.raises(InvalidCommand):
        intake(ProducerPolicy(allowed=frozenset())).submit("create_lead", {}, producer="loja")


def test_each_item_of_many_has_its_own_refusal():
    rules = ProducerPolicy(allowed=frozenset({"@exemplo.com.br"}))
    items = [Item("create_lead", LEAD), Item("create_lead", LEAD | {"email": "bia@outro.com.br"})]

    replies = intake(rules).submit_many(items, producer="loja")

    assert [each.answer is not None for each in replies] == [True, False]
    assert str(replies[1].refusal).startswith("refused by the producer's policy: recipient_not_allowed")


def test_a_loop_is_told_once_and_the_policy_read_anew():
    rules, told = Rules(ProducerPolicy()), []
    book = Book(fresh=False, refusal=ProducerRefused("producer_frozen"))

    with pytest.raises(ProducerRefused, match="an operator must act first"):
        intake(rules, book, frozen=told.append).submit("create_lead", LEAD, producer="loja")

    assert (told, rules.forgotten) == (["loja"], 1)


def test_checking_a_command_binds_it_to_no_policy_yet():
    new = intake(ProducerPolicy(needs_approval=True)).prepare("create_lead", LEAD, producer="loja")

    assert (new.held_code, new.policy.loop) == (None, None)
