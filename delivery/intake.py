"""The way in: a producer's body becomes a row, a hint and an honest receipt. Every door uses this one.

The row is committed before anything is answered; the hint follows, best effort.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from config.policy import Spec
from delivery.commands import KINDS, Command, SendEmail, parse_command
from delivery.destinations import url_issue
from delivery.errors import FieldIssue, InvalidCommand, KeyReused, Permanent, ProducerRefused
from delivery.ids import new_id
from delivery.mail_rules import mail_issues
from delivery.ports import Hint, Hints, Ledger, NewDelivery, Opened, Order
from delivery.producers import LOOPING, NEEDS_APPROVAL, SUPPRESSED, UNBOUND, Policies, Unbound, refusal
from delivery.reach import fallback_of, messages_of
from delivery.redaction import mask_recipient
from delivery.wording import issue_text, receipt_text

_SIZED = json.JSONEncoder(default=str)
_SHORT_HORIZON = timedelta(seconds=1)


@dataclass(frozen=True)
class Answer:
    """The receipt a producer gets.

    Attributes:
        message: A sentence that an agent may say to the person.
        next_step: What the producer should do: none, wait, do_not_resend, fix_fields or ask_operator.
        expected_at: When the next attempt is due; None when nothing more will happen by itself.
        duplicate_of: The earlier delivery that this command repeats, when the producer gave no key.
    """

    id: str
    state: str
    kind: str
    account: str
    message: str
    next_step: str
    expected_at: str | None
    duplicate_of: str | None


@dataclass(frozen=True)
class Item:
    """One command of many.

    Attributes:
        kind: `create_lead`, `send_whatsapp` or `send_email`.
        body: The producer's JSON object, `options` included.
        origin: Id of the message that carried it, so that a redelivery opens nothing.
    """

    kind: str
    body: Mapping[str, Any]
    origin: str | None = None


@dataclass(frozen=True)
class Reply:
    """What became of one item: a receipt, or why there is none."""

    answer: Answer | None = None
    refusal: InvalidCommand | KeyReused | ProducerRefused | None = None

    def receipt(self) -> Answer:
        """Return the receipt.

        Raises:
            InvalidCommand: As `Intake.submit`.
            KeyReused: As `Intake.submit`.
            ProducerRefused: As `Intake.submit`.
        """
        if self.answer is None:
            raise self.refusal or LookupError("a reply holds a receipt or a refusal")
        return self.answer


def account_name(command: Command) -> str:
    """Return the whole name of the account that a command asks for."""
    wanted = command.options.account or "default"
    return wanted if ":" in wanted else f"{command.service}:{wanted}"


@dataclass(frozen=True)
class Intake:
    """Accepts commands.

    Attributes:
        accounts: Known accounts, e.g. ("crm:default", "whatsapp:default").
        policies: What each producer may do.
        from_email: The address that an e-mail account sends from, e.g. of "email:default"; None when it has none.
        frozen: Told of a producer that the loop guard froze just now.
        same_within: A repeat without a key counts as the same command within this time.
        key_kept: How long a producer's key is remembered; longer than any retry horizon.
        max_bytes: Largest body, as JSON.
        writable: Raises Permanent for a command that its provider's adapter can never write.
        sandbox: True lets callbacks go to this machine, over plain http.
    """

    ledger: Ledger
    hints: Hints
    specs: Mapping[str, Spec]
    accounts: Collection[str]
    same_within: timedelta = timedelta(minutes=10)
    key_kept: timedelta = timedelta(days=7)
    max_bytes: int = 16_000_000
    sandbox: bool = False
    policies: Policies = field(default_factory=Unbound)
    from_email: Callable[[str], str | None] = lambda _: None
    frozen: Callable[[str], object] = lambda _: None
    writable: Callable[[Order], object] = lambda _: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def submit(
        self, kind: str, body: Mapping[str, Any], *, producer: str, origin: str | None = None, language: str = "pt"
    ) -> Answer:
        """Accept one command and return its receipt; the delivery is durable when this returns.

        Args:
            kind: `create_lead`, `send_whatsapp` or `send_email`.
            body: The producer's JSON object, `options` included.
            producer: Who asks; keys and repeats are counted for each producer apart.
            origin: Id of the message that carried the command, so that a redelivery opens nothing.
            language: "pt" or "en", for sentences.

        Raises:
            InvalidCommand: A field is missing, wrong, too long or unknown; nothing was written.
            KeyReused: The key was used before with another body; nothing was written.
            ProducerRefused: The producer's policy forbids it now; nothing was written. With an `origin`, a message that
                could not come back, it is accepted instead and held until a person approves or rejects it.
            LedgerUnavailable: Postgres does not answer; nothing was promised.
        """
        item = Item(kind, body, origin)
        return self.submit_many([item], producer=producer, language=language)[0].receipt()

    def submit_many(self, items: Sequence[Item], *, producer: str, language: str = "pt") -> list[Reply]:
        """Accept many commands in one transaction; one reply for each, in order. See `submit`.

        A refused item leaves the others alone; equal items are one delivery.

        Raises:
            LedgerUnavailable: Postgres does not answer; nothing was promised for any of them.
        """
        prepared = [self._prepared(each, producer, language) for each in items]
        accepted = [each for each in prepared if isinstance(each, NewDelivery)]
        opened = self.ledger.open(accepted) if accepted else []
        self._hint(accepted, opened)
        if any(each.refusal is not None and each.refusal.code == LOOPING for each in opened):
            self.policies.forget()
            self.frozen(producer)
        answers = iter([self._reply(new, each, language) for new, each in zip(accepted, opened, strict=True)])
        return [next(answers) if isinstance(each, NewDelivery) else Reply(refusal=each) for each in prepared]

    def _prepared(self, item: Item, producer: str, language: str) -> NewDelivery | InvalidCommand | ProducerRefused:
        try:
            new = self.prepare(item.kind, item.body, producer=producer, origin=item.origin, language=language)
            new = self.admit(new)
        except (InvalidCommand, ProducerRefused) as err:
            return err
        if new.command.options.dry_run:  # a door that can simulate never comes here
            return InvalidCommand(item.kind, (FieldIssue("options.dry_run", issue_text("dry_run", language)),))
        return new

    def _hint(self, accepted: Sequence[NewDelivery], opened: Sequence[Opened]) -> None:
        soon = self.now() + _SHORT_HORIZON
        pairs = zip(accepted, opened, strict=True)
        self.hints.send(
            [
                Hint(
                    each.id,
                    new.command.kind,
                    options.priority,
                    alone=options.order_key is not None,
                    account=new.account,
                )
                for new, each in pairs
                if each.fresh and each.state != "held" and each.next_at <= soon and (options := new.command.options)
            ]
        )

    def _reply(self, new: NewDelivery, opened: Opened, language: str) -> Reply:
        if opened.refusal is not None and not opened.fresh:
            return Reply(refusal=opened.refusal)
        if not opened.same_body:
            return Reply(refusal=KeyReused("this idempotency key was used before with another body; use a new key"))
        return Reply(self._answer(opened, new.command, new.account, language))

    def prepare(
        self, kind: str, body: Mapping[str, Any], *, producer: str, origin: str | None = None, language: str = "pt"
    ) -> NewDelivery:
        """Check one command, and its fallback, and return it ready for the ledger; writes nothing. See `submit`.

        Raises:
            InvalidCommand: A field is missing, wrong, too long or unknown.
        """
        command = self._parse(kind, body, language)
        account = self._account(command, language)
        self._check_mail(command, account, language)
        self._check_fallback(command, language)
        return self._new(command, account, producer, origin)

    def admit(self, new: NewDelivery) -> NewDelivery:
        """Return a delivery as its producer's policy lets it in: with what is to be counted, held where it must be.

        Raises:
            ProducerRefused: The producer is frozen, or may not write to one of the recipients.
            LedgerUnavailable: The policy cannot be read.
        """
        policy = self.policies.of(new.producer)
        refused = refusal(policy, new.command, self.policies, senders=self._senders(new.command))
        # A message cannot be turned away, and is held; for a person who was erased it is not even stored.
        if refused is not None and (new.origin is None or refused.code == SUPPRESSED):
            raise refused
        held_code = refused.code if refused else NEEDS_APPROVAL if policy.needs_approval else None
        return replace(new, policy=policy, held_code=held_code)

    def admit_fallback(self, new: NewDelivery, *, approved: bool) -> NewDelivery:
        """Return a fallback as its producer's policy lets it in now. It was counted with its command.

        Args:
            approved: A person approved the command, and its fallback with it.

        Raises:
            LedgerUnavailable: The policy cannot be read.
        """
        policy = self.policies.of(new.producer)
        refused = refusal(policy, new.command, self.policies, senders=self._senders(new.command))
        unseen = NEEDS_APPROVAL if policy.needs_approval and not approved else None
        return replace(new, policy=replace(UNBOUND, loop=policy.loop), held_code=refused.code if refused else unseen)

    def _check_fallback(self, command: Command, language: str) -> None:
        if command.options.fallback is None:
            return
        kind, body = fallback_of(command.options.fallback)
        try:
            second = self._parse(kind, body, language)
            self._check_mail(second, self._account(second, language), language)
        except InvalidCommand as err:
            issues = tuple(FieldIssue(f"options.fallback.{each.field}", each.issue) for each in err.issues)
            raise InvalidCommand(command.kind, issues) from None
        if second.options.dry_run:
            issue = FieldIssue("options.fallback.options.dry_run", issue_text("dry_run", language))
            raise InvalidCommand(command.kind, (issue,))
        if second.options.fallback is not None:
            issue = FieldIssue("options.fallback.options.fallback", issue_text("nested_fallback", language))
            raise InvalidCommand(command.kind, (issue,))

    def _parse(self, kind: str, body: Mapping[str, Any], language: str) -> Command:
        if len(_SIZED.encode(body)) > self.max_bytes:
            raise InvalidCommand(kind[:40], (FieldIssue("body", issue_text(f"body:{self.max_bytes}", language)),))
        model = KINDS.get(kind)
        choices = self.specs[model.service].operations[kind].choices() if model else {}
        command = parse_command(kind, body, choices=choices, now=self.now(), language=language)
        self._check_callback(command, language)
        self._check_writable(command, language)
        return command

    def _check_writable(self, command: Command, language: str) -> None:
        try:
            self.writable(Order(new_id(), command.service, command, attempt=1, accepted_at=self.now()))
        except Permanent:  # its words are for operators; a field that is known to be wrong was named before
            issue = FieldIssue("body", issue_text("unwritable", language))
            raise InvalidCommand(command.kind, (issue,)) from None

    def _check_callback(self, command: Command, language: str) -> None:
        url = command.options.callback_url
        word = url_issue(url, sandbox=self.sandbox) if url is not None else None
        if word is not None:
            issue = FieldIssue("options.callback_url", issue_text(word, language))
            raise InvalidCommand(command.kind, (issue,))

    def _check_mail(self, command: Command, account: str, language: str) -> None:
        mail = self.specs[command.service].mail
        if mail is None or not isinstance(command, SendEmail):
            return
        found = mail_issues(command, mail, account=account, from_email=self.from_email(account))
        issues = tuple(FieldIssue(name, issue_text(word, language)) for name, word in found)
        if issues:
            raise InvalidCommand(command.kind, issues)

    def _senders(self, command: Command) -> list[str]:
        """Return the addresses from which a command and its fallback would send mail."""
        mails = [each for each in messages_of(command) if isinstance(each, SendEmail)]
        found = [each.from_ or self.from_email(account_name(each)) for each in mails]
        return [each for each in found if each is not None]

    def _account(self, command: Command, language: str) -> str:
        name = account_name(command)
        if name not in self.accounts or not name.startswith(f"{command.service}:"):
            raise InvalidCommand(command.kind, (FieldIssue("options.account", issue_text("account", language)),))
        return name

    def _new(self, command: Command, account: str, producer: str, origin: str | None) -> NewDelivery:
        spec = self.specs[command.service]
        on_uncertain = command.options.on_uncertain or spec.operations[command.kind].on_uncertain
        return NewDelivery(
            id=new_id(),
            command=command,
            account=account,
            producer=producer,
            recipient=mask_recipient(command.recipient),
            key=command.options.key,
            origin=origin,
            key_kept=self.key_kept,
            same_within=self.same_within,
            expires_in=spec.expires_after,
            hold_uncertain=on_uncertain == "hold",
        )

    def _answer(self, opened: Opened, command: Command, account: str, language: str) -> Answer:
        promise = self.specs[command.service].fallback.answer
        message, next_step = receipt_text(opened.state, language, promise.en if language == "en" else promise.pt)
        return Answer(
            id=str(opened.id),
            state=opened.state,
            kind=command.kind,
            account=account,
            message=message,
            next_step=next_step,
            expected_at=opened.next_at.isoformat() if next_step == "wait" else None,
            duplicate_of=None if opened.fresh or command.options.key else str(opened.id),
        )
