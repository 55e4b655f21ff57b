"""The machine's side of tests of the login: sessions as a machine offers them whose image has a token.

    guard.py TOKEN [CERTIFICATE]

TOKEN is asked for; with CERTIFICATE, a certificate and its key (PEM), over TLS. A line of input ends it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time

from piton import net, repl
from piton.repl import access

HERE = "/tmp/etc-piton"

# The image cannot be written to: a changed copy of its folder lies over it.
folder = os.path.dirname(access.TOKEN)
shutil.copytree(folder, HERE)
subprocess.run(["mount", "--bind", HERE, folder], check=True)
with open(access.TOKEN, "w") as file:
    file.write(hashlib.sha256(sys.argv[1].encode()).hexdigest())
if sys.argv[2:]:
    with open(access.CERTIFICATE, "w") as file:
        file.write(sys.argv[2])
repl.start()
while not any(one.local.port == repl.PORT and one.state == "listening" for one in net.connections()):
    time.sleep(0.05)
print("listening", flush=True)
sys.stdin.readline()
