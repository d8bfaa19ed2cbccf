from __future__ import annotations

from worker.fetch.sources import Candidate, candidates
from worker.rows import Row

ROW = Row(
    position=0,
    url="https://farm3.staticflickr.com/5310/5898076654_51085e157c_o.jpg",
    id="4fa8054781a4c382",
    subset="train",
    thumbnail="https://c1.staticflickr.com/6/5310/5898076654_00643a940c_z.jpg",
)


def test_candidates_come_in_the_order_of_the_sources() -> None:
    assert candidates(ROW, ("original", "mirror", "thumbnail"), mirror_url="https://mirror.example/copy/") == [
        Candidate("original", ROW.url),
        Candidate("mirror", "https://mirror.example/copy/train/4fa8054781a4c382.jpg"),
        Candidate("thumbnail", ROW.thumbnail),
    ]


def test_the_mirror_needs_an_id_and_a_subset() -> None:
    for row in (Row(position=0, url="a", id="b"), Row(position=0, url="a", subset="train")):
        assert candidates(row, ("mirror",), mirror_url="https://mirror.example") == [Candidate("mirror", "")]


def test_an_id_cannot_leave_the_mirror() -> None:
    row = Row(position=0, url="a", id="../?x=ü#", subset="//evil.example")
    assert candidates(row, ("mirror",), mirror_url="https://mirror.example") == [
        Candidate("mirror", "https://mirror.example/%2F%2Fevil.example/..%2F%3Fx%3D%C3%BC%23.jpg")
    ]


def test_a_mirror_in_a_bucket_gives_keys_without_percent_encoding() -> None:
    row = Row(position=0, url="a", id="b c", subset="train")
    assert candidates(row, ("mirror",), mirror_url="s3://bucket/copy/") == [
        Candidate("mirror", "s3://bucket/copy/train/b c.jpg")
    ]
