"""When signed addresses expire."""

from __future__ import annotations

import pytest

from sam3ray.video._signed import is_short_lived, valid_until

NOON = 1_795_694_400.0  # 2026-11-26, 12:00 UTC


@pytest.mark.parametrize(
    ("query", "until"),
    [
        ("X-Amz-Date=20261126T120000Z&X-Amz-Expires=604800&X-Amz-Signature=a", NOON + 604_800),
        ("x-goog-date=20261126T120000Z&x-goog-expires=60&x-goog-signature=a", NOON + 60),
        ("sv=1&se=2026-11-26T12%3A00%3A00Z&sig=a", NOON),
        ("sv=1&se=2026-11-26T12:00Z&sig=a", NOON),
        ("sv=1&se=2026-11-26&sig=a", NOON - 43_200),
        ("Expires=1795694400&Signature=a", NOON),
        ("Expires=1795694400&X-Amz-Date=20261126T120000Z&X-Amz-Expires=9", NOON),  # the earlier one
        ("se=2026-11-26&id=7", None),  # not Azure's
        ("X-Amz-Expires=604800&X-Amz-Signature=a", None),
        ("X-Amz-Date=20261126T120000Z&X-Amz-Signature=a", None),
        ("X-Amz-Date=today&X-Amz-Expires=604800", None),
        ("X-Amz-Date=20261126T120000Z&X-Amz-Expires=-1", None),
        ("Expires=1795694400&Expires=9795694400", None),  # whichever the server takes
        ("Expires=1795694400000", None),
        ("Expires=٩٩٩٩٩٩٩٩٩٩", None),
        ("Expires=Thu", None),
        ("sv=1&se=2026-13-26T12:00:00Z&sig=a", None),
        ("token=a", None),
        ("", None),
    ],
)
def test_an_address_says_when_it_expires(query: str, until: float | None) -> None:
    assert valid_until(f"https://store.example/long.mp4?{query}#Expires=1") == until


@pytest.mark.parametrize(
    ("uri", "is_short"),
    [
        ("https://store.example/long.mp4", False),
        ("https://store.example/long.mp4?id=7", False),
        ("s3://bucket/long.mp4", False),
        (f"https://store.example/long.mp4?Signature=a&Expires={int(NOON) + 86_400}", False),
        (f"https://store.example/long.mp4?Signature=a&Expires={int(NOON) + 86_399}", True),
        (f"https://store.example/long.mp4?Signature=a&Expires={int(NOON) - 1}", True),
        ("https://store.example/long.mp4?token=a", True),
    ],
)
def test_an_address_that_may_expire_while_the_clip_is_worked_on_is_short_lived(uri: str, is_short: bool) -> None:
    assert is_short_lived(uri, NOON) is is_short
