from __future__ import annotations

import datetime
import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidance_core.grammar.formats import EXACT_FORMATS


@given(st.dates())
def test_every_date_is_one(date: datetime.date) -> None:
    assert re.search(EXACT_FORMATS["date"], date.isoformat())


@given(st.integers(0, 9999), st.integers(0, 13), st.integers(0, 32))
def test_nothing_else_is_a_date(year: int, month: int, day: int) -> None:
    text = f"{year:04}-{month:02}-{day:02}"
    try:
        datetime.date(year, month, day)
    except ValueError:
        assert not re.search(EXACT_FORMATS["date"], text)
    else:
        assert re.search(EXACT_FORMATS["date"], text)


@pytest.mark.parametrize("text", ["00:00:00Z", "23:59:59.5+05:30", "23:59:60Z", "12:30:15.123456z"])
def test_times_of_rfc_3339_are_times(text: str) -> None:
    assert re.search(EXACT_FORMATS["time"], text)
    assert re.search(EXACT_FORMATS["date-time"], f"2024-02-29T{text}")


@pytest.mark.parametrize("text", ["24:00:00Z", "12:00:60Z", "12:00:00", "12:00Z", "12:00:00+24:00", "12:00:00.Z"])
def test_other_times_are_not(text: str) -> None:
    assert not re.search(EXACT_FORMATS["time"], text)
    assert not re.search(EXACT_FORMATS["date-time"], f"2024-02-28T{text}")


_groups = st.one_of(st.sampled_from(["", "0", "aB9", "12345", "1.2.3.4", "1.2.3.256"]), st.from_regex("[0-9a-f]{1,4}"))


@given(st.one_of(st.ip_addresses(v=6).map(str), st.lists(_groups, min_size=2, max_size=10).map(":".join)))
def test_ipv6_addresses_are_pythons(text: str) -> None:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        assert not re.search(EXACT_FORMATS["ipv6"], text)
    else:
        assert re.search(EXACT_FORMATS["ipv6"], text)


@pytest.mark.parametrize("text", ["a", "a1", "a-b", "1.2.3", "a--b", "ab-c", "abc-d", "x" * 63])
def test_host_names(text: str) -> None:
    assert re.search(EXACT_FORMATS["hostname"], text)


@pytest.mark.parametrize("text", ["", "-a", "a-", "a.", ".a", "a..b", "a_b", "ab--c", "XN--11b2er09f", "x" * 64])
def test_other_names_are_not(text: str) -> None:
    assert not re.search(EXACT_FORMATS["hostname"], text)
