//! One booted machine, driven through its serial port.
//!
//! The expected text is looked for behind what was found last, so a test reads like a dialogue. Serial output and
//! QEMU's own messages (standard error, which also carries semihosting output) are one stream here: a test about a
//! message is not about its way out. Every wait has a limit, and the machine is stopped when the [`Guest`] is dropped.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use board::launch::{Launch, Options};
use board::spec::Board;
use board::{run, workspace};
use tempfile::TempDir;

use crate::screen::Plain;

/// How long a machine may take from the start of QEMU to the prompt. Many times what it takes, for a busy host.
pub const BOOT: Duration = Duration::from_secs(90);
/// How long an answer at the prompt may take.
pub const ANSWER: Duration = Duration::from_secs(30);
/// The prompt.
pub const PROMPT: &str = "\n>>> ";

/// How much of the output a failure shows, in bytes.
const TAIL: usize = 3000;

/// What comes next of a machine.
#[derive(Debug)]
pub enum Next {
    /// A line, without its end.
    Line(String),
    /// Nothing in time.
    Silence,
    /// The machine has ended with this status.
    End(u8),
}

/// A running machine.
pub struct Guest {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    /// Everything so far, as it came.
    log: File,
    filter: Plain,
    /// Everything so far, as text.
    text: Vec<u8>,
    /// Up to where the text has been matched.
    matched: usize,
    /// Hold the files that QEMU reads.
    _launch: Launch,
    files: Option<TempDir>,
}

impl Guest {
    /// Boots the ordinary image on the `qemu-virt` board with changes. `name` is that of the log.
    ///
    /// # Panics
    /// When there is no image or QEMU does not start.
    #[must_use]
    pub fn boot(name: &str, options: Options) -> Self {
        let image = Some(crate::image::path());
        Self::start(name, Options { image, ..options })
    }

    /// Boots the ordinary image on the `qemu-virt` board as it is, and waits for the prompt.
    ///
    /// # Panics
    /// As [`Guest::boot`] and [`Guest::wait_for`].
    #[must_use]
    pub fn at_the_prompt(name: &str) -> Self {
        let mut guest = Self::boot(name, Options::default());
        guest.wait_for_prompt();
        guest
    }

    /// Starts QEMU with exactly these options.
    ///
    /// # Panics
    /// When QEMU does not start.
    #[must_use]
    pub fn start(name: &str, options: Options) -> Self {
        let board = Board::load("qemu-virt").expect("the board exists");
        let mut launch = Launch::new(&board, &options).unwrap_or_else(|e| panic!("{e}"));
        launch.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        run::die_with_parent(&mut launch.command);
        let mut child = launch.command.spawn().expect("QEMU starts");
        let (sender, output) = channel();
        forward(child.stdout.take(), sender.clone());
        forward(child.stderr.take(), sender);
        let input = child.stdin.take();
        let path = log_path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("the log folder can be made");
        let log = File::create(path).expect("the log can be made");
        Self {
            name: name.into(),
            child,
            input,
            output,
            log,
            filter: Plain::default(),
            text: Vec::new(),
            matched: 0,
            _launch: launch,
            files: None,
        }
    }

    /// Waits for `text` behind what was matched last and returns what came before it.
    ///
    /// # Panics
    /// When the text has not come within `limit` or the machine ends without it.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let rest = &self.text[self.matched..];
            if let Some(at) = rest.windows(text.len()).position(|w| w == text.as_bytes()) {
                let before = String::from_utf8_lossy(&rest[..at]).into_owned();
                self.matched += at + text.len();
                return before;
            }
            match self.receive(deadline) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => self.fail(&format!("no {text:?} within {limit:?}")),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().expect("QEMU can be waited for");
                    self.fail(&format!("QEMU ended ({status}) before {text:?}"));
                }
            }
        }
    }

    /// Waits for the prompt of a machine that was just started.
    ///
    /// # Panics
    /// As [`Guest::wait_for`].
    pub fn wait_for_prompt(&mut self) {
        self.wait_for(PROMPT, BOOT);
    }

    /// The next whole line, for callers that go on when there is none within `limit`.
    pub fn next_line(&mut self, limit: Duration) -> Next {
        let deadline = Instant::now() + limit;
        loop {
            let rest = &self.text[self.matched..];
            if let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
                let line = String::from_utf8_lossy(&rest[..at]).into_owned();
                self.matched += at + 1;
                return Next::Line(line);
            }
            match self.receive(deadline) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => return Next::Silence,
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().expect("QEMU can be waited for");
                    return Next::End(run::status_byte(status));
                }
            }
        }
    }

    /// The last `limit` bytes of all that it has written so far.
    #[must_use]
    pub fn tail(&self, limit: usize) -> String {
        String::from_utf8_lossy(&self.text[self.text.len().saturating_sub(limit)..]).into_owned()
    }

    /// Types text, if the machine still runs.
    pub fn try_send(&mut self, text: &str) {
        if let Some(input) = &mut self.input {
            // What comes next says that it has ended.
            let _ = input.write_all(text.as_bytes()).and_then(|()| input.flush());
        }
    }

    /// Types text.
    ///
    /// # Panics
    /// When the machine has ended.
    pub fn send(&mut self, text: &str) {
        let input = self.input.as_mut().expect("the input is open");
        if let Err(error) = input.write_all(text.as_bytes()).and_then(|()| input.flush()) {
            self.fail(&format!("cannot type {text:?}: {error}"));
        }
    }

    /// Types a line and waits until `answer` and then the next prompt have come.
    ///
    /// The answer must not be part of the line: the echo of the line would match.
    ///
    /// # Panics
    /// As [`Guest::wait_for`].
    pub fn ask(&mut self, line: &str, answer: &str) {
        assert!(!line.contains(answer), "the echo of {line:?} would match {answer:?}");
        self.send(line);
        self.send("\r");
        self.wait_for(answer, ANSWER);
        self.wait_for(PROMPT, ANSWER);
    }

    /// Types a line that prints nothing and waits for the next prompt.
    ///
    /// # Panics
    /// As [`Guest::wait_for`].
    pub fn run(&mut self, line: &str) {
        self.send(line);
        self.send("\r");
        self.wait_for(PROMPT, ANSWER);
    }

    /// Keeps files that QEMU reads until the machine has ended.
    #[must_use]
    pub fn keeping(mut self, files: TempDir) -> Self {
        self.files = Some(files);
        self
    }

    /// Waits until the machine ends by itself and returns its exit status and all its text.
    ///
    /// # Panics
    /// When it has not ended within `limit`.
    pub fn finish(mut self, limit: Duration) -> (u8, String) {
        let deadline = Instant::now() + limit;
        loop {
            match self.receive(deadline) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => self.fail(&format!("still running after {limit:?}")),
                // Both streams are closed: QEMU has ended, or does at once.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait().expect("QEMU can be waited for");
        (run::status_byte(status), String::from_utf8_lossy(&self.text).into_owned())
    }

    /// Takes in the next piece of output.
    fn receive(&mut self, deadline: Instant) -> Result<(), RecvTimeoutError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let piece = self.output.recv_timeout(left)?;
        self.log.write_all(&piece).expect("the log can be written");
        self.filter.push(&piece, &mut self.text);
        Ok(())
    }

    /// Fails the test with the end of the output.
    fn fail(&self, message: &str) -> ! {
        let (log, tail) = (log_path(&self.name), self.tail(TAIL));
        panic!("{}: {message}; the log is {}; its end:\n{tail}", self.name, log.display());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // A machine that cannot be stopped is one that has gone.
        let _ = run::stop(&mut self.child);
        if !thread::panicking() {
            let _ = fs::remove_file(log_path(&self.name));
        }
    }
}

/// Where the output of a test is left when it fails.
#[must_use]
pub fn log_path(name: &str) -> PathBuf {
    workspace::root().join("build/test-logs").join(format!("{name}.log"))
}

/// Sends what a stream delivers to the channel until it closes.
fn forward(stream: Option<impl Read + Send + 'static>, sender: Sender<Vec<u8>>) {
    let mut stream = stream.expect("the stream is piped");
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
}
