"""pip in the image, in the user's site and in a virtual environment made here, all without a network.

Prints ``well`` at the end.
"""

import os
import subprocess
import zipfile

WHEEL = "/tmp/piton_probe-1.0-py3-none-any.whl"
INFORMATION = "piton_probe-1.0.dist-info"
FILES = {
    "piton_probe.py": "def main():\n    print('probed')\n",
    f"{INFORMATION}/METADATA": "Metadata-Version: 2.1\nName: piton-probe\nVersion: 1.0\n",
    f"{INFORMATION}/WHEEL": "Wheel-Version: 1.0\nGenerator: probe\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFORMATION}/entry_points.txt": "[console_scripts]\npiton-probe = piton_probe:main\n",
}


def output(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, (command, done.returncode, done.stdout)
    return done.stdout


with zipfile.ZipFile(WHEEL, "w") as wheel:
    for name, text in FILES.items():
        wheel.writestr(name, text)
    names = [*FILES, f"{INFORMATION}/RECORD"]
    wheel.writestr(names[-1], "".join(f"{name},,\n" for name in names))

version = output("pip", "--version")
assert version.startswith("pip ") and " from /usr/lib/python3/dist-packages/pip " in version, version
assert output("python3", "-m", "pip", "--version") == version
assert output("sh", "-c", "pip --version") == version

# Without an option: the system is read-only, so that pip takes the user's site, and warns of nothing.
said = output("pip", "install", "--no-index", WHEEL)
assert "Successfully installed piton-probe-1.0" in said and "WARNING" not in said, said
assert output("piton-probe") == "probed\n"
assert "/root/.local/lib/python3" in output("python3", "-c", "import piton_probe; print(piton_probe.__file__)")
output("pip", "uninstall", "--yes", "piton-probe")

output("python3", "-m", "venv", "/tmp/v")
version = output("/tmp/v/bin/pip", "--version")
assert " from /tmp/v/lib/python3" in version, version
output("/tmp/v/bin/pip", "install", "--no-index", WHEEL)
assert output("/tmp/v/bin/piton-probe") == "probed\n"
assert output("sh", "-c", ". /tmp/v/bin/activate && python -c 'import sys; print(sys.prefix)'") == "/tmp/v\n"
assert not os.path.exists("/root/.local/bin/piton-probe")
print("well")
