"""What kind of file some bytes are: the same answer as puremagic's, found faster."""

from __future__ import annotations

import random

import puremagic
import pytest
from puremagic.main import magic_footer_array, magic_header_array, multi_part_dict

from towpath.media import HEAD, UNKNOWN, _signed, media_of_bytes


def theirs(head: bytes) -> str:
    try:
        return str(puremagic.from_string(head, mime=True))
    except puremagic.PureError:
        return ""


def signed_with(rows: list[tuple[int, bytes]], size: int, chance: random.Random) -> bytes:
    """Random bytes with some signatures in their places."""
    data = bytearray(chance.randbytes(size))
    for offset, signature in rows:
        start = offset if offset >= 0 else size + offset
        if start >= 0 and start + len(signature) <= size:
            data[start : start + len(signature)] = signature
    return bytes(data)


@pytest.mark.parametrize("size", [64, 600, HEAD])
def test_every_signature_is_told_as_puremagic_tells_it(size: int) -> None:
    chance = random.Random(size)
    for row in (*magic_header_array, *magic_footer_array):
        head = signed_with([(row.offset, row.byte_match)], size, chance)
        assert _signed(head) == theirs(head), row


def test_signatures_with_a_second_part_and_pairs_of_signatures() -> None:
    chance = random.Random(7)
    pairs = [
        ((first.offset, first.byte_match), (second.offset, second.byte_match))
        for first in magic_header_array
        for second in multi_part_dict.get(first.byte_match, ())
    ]
    single = [(row.offset, row.byte_match) for row in (*magic_header_array, *magic_footer_array)]
    pairs += [(chance.choice(single), chance.choice(single)) for _ in range(500)]
    for pair in pairs:
        head = signed_with(list(pair), HEAD, chance)
        assert _signed(head) == theirs(head), pair


def test_bytes_without_a_signature() -> None:
    chance = random.Random(3)
    for size in (1, 2, 7, 100, HEAD):
        head = chance.randbytes(size)
        assert _signed(head) == theirs(head)
    assert media_of_bytes(b"\xff\xfe\x01" * 50) == theirs(b"\xff\xfe\x01" * 50) or UNKNOWN
    assert media_of_bytes(b"a note\n") == "text/plain"
