import phonenumbers
from hypothesis import given, settings
from hypothesis import strategies as st
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberFormat

from delivery.phones import e164


def by_the_library(text):
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return None
    is_good = text.startswith("+") and phonenumbers.is_valid_number(number)
    return phonenumbers.format_number(number, PhoneNumberFormat.E164) if is_good else None


def by_us(text):
    try:
        return e164(text)
    except ValueError:
        return None


def examples():
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        for region in regions:
            country = PhoneMetadata.metadata_for_region_or_calling_code(code, region)
            for kind in (country.mobile, country.fixed_line, country.toll_free, country.voip, country.premium_rate):
                if kind is not None and kind.example_number is not None:
                    yield str(code), kind.example_number


EXAMPLES = sorted(set(examples()))
CODES = sorted(map(str, COUNTRY_CODE_TO_REGION_CODE))


@st.composite
def near_examples(draw):
    """A country's own example with some digits changed, put before it, added or left out."""
    code, national = draw(st.sampled_from(EXAMPLES))
    kept = draw(st.integers(min_value=0, max_value=len(national)))
    prefix = draw(st.sampled_from(["", "", "0", "1", "8", "15", "90"]) | st.text("0123456789", max_size=2))
    end = draw(st.text("0123456789", min_size=len(national) - kept, max_size=len(national) - kept + 1))
    return f"+{code}{prefix}{national[:kept]}{end}"


@settings(max_examples=500)
@given(text=near_examples())
def test_a_number_is_read_as_the_library_reads_it(text):
    assert by_us(text) == by_the_library(text)


@given(code=st.sampled_from(CODES), rest=st.text("0123456789 -()/.+x;\u0661\uff11\n", max_size=18))
def test_whatever_is_written_is_read_as_the_library_reads_it(code, rest):
    assert by_us(f"+{code}{rest}") == by_the_library(f"+{code}{rest}")


def test_the_examples_of_every_country_are_read_as_the_library_reads_them():
    written = [f"+{code}{national}" for code, national in EXAMPLES]

    assert [by_us(each) for each in written] == [by_the_library(each) for each in written]


def test_a_number_that_is_written_otherwise_is_brought_into_one_form():
    assert by_us("+55 (11) 99999-0001") == "+5511999990001"
