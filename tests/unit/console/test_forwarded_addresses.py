"""The address that a trusted proxy names, in the forms in which proxies write it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from dicom_console.web.limits import address_of


@pytest.mark.parametrize(
    ("passed", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:4711, 10.0.0.9:80", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("192.0.2.1, [2001:db8::2]", "2001:db8::2"),
        ("192.0.2.1, unknown", "10.0.0.1"),
        ("192.0.2.1:", "10.0.0.1"),
    ],
)
def test_each_visitor_behind_a_proxy_has_an_address(passed: str, address: str) -> None:
    scope = {"client": ("10.0.0.1", 5), "headers": [(b"x-forwarded-for", passed.encode())]}
    assert address_of(scope, [ip_network("10.0.0.0/8")]) == address
