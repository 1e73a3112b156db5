from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from audit import ids


def test_an_id_is_a_uuid_of_version_7() -> None:
    record_id = ids.new_id()
    assert UUID(bytes=record_id).version == 7
    assert UUID(bytes=record_id).variant == "specified in RFC 4122"
    assert ids.is_record_id(record_id)
    assert ids.text(record_id) == str(UUID(bytes=record_id))


@settings(deadline=None)
@given(st.integers(0, (1 << 48) * 1000 - 1))
def test_the_time_inside_is_exact_to_the_microsecond(time_us: int) -> None:
    assert ids.time_us(ids.IdSource(lambda: time_us).new()) == time_us


def test_ids_grow_while_the_clock_stands_or_steps_back_a_little() -> None:
    clock = iter([1_000_000, 1_000_000, 1_000_000, 500_001, 2_000_000])
    source = ids.IdSource(lambda: next(clock))
    made = [source.new() for _ in range(5)]
    assert made == sorted(made)
    assert len(set(made)) == 5


def test_a_clock_that_was_set_back_is_followed() -> None:
    clock = iter([1_900_000_000_000_000, 1_795_000_000_000_000])
    source = ids.IdSource(lambda: next(clock))
    source.new()
    assert ids.time_us(source.new()) == 1_795_000_000_000_000


def test_ids_made_elsewhere_still_have_a_time() -> None:
    foreign = bytes.fromhex("01a20572474f7fff9f7cfae3845411bb")
    assert ids.time_us(foreign) == 0x01A20572474F * 1000 + 999
