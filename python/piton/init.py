"""Process 1: what runs when the kernel is up.

Started by the kernel as ``python3 -m piton.init``. With a script handed over by the virtual machine it becomes that
script, and the machine goes off with its status; otherwise it serves the console for ever. The kernel starts it anew
when it ends.
"""

import faulthandler
import os
import site
import sys

from piton.system import COMMANDS, clock_is_set, firmware_file, write_control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: Where the certificates of the host are.
_CA_BUNDLE = "/run/ca-bundle.pem"


def _set_up_terminal() -> None:
    """Take over name and size of the terminal behind the serial port where the host told them."""
    described = firmware_file("opt/piton/terminal")
    if described is None:
        return
    values = dict(word.split("=", 1) for word in described.decode().split() if "=" in word)
    if "TERM" in values:
        os.environ["TERM"] = values["TERM"]
    try:
        size = int(values["LINES"]), int(values["COLUMNS"])
    except (KeyError, ValueError):
        return
    import termios

    termios.tcsetwinsize(0, size)


def _extend_path() -> None:
    """Have commands found in the user's own folder first, then in Piton's."""
    home = os.path.expanduser("~")
    os.environ["PATH"] = os.pathsep.join((f"{home}/bin", COMMANDS, os.environ.get("PATH", os.defpath)))


def _open_user_site() -> None:
    """Have what pip installs found at once: Python looks there only if the folder was there when it began."""
    folder = site.getusersitepackages()
    if folder not in sys.path:
        os.makedirs(folder, exist_ok=True)
        # Before the image's own packages, where Python would have put it.
        place = next((at for at, path in enumerate(sys.path) if path.endswith("-packages")), len(sys.path))
        sys.path.insert(place, folder)


def _take_over_host_settings() -> None:
    """Use the package index and the certificates that the host handed over in place of the image's own."""
    index = firmware_file("opt/piton/pip-index")
    if index is not None:
        os.environ["PIP_INDEX_URL"] = index.decode()
    bundle = firmware_file("opt/piton/ca-bundle")
    if bundle is not None:
        with open(_CA_BUNDLE, "wb") as file:
            file.write(bundle)
        # OpenSSL, and with it Python's ssl, reads the first; pip, requests and curl have their own.
        for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            os.environ[name] = _CA_BUNDLE


def _turn_echo_off() -> None:
    """Stop the console from repeating its input."""
    import termios

    attributes = termios.tcgetattr(0)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, attributes)


def _run_script(source: bytes) -> "NoReturn":
    """Become the script: the same interpreter, with the script's own exit status and tracebacks."""
    ended = os.environ.pop("PITON_LAST_END", None)
    if ended is not None:
        # The script ended so hard that the kernel could not take its status; it is in the environment.
        from piton.power import poweroff

        kind, number = ended.split()
        poweroff(int(number) if kind == "status" else 128 + int(number))
    import json

    if firmware_file("opt/piton/terminal") is None:
        # The host collects the output: no colours, no cursor movement, no echo of what it sends.
        os.environ["TERM"] = "dumb"
        _turn_echo_off()
    name = firmware_file("opt/piton/script-name") or b"script.py"
    path = os.path.join("/run", os.path.basename(name.decode()))
    with open(path, "wb") as file:
        file.write(source)
    arguments = json.loads(firmware_file("opt/piton/args") or b"[]")
    write_control("at_end", "off\n")
    os.execv(sys.executable, [sys.executable, "-X", "faulthandler", path, *arguments])


def _report_last_end() -> None:
    """Say why process 1 was started again."""
    ended = os.environ.pop("PITON_LAST_END", None)
    if ended is not None:
        print(f"process 1 ended ({ended}) and was started again", file=sys.stderr)


def main() -> "NoReturn":
    """Run the script that was handed over, or the console."""
    faulthandler.enable()
    _extend_path()
    _open_user_site()
    _take_over_host_settings()
    script = firmware_file("opt/piton/script")
    if script is not None:
        _run_script(script)
    _set_up_terminal()
    _report_last_end()
    if not clock_is_set():
        from piton import ntp

        ntp.start()
    from piton.console import serve

    serve()


if __name__ == "__main__":
    main()
