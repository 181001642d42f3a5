import pytest

from ingress.strict_json import UnacceptableJson, parse_json


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a": [1, 2.5, "\\u00e9", null, true]}', {"a": [1, 2.5, "é", None, True]}),
        ('"ação"'.encode(), "ação"),
        (b" \t\r\n1 ", 1),
        (b'"\\ud83d\\ude00"', "😀"),
        (b"-0", 0),
        (b"1e5", 1e5),
        (b"[" * 31 + b"]" * 31, None),
        (b'""', ""),
    ],
)  # fmt: skip
def test_plain_json_is_read(raw, value):
    found = parse_json(raw)

    assert value is None or found == value


# The cases that the public parsing suites (JSONTestSuite, "Parsing JSON is a minefield") mark as wrong or open.
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"nul",
        b"{'a': 1}",
        b"{a: 1}",
        b'{"a": 1,}',
        b"[1,]",
        b"[,1]",
        b"[1 2]",
        b'{"a" 1}',
        b'{"a":}',
        b"[1] trailing",
        b"{}{}",
        b"{}\x00",
        b"[1]//comment",
        b"/* c */[1]",
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "\\u0061": 2}',
        b'[{"b": {"a": 1, "a": 1}}]',
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"1e999",
        b"-1e999",
        b"9" * 65,
        b"9" * 5000,
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"0x10",
        b"[1_000]",
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\ud800": 1}',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\n"',
        b'"\x00"',
        b'"\\x41"',
        b'"\\u00"',
        b'"abc',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-32"),
        "{“a”: 1}".encode(),
        b"[" * 33 + b"]" * 33,
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_what_is_wrong_or_could_be_read_in_two_ways_is_refused(raw):
    with pytest.raises(UnacceptableJson):
        parse_json(raw)


def test_the_reason_quotes_nothing_of_the_text():
    with pytest.raises(UnacceptableJson) as caught:
        parse_json(b'{"segredo": 123456 "x"}')

    assert "segredo" not in f"{caught.value} {caught.value.why}"
    assert caught.value.__cause__ is None


def test_texts_that_are_cleaned_afterwards_may_hold_half_a_pair():
    assert parse_json(b'{"a": "\\ud800b"}', whole_texts=False) == {"a": "\ud800b"}
    with pytest.raises(UnacceptableJson):
        parse_json(b'{"a": "\\ud800", "a": 1}', whole_texts=False)
