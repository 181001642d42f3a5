from delivery.ids import new_id


def test_ids_made_one_after_the_other_are_in_that_order():
    ids = [new_id() for _ in range(1000)]

    assert ids == sorted(ids)


def test_an_id_is_a_version_7_of_its_millisecond():
    made = new_id(now_ms=1_700_000_000_123)

    assert made.version == 7
    assert made.int >> 80 == 1_700_000_000_123
    assert new_id(now_ms=1_700_000_000_123) != made
