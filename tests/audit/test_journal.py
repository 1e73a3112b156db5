import fcntl
import os
from pathlib import Path

import pytest

from audit import ids, journal
from audit.entries import encode_event
from audit.files import DiskDirectory
from audit.segments import End, Follower

SEGMENT = ids.new_id()
SEED = journal.crc_seed(SEGMENT)


def make_entry(number: int) -> bytes:
    return encode_event("context", ids.new_id(), "node-1", {"number": number})[0]


def make_segment(path: Path, groups: int = 3, *, size: int = 0, announced: int | None = None) -> tuple[Path, list[int]]:
    """A segment file with groups of two entries, each announcing the one before; returns their offsets and the end."""
    header = journal.SegmentHeader(SEGMENT, ids.new_id(), 1, 1_795_000_000_000_000, "node-1", "daybook.test/log")
    data = journal.encode_header(header)
    offsets = [len(data)]
    for number in range(groups):
        synced = offsets[-1] if announced is None else announced
        data += b"".join(journal.encode_group(SEED, number + 1, [make_entry(2 * number), make_entry(2 * number + 1)], synced))
        offsets.append(len(data))
    file = path / "segment.seg"
    file.write_bytes(data.ljust(size, b"\0"))
    return file, offsets


def lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def follow(path: Path) -> Follower:
    follower = Follower(path)
    follower.check_alive()
    return follower


def test_a_header_is_read_back_and_checked() -> None:
    header = journal.SegmentHeader(SEGMENT, ids.new_id(), 1, 5, "nödé", "daybook.test/log")
    data = journal.encode_header(header)
    assert len(data) == journal.HEADER_BYTES
    assert journal.decode_header(data + b"more") == header
    for bad in (b"", data[:511], b"\0" * 512, data[:30] + b"x" + data[31:]):
        with pytest.raises(journal.NotASegment):
            journal.decode_header(bad)


def test_groups_and_entries_are_read_back(tmp_path: Path) -> None:
    path, offsets = make_segment(tmp_path)
    groups = list(journal.iterate_groups(memoryview(path.read_bytes())[offsets[0] :], offsets[0], SEED))
    assert [(group.offset, group.end, group.sequence, group.count) for group in groups] == [
        (offsets[number], offsets[number + 1], number + 1, 2) for number in range(3)
    ]
    for group in groups:
        for entry in journal.iterate_entries(group):
            data = path.read_bytes()[entry.offset : entry.offset + entry.length]
            assert journal.decode_entry(memoryview(data), 0).leaf == entry.leaf


def test_a_group_of_another_segment_or_out_of_order_is_not_taken(tmp_path: Path) -> None:
    path, offsets = make_segment(tmp_path)
    data = memoryview(path.read_bytes())[offsets[0] :]
    assert list(journal.iterate_groups(data, offsets[0], journal.crc_seed(ids.new_id()))) == []
    assert list(journal.iterate_groups(data, offsets[0], SEED, sequence=2)) == []


def test_lengths_that_do_not_add_up_are_noticed() -> None:
    good = make_entry(1)
    for bad in (good[:5], good[:-1], b"\0\0\0\x05" + good[4:]):
        with pytest.raises(journal.DamagedEntry):
            journal.decode_entry(memoryview(bad), 0)


def test_a_living_writers_segment_is_read_up_to_what_it_announces(tmp_path: Path) -> None:
    path, offsets = make_segment(tmp_path, groups=3, size=100_000)
    fd = lock(path)
    follower = follow(path)
    reading = follower.read()
    assert [group.end for group in reading.groups] == offsets[1:3]  # the last group is announced by nobody yet
    assert (reading.position, reading.end) == (offsets[2], End.NOT_YET)
    follower.moved_to(reading.position)
    assert follower.read().groups == []
    os.pwrite(fd, b"".join(journal.encode_group(SEED, 4, [], offsets[3], journal.FLAG_MARKER)), offsets[3])
    reading = follower.read()
    assert reading.position == offsets[3]
    follower.moved_to(reading.position)
    # The next group overwrites the marker.
    group = b"".join(journal.encode_group(SEED, 4, [make_entry(9)], offsets[3]))
    os.pwrite(fd, group, offsets[3])
    assert follower.read().groups == []
    os.pwrite(fd, b"".join(journal.encode_group(SEED, 5, [], offsets[3] + len(group), journal.FLAG_MARKER)), offsets[3] + len(group))
    assert follower.read().position == offsets[3] + len(group)
    os.close(fd)
    follower.close()


def test_a_dead_writers_segment_is_read_to_its_end(tmp_path: Path) -> None:
    path, offsets = make_segment(tmp_path, groups=3, size=100_000)
    follower = follow(path)
    reading = follower.read()
    assert (reading.position, reading.end, reading.damage) == (offsets[3], End.TORN, [])
    follower.close()


def test_a_closed_segment_ends_cleanly(tmp_path: Path) -> None:
    path, offsets = make_segment(tmp_path)
    with path.open("ab") as file:
        file.write(b"".join(journal.encode_group(SEED, 4, [], offsets[3], journal.FLAG_END)))
    follower = follow(path)
    assert follower.read().end is End.CLEAN
    follower.close()


@pytest.mark.parametrize("cut", [1, 31, 33, 200])
def test_a_torn_tail_is_not_taken_and_no_alarm(tmp_path: Path, cut: int) -> None:
    path, offsets = make_segment(tmp_path)
    os.truncate(path, offsets[2] + cut)
    follower = follow(path)
    reading = follower.read()
    assert (reading.position, reading.end, reading.damage) == (offsets[2], End.TORN, [])
    follower.close()


@pytest.mark.parametrize("place", [0, 2, 5, 12, 17, 40, 100])
def test_a_bad_group_before_an_announced_offset_is_damage(tmp_path: Path, place: int) -> None:
    path, offsets = make_segment(tmp_path, groups=4)
    data = bytearray(path.read_bytes())
    data[offsets[1] + place] ^= 0x55
    path.write_bytes(data)
    follower = follow(path)
    reading = follower.read()
    assert reading.damage == [offsets[1]]
    assert [group.offset for group in reading.groups] == [offsets[0], offsets[2], offsets[3]]  # the log goes on behind it
    assert reading.position == offsets[4]
    follower.close()


def test_a_bad_group_that_nothing_announces_is_a_torn_tail_even_with_a_whole_one_behind(tmp_path: Path) -> None:
    """A power cut may keep a later page and lose an earlier one: neither was acknowledged."""
    path, offsets = make_segment(tmp_path, groups=3, announced=journal.HEADER_BYTES)
    data = bytearray(path.read_bytes())
    data[offsets[1] + 40] ^= 0x55
    path.write_bytes(data)
    follower = follow(path)
    reading = follower.read()
    assert (reading.position, reading.damage, reading.end) == (offsets[1], [], End.TORN)
    follower.close()


def test_damage_far_from_the_next_good_group_is_still_found(tmp_path: Path) -> None:
    path, offsets = make_segment(tmp_path, groups=1)
    data = path.read_bytes()
    large = b"".join(journal.encode_group(SEED, 2, [journal.encode_entry(1, b"r" * 40, b"leaf", bytes(3 << 20))], offsets[1]))
    end = offsets[1] + len(large)
    last = b"".join(journal.encode_group(SEED, 3, [make_entry(3)], end))
    path.write_bytes(data + large[:50] + b"\xff" + large[51:] + last)
    follower = follow(path)
    reading = follower.read()
    assert [group.sequence for group in reading.groups] == [1]
    follower.moved_to(reading.position)
    reading = follower.read()
    assert reading.damage == [offsets[1]]
    assert [group.sequence for group in reading.groups] == [3]
    follower.close()


def test_groups_larger_than_one_read_are_taken_whole(tmp_path: Path) -> None:
    path, offsets = make_segment(tmp_path, groups=1)
    large = [journal.encode_entry(1, b"r" * 40, b"leaf", os.urandom(size)) for size in (3 << 20, 900_000, 900_000)]
    with path.open("ab") as file:
        for number, entry in enumerate(large):
            file.write(b"".join(journal.encode_group(SEED, 2 + number, [entry], offsets[1])))
    follower = follow(path)
    sequences = []
    end = End.NOT_YET
    while end is End.NOT_YET:
        reading = follower.read()
        sequences += [group.sequence for group in reading.groups]
        assert reading.groups
        end = reading.end
        follower.moved_to(reading.position)
    assert sequences == [1, 2, 3, 4]
    follower.close()


def test_nothing_behind_a_void_is_read(tmp_path: Path) -> None:
    path, offsets = make_segment(tmp_path, groups=3)
    follower = follow(path)
    follower.void_from = offsets[1]
    reading = follower.read()
    assert (reading.position, reading.end) == (offsets[1], End.CLEAN)
    follower.close()


def test_a_survey_counts_what_waits_without_reading_it(tmp_path: Path) -> None:
    path, offsets = make_segment(tmp_path, groups=3, size=50_000)
    follower = follow(path)
    survey = follower.survey()
    assert (survey.bytes, survey.records) == (offsets[3] - offsets[0], 6)
    assert survey.oldest_us > 1_700_000_000_000_000
    follower.moved_to(offsets[2])
    assert follower.survey().records == 2
    follower.moved_to(offsets[3])
    assert follower.survey().bytes == 0
    follower.close()


def test_a_file_is_locked_and_preallocated_before_it_has_its_name(tmp_path: Path) -> None:
    directory = DiskDirectory(tmp_path / "journal")
    file = directory.create("a.seg", b"header", 10_000, zero_fill=True)
    path = tmp_path / "journal" / "a.seg"
    assert path.stat().st_size == 10_000
    assert path.read_bytes() == b"header".ljust(10_000, b"\0")
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.close()
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    with pytest.raises(FileExistsError):
        directory.create("a.seg", b"header")
    assert [entry.name for entry in (tmp_path / "journal").iterdir()] == ["a.seg"]
