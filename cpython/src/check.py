"""Import check of a root image; runs in the image's own Python.

Arguments: the tree, and "tests" or "no-tests". Fails with one line per finding.
"""

import contextlib
import importlib
import importlib.util
import io
import marshal
import os
import sys

tree = sys.argv[1]
has_tests = sys.argv[2] == "tests"
findings = []

# Modules of other operating systems, of Tk, with side effects, and Debian's hook for the removed distutils.
ABSENT = {
    "_distutils_system_mod", "_ios_support", "_osx_support", "_overlapped", "_scproxy", "_tkinter", "_winapi", "_wmi", "antigravity", "idlelib",
    "msilib", "msvcrt", "nt", "ntpath", "this", "tkinter", "turtle", "turtledemo", "winreg", "winsound",
}
imported = 0
for name in sorted(sys.stdlib_module_names - ABSENT):
    if name.startswith("_") and importlib.util.find_spec(name) is None:
        findings.append(f"module {name} is not there")
        continue
    try:
        importlib.import_module(name)
        imported += 1
    except Exception as error:
        findings.append(f"import {name}: {type(error).__name__}: {error}")

library = os.path.dirname(os.__file__)
SKIPPED_SUBMODULES = ("test", "lib-dynload", "__pycache__", "site-packages", "turtledemo", "idlelib", "lib2to3")
submodules = 0
for top, directories, files in os.walk(library):
    directories[:] = sorted(d for d in directories if d not in SKIPPED_SUBMODULES)
    for file in sorted(files):
        if not file.endswith(".py") or file == "__main__.py":
            continue
        path = os.path.relpath(os.path.join(top, file), library)[:-3].replace("/", ".").removesuffix(".__init__")
        if path.split(".")[0] in ABSENT or "windows" in path or "win32" in path or "mbcs" in path or "oem" in path:
            continue
        try:
            importlib.import_module(path)
            submodules += 1
        except Exception as error:
            findings.append(f"import {path}: {type(error).__name__}: {error}")

compiled = 0
for start in (library, os.path.join(tree, "usr/lib/python3/dist-packages")):
    for top, directories, files in os.walk(start):
        if os.path.basename(top) == "__pycache__" or "/test/" in top + "/":
            continue
        for file in files:
            if not file.endswith(".py") or os.path.islink(os.path.join(top, file)):
                continue
            source = os.path.join(top, file)
            cached = importlib.util.cache_from_source(source)
            guest = source.removeprefix(tree.rstrip("/"))
            try:
                with open(cached, "rb") as stream:
                    data = stream.read()
            except OSError:
                findings.append(f"{guest} is not compiled")
                continue
            if data[:4] != importlib.util.MAGIC_NUMBER or data[4:8] != b"\1\0\0\0":
                findings.append(f"{guest}: its .pyc is not an unchecked-hash one of this Python")
            elif (found := marshal.loads(data[16:]).co_filename) != guest:
                findings.append(f"{guest}: its code says {found}")
            else:
                compiled += 1


def attempt(what, action):
    try:
        return action()
    except (Exception, SystemExit) as error:
        findings.append(f"{what}: {type(error).__name__}: {error}")


def certificates():
    import ssl
    context = ssl.create_default_context(cafile=tree + "/etc/ssl/certs/ca-certificates.crt")
    count = len(context.get_ca_certs())
    assert count > 100, f"{count} certificates"
    return count


def default_paths():
    import ssl
    paths = ssl.get_default_verify_paths()
    for path in (paths.openssl_cafile, paths.openssl_capath):
        assert os.path.exists(os.path.realpath(path)) or os.path.lexists(tree + path), path


def terminals():
    import curses
    for name in ("linux", "vt100", "vt220", "xterm", "xterm-256color", "screen", "screen-256color", "tmux",
                 "tmux-256color", "ansi", "dumb"):
        curses.setupterm(name, 1)


def zones():
    import datetime
    import zoneinfo
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    assert datetime.datetime(2030, 7, 1, tzinfo=berlin).utcoffset().seconds == 7200
    assert len(zoneinfo.available_timezones()) > 400


def locales():
    import locale
    assert locale.setlocale(locale.LC_ALL, "C.UTF-8") == "C.UTF-8"


def foreign_functions():
    import ctypes
    assert ctypes.CDLL("libc.so.6").abs(-7) == 7
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda value: value + 1)
    assert callback(1) == 2
    ctypes.CDLL("libstdc++.so.6")


def compressors():
    import bz2
    import lzma
    import zlib
    modules = [bz2, lzma, zlib]
    if sys.version_info >= (3, 14):
        from compression import zstd
        modules.append(zstd)
    for module in modules:
        assert module.decompress(module.compress(b"piton" * 100)) == b"piton" * 100


def databases():
    import dbm.gnu
    import dbm.ndbm
    import sqlite3
    assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)


def numbers():
    import _decimal
    import decimal
    assert decimal.Decimal is _decimal.Decimal


def configuration():
    import sysconfig
    assert sysconfig.get_config_var("SOABI").startswith("cpython-")
    assert sysconfig.get_paths()["stdlib"]


def names():
    import mimetypes
    import pwd
    import socket
    assert socket.getservbyname("https") == 443
    assert pwd.getpwuid(0).pw_dir == "/root"
    assert mimetypes.guess_type("a.png")[0] == "image/png"


def pip():
    from pip._internal.cli.main import main
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(["list", "--disable-pip-version-check"]) == 0
    assert "pip" in output.getvalue()
    # What an installation from an index imports: network, unpacking, resolving.
    import pip._internal.commands
    for name in pip._internal.commands.commands_dict:
        pip._internal.commands.create_command(name)
    import pip._internal.resolution.resolvelib.resolver
    import pip._vendor.rich.progress
    import pip._vendor.truststore


def test_suite():
    import _testcapi
    import test.support
    import test.test_dict


count = attempt("certificates", certificates)
for check in (default_paths, terminals, zones, locales, foreign_functions, compressors, databases, numbers,
              configuration, names, pip) + ((test_suite,) if has_tests else ()):
    attempt(check.__name__, check)

if findings:
    sys.exit("\n".join(findings))
print(f"{imported} modules and {submodules} submodules import; {compiled} .pyc files are right; {count} certificates")
