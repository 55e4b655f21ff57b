//! Pseudo-terminals and full-screen programs, at the prompt and from scripts.

use board::launch::Options;
use tests::Guest;
use tests::guest::{ANSWER, PROMPT};
use tests::script::run;

/// Far more than a script here takes.
const SECONDS: u32 = 120;

#[test]
fn python_in_a_pseudo_terminal_at_the_prompt() {
    let mut guest = Guest::boot("python_in_a_pseudo_terminal_at_the_prompt", Options::default());
    guest.wait_for_prompt();
    guest.send("import pty; pty.spawn('python3')\r");
    guest.wait_for(PROMPT, ANSWER);
    guest.ask("import os; print(os.ttyname(0), os.getpid() == os.getsid(0))", "/dev/pts/0 True");
    // Ctrl-C goes through the outer terminal, which is raw, to the inner one, which makes it a signal.
    guest.send("import time; print('begun', 1, sep=':'); time.sleep(100)\r");
    guest.wait_for("begun:1", ANSWER);
    guest.send("\x03");
    guest.wait_for("KeyboardInterrupt", ANSWER);
    guest.wait_for(PROMPT, ANSWER);
    guest.ask("print(123457 * 8)", "987656");
    guest.send("raise SystemExit(5)\r");
    guest.wait_for("1280", ANSWER);
    guest.wait_for(PROMPT, ANSWER);
    guest.ask("os = __import__('os'); print(os.ttyname(0), os.listdir('/dev/pts'))", "/dev/console ['ptmx']");
}

#[test]
fn curses_at_the_prompt() {
    let mut guest = Guest::boot("curses_at_the_prompt", Options::default());
    guest.wait_for_prompt();
    guest.run("import curses");
    guest.run("def demo(w): w.addstr(2, 4, 'press'+'-a-key'); w.refresh(); return w.getkey(), w.getmaxyx() > (5, 5)\r");
    guest.send("curses.wrapper(demo)\r");
    guest.wait_for("press-a-key", ANSWER);
    guest.send("q");
    guest.wait_for("('q', True)", ANSWER);
    guest.wait_for(PROMPT, ANSWER);
    guest.ask("print(123457 * 8)", "987656");
}

#[test]
fn curses_follows_the_window_of_a_pseudo_terminal() {
    let source = r#"
import os, pty, select, struct, fcntl, termios, time

PROGRAM = '''
import curses
def main(window):
    colour = 0
    if curses.has_colors():
        curses.init_pair(1, curses.COLOR_RED, curses.COLOR_BLACK)
        colour = curses.color_pair(1)
    window.keypad(True)
    while True:
        rows, columns = window.getmaxyx()
        window.erase()
        window.border()
        window.addstr(1, 1, f"size={rows}x{columns}", colour)
        window.refresh()
        key = window.get_wch()
        if key == "q":
            return
        if key == "?":
            window.addstr(3, 1, f"again={rows}x{columns}")
            window.refresh()
            window.get_wch()
        if key == curses.KEY_UP:
            window.addstr(2, 1, "went-up")
            window.refresh()
            window.get_wch()
curses.wrapper(main)
'''

for kind in ("xterm-256color", "linux", "vt100", "screen", "ansi"):
    child, master = pty.fork()
    if child == 0:
        os.environ["TERM"] = kind
        time.sleep(0.2)
        os.execv("/usr/bin/python3", ["python3", "-c", PROGRAM])
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 30, 70, 0, 0))

    def expect(text):
        # All of a screen, so that the program waits for a key when this returns.
        seen = b""
        while text not in seen or select.select([master], [], [], 0.3)[0]:
            if not select.select([master], [], [], 30)[0]:
                raise SystemExit(f"{kind}: no {text} in {seen}")
            seen += os.read(master, 4096)

    expect(b"30x70")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 20, 50, 0, 0))
    # What stays on the screen is not written again.
    expect(b"5")
    os.write(master, b"?")
    expect(b"again=20x50")
    os.write(master, b" ")
    if kind != "ansi":
        os.write(master, b"\x1b[A" if kind == "linux" else b"\x1bOA")
        expect(b"went-up")
        os.write(master, b" ")
    os.write(master, b"q")
    try:
        while os.read(master, 4096):
            pass
    except OSError:
        pass
    print(kind, os.waitpid(child, 0)[1])
"#;
    let outcome = run("curses_follows_the_window_of_a_pseudo_terminal", source, &[], "", SECONDS);
    outcome.expect_status(0);
    for kind in ["xterm-256color", "linux", "vt100", "screen", "ansi"] {
        outcome.expect_output(&format!("{kind} 0"));
    }
}
