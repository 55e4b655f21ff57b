"""Who may have a session over the network, decided once at the start.

- ``piton.repl=off`` on the kernel command line: nobody. ``piton.repl=PORT``: on that port instead of 5000.
- An image that was made with a token (``/etc/piton/repl-token``: the SHA-256 of it): whoever knows it, on every board.
- Without a token: everybody where the machine is QEMU's ``virt``, whose network is the host's own and forwards only
  what the host was told to; nobody elsewhere. It is ``virt`` when the device tree's root is compatible to
  ``linux,dummy-virt`` and QEMU's firmware interface is there. QEMU's model of a real board looks like the real board
  and counts as one.

``/etc/piton/repl-cert.pem`` and ``repl-key.pem``, where they are, put TLS over it.
"""

import os

TOKEN = "/etc/piton/repl-token"
CERTIFICATE = "/etc/piton/repl-cert.pem"
KEY = "/etc/piton/repl-key.pem"
_PARAMETER = "piton.repl="


class Settings:
    """What was decided. ``refused`` is None when sessions are offered, else why not ("" when it was asked for)."""

    def __init__(self, port: int, refused: str | None = None, token: bytes | None = None, tls: bool = False):
        self.port = port
        self.refused = refused
        #: The SHA-256 of the token; None where none is asked for.
        self.token = token
        self.tls = tls


def settings(root: str = "") -> Settings:
    """Decide by the files below *root*."""
    from piton.repl import PORT

    port = PORT
    for word in _text(f"{root}/proc/cmdline").split():
        if word.startswith(_PARAMETER):
            value = word[len(_PARAMETER) :]
            if value == "off":
                return Settings(0, "")
            if not value.isascii() or not value.isdigit() or not 0 < int(value) < 65536:
                return Settings(0, f"{word} on the kernel command line is neither a port nor off")
            port = int(value)
    tls = os.path.exists(root + CERTIFICATE)
    if os.path.exists(root + TOKEN):
        try:
            token = bytes.fromhex(_text(root + TOKEN))
        except ValueError:
            token = b""
        if len(token) != 32:
            return Settings(0, f"{TOKEN} is not the SHA-256 of a token")
        return Settings(port, None, token, tls)
    compatible = _text(f"{root}/proc/device-tree/compatible").split("\0")
    if "linux,dummy-virt" in compatible and os.path.isdir(f"{root}/sys/firmware/qemu_fw_cfg"):
        return Settings(port, None, None, tls)
    return Settings(0, "the image has no token (docs/using.md) and this is not QEMU's virt machine")


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def context():
    """Make the TLS context of the server.

    :raises OSError: certificate or key cannot be used.
    """
    import ssl

    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # One file may have both.
    made.load_cert_chain(CERTIFICATE, KEY if os.path.exists(KEY) else None)
    return made
