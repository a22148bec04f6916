"""Whom a connection to the service trusts, and over which it is refused to send a token."""

from __future__ import annotations

import ipaddress
import ssl

from dure.model.errors import InputError


def trust_of(ca_file: str) -> ssl.SSLContext:
    """The system's certificate authorities, and those in a file (PEM), if one is named.

    Raises
    ------
    InputError
        The file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"is no file of certificates: {error}", ca_file, field="DURE_CA_FILE") from None
    return context


def check_encrypted(scheme: str, host: str, is_insecure: bool) -> None:
    """Whether a token may be sent to a host.

    Raises
    ------
    InputError
        It would go to another machine unencrypted, which only ``is_insecure`` allows.
    """
    if scheme != "https" and not is_insecure and not _is_this_machine(host):
        raise InputError(
            f"the token would go to {host} unencrypted: use https://, or --insecure (DURE_INSECURE=1) on a network that you trust",
            field="DURE_URL",
        )  # fmt: skip


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
