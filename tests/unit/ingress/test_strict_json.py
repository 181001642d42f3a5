import pytest

from ingress.strict_json import UnacceptableJson, check_value, parse_json


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
def test_statement_40_what_is_wrong_or_could_be_read_in_two_ways_is_refused(raw):
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


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"[]," * 1_300_000 + b"[]]",
        b'{"a":[' + b'"a",' * 1_000_000 + b'"a"]}',
        b"[" + b'{"a":1},' * 25_000 + b"1]",
        b"[" + b"1," * 50_000 + b"1]",
    ],
    ids=["lists", "texts", "objects", "numbers"],
)
def test_too_many_values_are_refused_before_they_are_parsed(raw):
    with pytest.raises(UnacceptableJson, match="more than 50000 values"):
        parse_json(raw)


@pytest.mark.parametrize("raw", [b"[" + b"1," * 49_998 + b"1]", b'{"text":"' + rb"[{,\"" * 100_000 + b'"}'])
def test_as_many_as_are_allowed_are_read_and_a_text_is_one_value(raw):
    assert parse_json(raw)


@pytest.mark.parametrize("raw", [b'"' * 100_001 + b"," * 60_000, b'{"a":"' + rb"\"" * 100_000 + b"," * 60_000])
def test_quotes_that_are_never_closed_cost_no_more(raw):
    with pytest.raises(UnacceptableJson):
        parse_json(raw)


def test_an_own_limit_may_be_higher():
    assert len(parse_json(b"[" + b"1," * 60_000 + b"1]", most_values=100_000)) == 60_001


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": {"\ud800": 1}}, ["\udc00"]])
def test_a_value_that_something_else_parsed_is_checked_alike(value):
    with pytest.raises(UnacceptableJson):
        check_value(value)


def test_a_plain_value_that_something_else_parsed_passes():
    check_value({"a": [1, 2.5, "é", None, True]})
