"""SSH keys as text: the public half of a private one, and the keys of hosts."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

from litebot.errors import LitebotError

BEGIN, END = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"
MAGIC = b"openssh-key-v1\0"
HOST_KEY_HINT = "write its type and its key as in a known_hosts file: ssh-ed25519 AAAA..."


class NoKey(LitebotError):
    """A text is no private key that can be used; the message says why."""


def public_half(private: str) -> str:
    """Return the public half of a private key, as in an authorized_keys file.

    Raises NoKey if it is none in the format of OpenSSH, or has a passphrase.
    Source: PROTOCOL.key of OpenSSH
    """
    text = private.strip()
    if not (text.startswith(BEGIN) and text.endswith(END)):
        raise NoKey("it is no private key in the format of OpenSSH")
    try:
        data = base64.b64decode("".join(text.removeprefix(BEGIN).removesuffix(END).split()))
        if not data.startswith(MAGIC):
            raise ValueError(data[:16])
        cipher, rest = _string(data[len(MAGIC) :])
        _, rest = _string(rest)
        _, rest = _string(rest)
        public, _ = _string(rest[4:])
        kind, _ = _string(public)
    except (ValueError, struct.error) as error:
        raise NoKey("it is a private key that is damaged") from error
    if cipher != b"none":
        raise NoKey("it is a private key with a passphrase, which nobody is there to type")
    return f"{kind.decode('ascii', 'replace')} {base64.b64encode(public).decode()}"


def _string(data: bytes) -> tuple[bytes, bytes]:
    """Return the string at the beginning of some data, and what follows."""
    (length,) = struct.unpack(">I", data[:4])
    if len(data) < 4 + length:
        raise ValueError(f"{length} bytes are said, {len(data) - 4} are there")
    return data[4 : 4 + length], data[4 + length :]


def check_host_key(text: str) -> str:
    """Return the key of a host without its comment.  Raises LitebotError if it is none."""
    if not text:
        return text
    kind, _, rest = text.partition(" ")
    key = rest.split(" ")[0]
    try:
        named, _ = _string(_decoded(key))
    except (ValueError, struct.error) as error:
        raise LitebotError("it is no public key", HOST_KEY_HINT) from error
    if named.decode("ascii", "replace") != kind:
        raise LitebotError(f"its key is not of the type {kind!r:.40}", HOST_KEY_HINT)
    return f"{kind} {key}"


def fingerprint(public: str) -> str:
    """Return the fingerprint of a public key or a host's key, as ssh shows it: SHA256:..."""
    digest = hashlib.sha256(_decoded(public.split(" ")[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def type_of(public: str) -> str:
    """Return the type of a public key, such as ssh-ed25519."""
    return public.partition(" ")[0]


def _decoded(key: str) -> bytes:
    try:
        return base64.b64decode(key, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
