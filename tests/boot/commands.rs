//! Commands at the console's prompt: programs, Python files, jobs, and what stays Python.

use std::time::Duration;

use tests::Guest;
use tests::guest::{ANSWER, BOOT, PROMPT};

const CTRL_C: &str = "\x03";
const CTRL_Z: &str = "\x1a";
/// Says that it has begun, in a way that its echo does not, and does not end.
const ENDLESS: &str = "echo be''gun; sleep 1000\r";

#[test]
fn commands_and_python_share_the_prompt() {
    let mut guest = Guest::at_the_prompt("commands_and_python_share_the_prompt");
    guest.ask("echo $((123457 * 8))", "987656");
    guest.ask("ls /etc/host* | grep -c name", "1");
    guest.ask("cd /usr/lib && pwd | tr a-z A-Z", "/USR/LIB");
    guest.ask("import os; os.getcwd().upper()", "'/USR/LIB'");
    guest.ask("cd -; pwd", "root");
    guest.run("mkdir -p ~/bin");
    let source = "import asyncio, sys; await asyncio.sleep(0); print(sys.argv)";
    guest.run(&format!("print({source:?}, file=open('/root/bin/hello.py', 'w'))"));
    guest.ask("hello 'a b' /etc/hostn*", "['hello', 'a b', '/etc/hostname']");
    guest.ask("hello x | tr a-z A-Z", "['HELLO', 'X']");
    guest.ask("lsdev", "arm,pl011");
    guest.ask("sysinfo", "processors");
    guest.ask("help", "editors");
    // Tab: a command, a folder, a file.
    guest.ask("unam\t -sn", "Linux piton");
    guest.ask("cat /et\thostn\t", "piton");
}

#[test]
fn names_of_python_win() {
    let mut guest = Guest::at_the_prompt("names_of_python_win");
    guest.run("ls = 123457 * 8");
    guest.ask("ls", "987656");
    guest.ask("ls -1", "987655");
    guest.run("del ls");
    guest.ask("ls -1 /usr", "sbin");
    guest.ask("id", "<built-in function id>");
    guest.ask("help(len)", "number of items");
    guest.run("def cat(x):\rreturn x * 2\r");
    guest.ask("cat(61728 * 8)", "987648");
    for (nonsense, answer) in [
        ("nonsense", "NameError"),
        ("nonsense x", "SyntaxError"),
        ("df(1)", "NameError"),
        ("rm 'unclosed", "unterminated quoted string"),
        ("lsdev 'unclosed", "No closing quotation"),
        ("lsdev nothing", "no such device"),
        ("ps |", "syntax error"),
        ("/usr", "SyntaxError"),
        ("cd /nonexistent", "No such file or directory"),
        ("cd a b", "too many arguments"),
        ("poweroff now", "usage: poweroff"),
        ("reboot --help", "usage: reboot"),
    ] {
        guest.ask(nonsense, answer);
    }
}

#[test]
fn keys_are_the_command_s_alone() {
    let mut guest = Guest::at_the_prompt("keys_are_the_command_s_alone");
    guest.run("kept = 123457");
    guest.send(ENDLESS);
    guest.wait_for("begun", ANSWER);
    guest.send(CTRL_C);
    guest.wait_for(PROMPT, ANSWER);
    guest.ask("sh.status", "-2");
    // A Python file in the interpreter.
    guest.run("mkdir -p ~/bin");
    guest.run("print('print(\"be\" + \"gun\")\\nwhile True: pass', file=open('/root/bin/endless.py', 'w'))");
    guest.send("endless\r");
    guest.wait_for("begun", ANSWER);
    guest.send(CTRL_C);
    guest.wait_for("KeyboardInterrupt", ANSWER);
    guest.wait_for(PROMPT, ANSWER);
    guest.ask("kept * 8", "987656");
}

#[test]
fn programs_have_the_screen() {
    let mut guest = Guest::at_the_prompt("programs_have_the_screen");
    guest.send("top\r");
    guest.wait_for("COMMAND", ANSWER);
    guest.wait_for("thread_inherit_context", ANSWER);
    guest.send("q");
    guest.wait_for(PROMPT, ANSWER);
    guest.send("vi /tmp/notes\r");
    guest.wait_for("1/1", ANSWER);
    guest.send("i123457");
    guest.wait_for("123457", ANSWER);
    guest.send("\x1b");
    guest.wait_for("Modified", ANSWER);
    guest.send(":wq\r");
    // It puts the screen back, and the cursor where a line begins.
    guest.wait_for(">>> ", ANSWER);
    guest.ask("int(open('/tmp/notes').read()) * 8", "987656");
    guest.send("sh()\r");
    guest.wait_for("$ ", ANSWER);
    // One job: between two of a list there is none to be stopped.
    guest.send("sh -c \"echo be''gun; exec sleep 1000\"\r");
    guest.wait_for("begun", ANSWER);
    guest.send(CTRL_Z);
    guest.wait_for("Stopped", ANSWER);
    guest.wait_for("\n$ ", ANSWER);
    guest.send("kill -KILL %1; lsdev | grep -c pl011; cd /tmp\r");
    guest.wait_for("\n1\n", ANSWER);
    guest.wait_for("$ ", ANSWER);
    guest.send("exit 7\r");
    guest.wait_for(PROMPT, ANSWER);
    guest.ask("sh.status * 123457", "864199");
}

#[test]
fn reboot_and_poweroff_are_commands() {
    let mut guest = Guest::at_the_prompt("reboot_and_poweroff_are_commands");
    guest.send("reboot\r");
    guest.wait_for("on Piton", BOOT);
    guest.wait_for_prompt();
    guest.send("poweroff 7\r");
    let (status, text) = guest.finish(Duration::from_secs(60));
    assert_eq!(status, 7, "{text}");
}
