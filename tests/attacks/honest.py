"""The control: honest traffic has to pass, or the programme proves nothing."""

from tests.attacks.target import Target, Verdict, percentile

_LEADS = 50


def honest_leads(target: Target) -> Verdict:
    """Hand over leads as a producer does; all have to arrive."""
    answers = [target.lead() for _ in range(_LEADS)]
    ids = [each.body["id"] for each in answers if each.status == 202]
    arrived = target.until(lambda: all(target.state(each) == "succeeded" for each in ids))
    p99 = percentile([each.seconds for each in answers])
    return Verdict(
        f"none: {_LEADS} honest leads",
        f"{len(ids)} accepted, {'all' if arrived else 'not all'} arrived; p99 of the answer {p99:.0f} ms",
        "all arrive",
        passed=bool(arrived) and len(ids) == _LEADS,
    )


ATTACKS = (honest_leads,)
