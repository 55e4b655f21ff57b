"""The shell and the small programs, by every way Python starts one. Prints ``well`` at the end."""

import os
import shutil
import signal
import subprocess


def output(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, **options)
    assert not done.stderr, done.stderr
    return done.stdout


assert output(["sh", "-c", "ls / | head -3"]) == "bin\ndata\ndev\n"
assert output("echo $((6 * 7)); printf '%s\\n' b a | sort", shell=True) == "42\na\nb\n"
assert output("tr a-z A-Z | sed 's/O/0/' | awk '{ print $2, $1 }'", shell=True, input="one two\n") == "TWO 0NE\n"
assert output(["env", "-i", "A=1", "env"]) == "A=1\n"
assert output(["uname", "-sm"]) == f"{os.uname().sysname} {os.uname().machine}\n"
assert subprocess.run(["false"]).returncode == 1
assert subprocess.run("kill -TERM $$", shell=True).returncode == -signal.SIGTERM
assert subprocess.getstatusoutput("exit 5") == (5, "")
assert os.waitstatus_to_exitcode(os.system("cd /tmp && mkdir d && echo text > d/f && grep -q ext d/f && rm -r d")) == 0
assert os.waitstatus_to_exitcode(os.system("exit 3")) == 3
assert os.popen("cat - /etc/shells < /dev/null | wc -l").read().strip() == "4"
with os.popen("cat > /tmp/written", "w") as pipe:
    pipe.write("through a pipe\n")
assert open("/tmp/written").read() == "through a pipe\n"
os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "read line < /tmp/written; echo $line > /tmp/again"], os.environ), 0)
assert open("/tmp/again").read() == "through a pipe\n"

# A script with an interpreter of its own, and one without that a shell takes.
for first_line in "#!/bin/sh\n", "":
    with open("/tmp/script", "w") as script:
        script.write(f"{first_line}echo $# $0\n")
    os.chmod("/tmp/script", 0o755)
    assert output("/tmp/script a 'b c'", shell=True) == "2 /tmp/script\n"

for name in (
    "ash awk basename bunzip2 cat chmod chown cp cut date dd df diff dirname du echo env expr false find free grep "
    "gunzip gzip head hostname id ip kill less ln ls md5sum mkdir mkfifo more mount mv nologin od ping printf ps pwd "
    "readlink realpath rm rmdir sed seq sh sha256sum sleep sort stat stty tail tar tee test time timeout top touch tr "
    "true tty uname uniq unzip uptime vi wc wget which whoami xargs xxd yes"
).split():
    assert shutil.which(name), name
    assert output(["which", name]).strip() == shutil.which(name), name
print("well")
