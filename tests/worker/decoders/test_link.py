"""Messages between a worker and its decoders arrive as they were sent, however long they are."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.format.reasons import Reason
from worker.decoders.link import (
    MAX_LOCATION_CHARS,
    MAX_TEXT_CHARS,
    PACKED_BYTES,
    PACKET_BYTES,
    SOCKET_BYTES,
    Bug,
    Decoded,
    DecodeLarge,
    Died,
    Ended,
    Fetched,
    Grant,
    Large,
    Need,
    NoMemory,
    Orders,
    Ready,
    Room,
    Slots,
    Start,
    Undecodable,
    largest_size,
    reports_from_packet,
    reports_to_packets,
    sendable,
)
from worker.fetch.chain_cookies import COOKIE_OVERHEAD, MAX_COOKIE_CHARS
from worker.fetch.image_url import MAX_URL_CHARS, parse_http_url
from worker.fetch.local_image import MAX_PATH_CHARS
from worker.fetch.resolvers import MAX_ADDRESSES
from worker.fetch.transport import Answered, Broken, Get, ReadFile, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.decoders.link import Order, Report

numbers = st.integers(0, 2**53)
seconds = st.floats(0, 1e6)
ascii_texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300)
any_texts = st.text(max_size=300) | st.binary(max_size=50).map(lambda data: data.decode("utf-8", "surrogateescape"))
rotations = st.sampled_from([0, 90, 180, 270])
gets = st.builds(
    Get,
    url=ascii_texts,
    host=ascii_texts,
    port=st.integers(1, 65_535),
    addresses=st.lists(st.ip_addresses().map(str), max_size=MAX_ADDRESSES).map(tuple),
    is_guarded=st.booleans(),
    proxy=ascii_texts,
    is_probe=st.booleans(),
    rotation=rotations,
    granted_bytes=numbers,
    first=numbers,
    length=numbers,
    tag=any_texts,
    cookie=st.text(st.characters(max_codepoint=255), max_size=50),
    checks_certificate=st.booleans(),
)
orders = st.one_of(
    st.builds(Room, numbers, numbers),
    st.builds(Slots, st.lists(st.integers(0, 100_000), max_size=8)),
    st.builds(Start, numbers, gets | st.builds(ReadFile, any_texts, rotations, numbers, numbers, numbers, any_texts)),
    st.builds(Grant, numbers, numbers),
    st.builds(DecodeLarge, numbers),
)
reasons = st.sampled_from(Reason)
cookies = st.lists(st.text(st.characters(max_codepoint=255), max_size=20), max_size=3).map(tuple)
reports = st.one_of(
    st.builds(Ready, numbers),
    st.builds(Need, numbers, numbers, st.booleans()),
    st.builds(Fetched, numbers, numbers),
    st.builds(Ended, numbers, st.builds(Answered, numbers, any_texts, any_texts, numbers, cookies)),
    st.builds(Ended, numbers, st.builds(Broken, st.sampled_from(Verdict), reasons, any_texts, numbers, st.booleans())),
    st.builds(Decoded, numbers, numbers, seconds, seconds),
    st.builds(Undecodable, numbers, reasons, any_texts, seconds),
    st.builds(Large, numbers),
    st.just(NoMemory()),
    st.builds(Bug, any_texts),
    st.builds(Died, st.integers(-64, 255)),
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection as a worker makes it for each decoder."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        for end in (one, other):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        yield one, other


def types_of(values: object) -> object:
    """Return the types within nested tuples and lists, in which a text and a member of a StrEnum may be equal."""
    if isinstance(values, (tuple, list)):
        return type(values), [types_of(value) for value in values]
    return type(values)


@settings(deadline=None)
@given(st.integers(0, 1000), st.lists(orders, max_size=10))
def test_orders_arrive_as_they_were_sent(generation: int, sent: list[Order]) -> None:
    packet = Orders(generation, sent).to_packet()
    arrived = Orders.from_packet(packet)
    assert arrived.generation == generation
    # JSON has no tuples.
    assert [_with_tuples(order) for order in arrived.orders] == sent
    assert [type(order) for order in arrived.orders] == [type(order) for order in sent]
    assert len(packet) <= sum(map(largest_size, sent)) + 30


def test_of_an_ordinary_request_nothing_is_sent_that_all_have_in_common() -> None:
    ordinary = Get("https://a.example/a.jpg", "a.example", 443, (), False, "", False, 0, 1)
    packet = Orders(0, [Start(7, ordinary), Start(8, ordinary._replace(picture_side=9))]).to_packet()
    (_, short, long), arrived = json.loads(packet), Orders.from_packet(packet)
    assert (len(short), len(long)) == (3 + 9, 3 + len(Get._fields))
    assert [_with_tuples(order) for order in arrived.orders] == [
        Start(7, ordinary),
        Start(8, ordinary._replace(picture_side=9)),
    ]


def _with_tuples(order: Order) -> Order:
    if isinstance(order, Start) and isinstance(order.order, Get):
        return Start(order.job, order.order._replace(addresses=tuple(order.order.addresses)))
    return order


@settings(deadline=None)
@given(st.lists(reports, max_size=20))
def test_reports_arrive_with_their_types_and_fields(sent: list[Report]) -> None:
    arrived = [report for packet in reports_to_packets(sent) for report in reports_from_packet(packet)]
    assert arrived == sent
    assert types_of(arrived) == types_of(sent)


def longest_orders() -> list[Start]:
    url = parse_http_url("https://images.example/" + "\u00e4" * (65_536 // 2)).text
    assert url.count("%") == 65_536
    get = Get(
        url=url,
        host="images.example",
        port=443,
        addresses=("2001:db8:1111:2222:3333:4444:5555:6666",) * MAX_ADDRESSES,
        is_guarded=True,
        proxy="http://proxy.example/".ljust(2000, "p"),
        is_probe=False,
        rotation=270,
        granted_bytes=2**40,
        first=2**40,
        length=2**40,
        tag="\xff" * 200,
        cookie="\u00e4" * MAX_COOKIE_CHARS,
    )
    path = ReadFile("/" + "\N{GRINNING FACE}" * (MAX_PATH_CHARS - 1), 270, 2**40, 2**40, 2**40, f"{2**40} {2**63}")
    return [
        Start(2**40, get),
        Start(2**40, get._replace(url="https://images.example/".ljust(MAX_URL_CHARS, "a"))),
        Start(2**40, path),
    ]


@pytest.mark.parametrize("order", longest_orders(), ids=["percent-encoded URL", "longest URL", "longest path"])
def test_the_longest_order_fits_in_a_packet_behind_others(
    order: Start, ends: tuple[socket.socket, socket.socket]
) -> None:
    others = [DecodeLarge(2**40)] * (PACKED_BYTES // largest_size(DecodeLarge(1)))
    assert sum(map(largest_size, others)) + largest_size(order) < PACKET_BYTES - 30
    ends[0].send(Orders(2**20, [*others, order]).to_packet())
    arrived = Orders.from_packet(ends[1].recv(PACKET_BYTES))
    assert _with_tuples(arrived.orders[-1]) == order


@pytest.mark.parametrize("character", ["a", "\N{GRINNING FACE}", "\udc80"])
def test_the_longest_redirects_fit_however_many_come_at_once(
    character: str, ends: tuple[socket.socket, socket.socket]
) -> None:
    few, many = ("\u00e4" * (MAX_COOKIE_CHARS - COOKIE_OVERHEAD),), ("",) * (MAX_COOKIE_CHARS // COOKIE_OVERHEAD)
    sent = [
        Ended(2**40 + n, Answered(302, character * MAX_LOCATION_CHARS, "x" * 200, 10**9, many if n % 2 else few))
        for n in range(16)
    ]
    arrived: list[Report] = []
    for packet in reports_to_packets([*sent, Decoded(1, 2, 0.5, 0.5)]):
        ends[0].send(packet)
        arrived += reports_from_packet(ends[1].recv(PACKET_BYTES))
    assert arrived == [*sent, Decoded(1, 2, 0.5, 0.5)]


@pytest.mark.parametrize("character", ["a", "\0", "\u00c4", "\N{GRINNING FACE}", "\udc80"])
def test_the_end_of_a_long_text_fits_in_a_packet(character: str) -> None:
    (packet,) = reports_to_packets([Bug(sendable(character * 100_000 + "the end"))])
    assert len(packet) <= PACKET_BYTES
    (arrived,) = reports_from_packet(packet)
    assert isinstance(arrived, Bug)
    assert arrived.traceback.endswith("the end")
    assert len(arrived.traceback) == MAX_TEXT_CHARS
    arrived.traceback.encode()  # can be stored


@pytest.mark.parametrize(
    "sent",
    [
        *([], ["Large"], ["Large", "1"], ["Large", 1, 2], ["Ready"], "Ready", None, 1, {"Ready": 1}, ["Start", 1]),
        *(["Undecodable", 1, "corrupt", ""], ["Undecodable", 1, "no reason", "", 0.5], ["Decoded", 1, 2, 0.5]),
        *(["Decoded", 1, 2, "0.5", 0.5], ["Need", 1, 2], ["Need", 1, 2, 3], ["Fetched", 1], ["Fetched", 1, 2.5]),
        *(["Ended", 1, "Answered", 200, "", "", 0], ["Ended", 1, "Answered", "200", "", "", 0, []]),
        *(["Ended", 1, "Answered", 200, "", "", 0, "a"], ["Ended", 1, "Broken", "final", "timeout", "", 0]),
        ["Ended", 1, "Get", "", 0],
        ["Ended", 1, "Broken", "final", "no reason", "", 0, False],
        ["Ended", 1, "Broken", "no verdict", "timeout", "", 0, False],
        *(["Bug"], ["Bug", 1], ["NoMemory", 1], ["Died", "11"], ["Died"], [["Large", 1]]),
    ],
    ids=repr,
)
def test_any_other_report_is_refused(sent: object) -> None:
    with pytest.raises(ValueError, match="is not a"):
        reports_from_packet(json.dumps([sent]).encode())
