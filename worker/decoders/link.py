"""The messages between a worker and its decoders.

Messages travel on a socket. Image bytes stay in the decoder, and squares are in memory that all share. A packet holds
one or more messages. Every image is a job with a number.

    worker                                   decoder
                         <-- Ready           is started
    Room, Slots          -->                 may write squares into these slots of the shared memory
    Start(get or read)   -->                 makes the request
                         <-- Need            the body is larger than was granted (rare)
    Grant                -->
                         <-- Fetched         all bytes are there; or Ended: there is no image
                         <-- Decoded(slot)   the square is in the slot; or Undecodable
                         <-- Large           the image is a large one, whose turn must come (rare)
    DecodeLarge          -->
"""

from __future__ import annotations

import json
from collections.abc import Sequence  # noqa: TC003 - a field of a NamedTuple
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from common.format.reasons import Reason
from worker.fetch.transport import Answered, Broken, Get, ReadFile, Verdict

if TYPE_CHECKING:
    import socket

SOCKET_BYTES = 208 << 10
"""Size of the sockets' buffers in bytes, the largest that Linux allows by default (it doubles this for itself)."""

PACKET_BYTES = 256 << 10
"""Maximum size of a packet in bytes. The longest message, an order with a URL of 65,536 bytes that are all
percent-encoded, takes 200 KB."""

PACKED_BYTES = 16 << 10
"""Size in bytes from which a packet takes no further message."""

MAX_TEXT_CHARS = 2000
"""Maximum length of a text in a report. In JSON a character takes at most 12 bytes, so the text fits in a packet."""

MAX_LOCATION_CHARS = 16_000
"""Maximum length of a redirect's URL. A longer one is cut, and then leads nowhere."""


class Connection(NamedTuple):
    """A decoder's end of the connection to the worker. A decoder that replaces another takes over its connection."""

    link: socket.socket
    now_decoding: int
    """File descriptor of the page that names the job which the decoder decodes."""


# From the worker


class Room(NamedTuple):
    """The shared memory is ready for `slots` squares of `image_size` x `image_size` pixels."""

    slots: int
    image_size: int


class Slots(NamedTuple):
    """The decoder may write squares into these slots."""

    slots: list[int]


class Start(NamedTuple):
    """Fetch an image and decode it."""

    job: int
    order: Get | ReadFile


class Grant(NamedTuple):
    """The body may have `size` bytes."""

    job: int
    size: int


class DecodeLarge(NamedTuple):
    """Decode the image, although it is a large one."""

    job: int


Order: TypeAlias = Room | Slots | Start | Grant | DecodeLarge


def largest_size(order: Order) -> int:
    """Return an upper bound of the size of the order's message in bytes."""
    if isinstance(order, Start):
        asked = order.order
        if isinstance(asked, ReadFile):
            return 12 * (len(asked.path) + len(asked.tag)) + 150  # in JSON a character takes at most 12 bytes
        # URLs and hosts are ASCII, cookies and ETags Latin-1, and an address takes at most 45 characters.
        texts = len(asked.url) + len(asked.host) + len(asked.proxy) + 6 * len(asked.cookie) + 12 * len(asked.tag)
        return texts + 50 * len(asked.addresses) + 250
    return 12 * len(order.slots) + 100 if isinstance(order, Slots) else 100


# From a decoder


class Ready(NamedTuple):
    """A new decoder waits for orders."""

    generation: int
    """Number of decoders that have used this connection before."""


class Need(NamedTuple):
    """A body needs `size` bytes. None of its bytes is kept yet if `is_first`."""

    job: int
    size: int
    is_first: bool


class Fetched(NamedTuple):
    """All bytes of the image are in the decoder."""

    job: int
    length: int


class Ended(NamedTuple):
    """The request is over, and there is no image."""

    job: int
    outcome: Answered | Broken


class Decoded(NamedTuple):
    """The square is in the slot."""

    job: int
    slot: int
    worked_seconds: float
    """Time for which the image was decoded."""
    waited_seconds: float
    """Time for which the decoder then waited for a slot."""


class Undecodable(NamedTuple):
    """The image cannot be decoded."""

    job: int
    reason: Reason
    detail: str
    worked_seconds: float


class Large(NamedTuple):
    """The image is a large one. The decoder keeps its bytes and waits for `DecodeLarge`."""

    job: int


class NoMemory(NamedTuple):
    """The decoder's memory was not enough."""


class Bug(NamedTuple):
    """The code raised an exception that no image may cause."""

    traceback: str


class Died(NamedTuple):
    """A decoder ended. Another takes its place and sends `Ready`."""

    exit_code: int
    """Its exit code, or the negative number of the signal that ended it."""


Report: TypeAlias = Ready | Need | Fetched | Ended | Decoded | Undecodable | Large | NoMemory | Bug | Died


class Orders(NamedTuple):
    """A packet from the worker."""

    generation: int
    """The generation of the decoder that the orders are for. The decoder that replaces it ignores them."""
    orders: Sequence[Order]

    def to_packet(self) -> bytes:
        return json.dumps([self.generation, *map(_order_fields, self.orders)]).encode()

    @classmethod
    def from_packet(cls, packet: bytes) -> Orders:
        """Return what `to_packet` of the worker wrote."""
        generation, *messages = json.loads(packet)
        return cls(generation, [_order(name, fields) for name, *fields in messages])


def reports_to_packets(reports: Sequence[Report]) -> list[bytes]:
    """Return the reports as JSON: for each a list of its type's name and its fields. Long ones need several packets."""
    packet = json.dumps([_report_fields(report) for report in reports]).encode()
    if len(packet) <= PACKET_BYTES or len(reports) == 1:
        return [packet]
    # It is rare that reports with long texts come together.
    half = len(reports) // 2
    return reports_to_packets(reports[:half]) + reports_to_packets(reports[half:])


def _order_fields(order: Order) -> list[object]:
    if isinstance(order, Start):
        asked = order.order
        if isinstance(asked, Get) and asked[_REQUIRED_OF_GET:] == _DEFAULTS_OF_GET:
            return ["Start", order.job, "Get", *asked[:_REQUIRED_OF_GET]]
        return ["Start", order.job, type(asked).__name__, *asked]
    return [type(order).__name__, *order]


def _report_fields(report: Report) -> list[object]:
    if isinstance(report, Ended):
        return ["Ended", report.job, type(report.outcome).__name__, *report.outcome]
    return [type(report).__name__, *report]


def _order(name: str, fields: list[Any]) -> Order:
    if name != "Start":
        order: Order = _ORDERS[name](*fields)
        return order
    job, kind, *values = fields
    return Start(job, Get(*values) if kind == "Get" else ReadFile(*values))


_DEFAULTS_OF_GET = tuple(Get._field_defaults.values())
_REQUIRED_OF_GET = len(Get._fields) - len(_DEFAULTS_OF_GET)
"""Number of the fields that are sent of a Get that has the defaults in all others, as nearly all have."""

_ORDERS: dict[str, Any] = {each.__name__: each for each in (Room, Slots, Grant, DecodeLarge)}


def reports_from_packet(packet: bytes) -> list[Report]:
    """Return the reports of a packet. Raises ValueError for anything that no decoder sends."""
    return [_frequent_report(message) or _report(message) for message in json.loads(packet.decode())]


def _frequent_report(message: Any) -> Fetched | Decoded | None:  # noqa: ANN401 - from JSON
    """Return a report of one of the two kinds that every image has. Patterns with classes take five times as long."""
    match message:
        case ["Fetched", job, length] if type(job) is int and type(length) is int:
            return Fetched(job, length)
        case ["Decoded", job, slot, worked, waited] if (
            type(job) is int and type(slot) is int and type(worked) is float and type(waited) is float
        ):
            return Decoded(job, slot, worked, waited)
    return None


def _report(message: Any) -> Report:  # noqa: ANN401, PLR0911 - from JSON; one return for each type
    match message:
        case ["Ended", int(job), "Answered", int(status), str(location), str(retry_after), int(received), [*cookies]]:
            return Ended(job, Answered(status, location, retry_after, received, tuple(map(str, cookies))))
        case ["Ended", int(job), "Broken", str(verdict), str(reason), str(detail), int(received), bool(is_hosts)]:
            return Ended(job, Broken(Verdict(verdict), Reason(reason), detail, received, is_hosts))
        case ["Undecodable", int(job), str(reason), str(detail), float(worked)]:
            return Undecodable(job, Reason(reason), detail, worked)
        case ["Need", int(job), int(size), bool(is_first)]:
            return Need(job, size, is_first)
        case ["Ready", int(generation)]:
            return Ready(generation)
        case ["Large", int(job)]:
            return Large(job)
        case ["NoMemory"]:
            return NoMemory()
        case ["Bug", str(traceback)]:
            return Bug(traceback)
        case ["Died", int(exit_code)]:
            return Died(exit_code)
    raise ValueError(f"a decoder sent {str(message)[:100]!r}, which is not a report")


def sendable(text: str) -> str:
    """Return the last MAX_TEXT_CHARS characters, with escapes for what UTF-8 cannot encode."""
    # Not the first characters, because the end of a traceback names the error.
    return text.encode("utf-8", "backslashreplace").decode()[-MAX_TEXT_CHARS:]
