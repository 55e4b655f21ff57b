//! Guests that run files of the suite side by side.
//!
//! Each guest takes the next file when it is done with one, so that they end together. A guest that goes down or stops
//! answering takes only the file with it that it was in; another goes on in its place.

use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::{Machine, Outcome};
use crate::guest::{Guest, Next};

/// How long a guest may take until it asks for work, and to answer what takes no time. Many times what it takes, for
/// a busy host.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long after its time limit a file's outcome must be there: the guest first kills what is left of it.
const MARGIN: Duration = Duration::from_secs(120);
/// How often an answer that cannot be read is asked for again.
const TRIES: u32 = 3;
/// How much of the console is kept of a machine that died, in bytes.
const TAIL: usize = 6000;

/// The names of all files of the suite, from a guest.
///
/// # Errors
/// A line for the user: the guest does not start or does not answer.
pub fn list(machine: &Machine) -> Result<Vec<String>, String> {
    let mut session = Session::start(machine, 0)?;
    let list = session.ask("list", "list", PATIENCE)?;
    session.end();
    Ok(list)
}

/// Runs files, in this order, on so many guests, and hands over each outcome as soon as it is known.
///
/// # Errors
/// A line for the user: guests do not start, or `done` failed. What was not run is not handed over.
pub fn run(
    machine: &Machine,
    files: Vec<String>,
    limit: u32,
    guests: usize,
    mut done: impl FnMut(Outcome) -> Result<(), String>,
) -> Result<(), String> {
    let queue = Mutex::new(VecDeque::from(files));
    let (sender, outcomes) = channel();
    thread::scope(|scope| {
        let queue = &queue;
        let workers: Vec<_> = (0..guests)
            .map(|number| {
                let sender = sender.clone();
                scope.spawn(move || serve(machine, number, queue, limit, &sender))
            })
            .collect();
        drop(sender);
        let mut result = Ok(());
        for outcome in outcomes {
            if result.is_ok() {
                result = done(outcome);
            }
        }
        for worker in workers {
            result = result.and(worker.join().unwrap_or_else(|_| Err("a guest could not be started".into())));
        }
        result
    })
}

/// One guest after the other until no file is left.
fn serve(
    machine: &Machine,
    number: usize,
    queue: &Mutex<VecDeque<String>>,
    limit: u32,
    sender: &Sender<Outcome>,
) -> Result<(), String> {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let mut session = None;
    while let Some(file) = next() {
        let mut running = match session.take() {
            Some(running) => running,
            None => Session::start(machine, number)?,
        };
        let started = Instant::now();
        let within = Duration::from_secs(limit.into()) + MARGIN;
        let outcome: Result<Outcome, String> = running.ask(&format!("run {file} {limit}"), "file", within);
        let outcome = outcome.unwrap_or_else(|why| {
            Outcome::died(&file, &why, running.guest.tail(TAIL), started.elapsed().as_secs_f64().round())
        });
        if outcome.clean {
            session = Some(running);
        }
        if sender.send(outcome).is_err() {
            break;
        }
    }
    if let Some(session) = session {
        session.end();
    }
    Ok(())
}

/// A guest that runs the program in `tests/python/guest`.
struct Session {
    guest: Guest,
}

impl Session {
    fn start(machine: &Machine, number: usize) -> Result<Self, String> {
        let name = format!("cpython-{}-{number}", machine.system.key());
        let mut session = Self { guest: Guest::start(&name, machine.options.clone()) };
        match session.wait_for("ready", PATIENCE) {
            Ok(_) => Ok(session),
            Err(why) => Err(format!("{name} did not start: {why}\n{}", session.guest.tail(TAIL))),
        }
    }

    /// Sends a command and gets its answer. The error is why there is none.
    fn ask<T: DeserializeOwned>(&mut self, command: &str, word: &str, within: Duration) -> Result<T, String> {
        self.guest.try_send(&format!("{command}\n"));
        let mut answer = self.wait_for(word, within)?;
        self.wait_for("ready", PATIENCE)?;
        let mut tries = 1;
        loop {
            match serde_json::from_str(&answer) {
                Ok(value) => return Ok(value),
                Err(error) if tries == TRIES => return Err(format!("its answer cannot be read: {error}")),
                Err(_) => tries += 1,
            }
            self.guest.try_send("again\n");
            answer = self.wait_for(word, PATIENCE)?;
            self.wait_for("ready", PATIENCE)?;
        }
    }

    /// Waits for a line with this word and gives what is behind it.
    fn wait_for(&mut self, word: &str, within: Duration) -> Result<String, String> {
        let deadline = Instant::now() + within;
        let mark = format!("{word}| ");
        loop {
            match self.guest.next_line(deadline.saturating_duration_since(Instant::now())) {
                // A message of the kernel may stand before it.
                Next::Line(line) => {
                    if let Some(at) = line.find(&mark) {
                        return Ok(line[at + mark.len()..].to_owned());
                    }
                }
                Next::Silence => return Err(format!("no answer within {} s", within.as_secs())),
                Next::End(status) => return Err(format!("it ended with status {status}")),
            }
        }
    }

    /// Has the machine go off.
    fn end(mut self) {
        self.guest.try_send("end\n");
        while let Next::Line(_) = self.guest.next_line(PATIENCE) {}
    }
}
