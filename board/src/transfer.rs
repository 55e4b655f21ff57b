//! Copies files to and from a running machine: `cargo board put` and `cargo board get`.
//!
//! A session of the machine (docs/using.md) is told through its raw REPL to run `piton.transfer`, which speaks lines of
//! base64 with us and compares the SHA-256. [`put`] and [`get`] are the two ways; [`Session`] is the connection. Nothing
//! of a file is kept in memory but the line that is on its way.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::error::Error;

/// Where QEMU's port forward is.
pub const ADDRESS: &str = "127.0.0.1:5556";

/// How long the machine may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of a line before base64; a multiple of 3.
const LINE: usize = 12288;
const RAW_PROMPT: &[u8] = b"raw REPL; CTRL-B to exit\r\n>";
/// Ctrl-D: the end of a part of the raw REPL's answer.
const END: u8 = 4;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Copies the file `from` of this machine to the path `to` on that one, which may be a directory.
///
/// Answers the path of the file there.
///
/// # Errors
/// [`Error::Input`] for `from`, [`Error::Machine`] with what the machine said, [`Error::Io`] about the connection.
pub fn put(address: &str, token: Option<&str>, from: &Path, to: &str) -> Result<String, Error> {
    let unreadable = |source| Error::Input { what: "the file", path: from.into(), source };
    let (size, digest) = measure(from).map_err(unreadable)?;
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let mut session = Session::open(address, token)?;
    session.run(&format!(
        "from piton import transfer; transfer.receive({}, {}, {size}, '{digest}')",
        quoted(to),
        quoted(&name)
    ))?;
    session.expect("ready")?;
    let mut file = File::open(from).map_err(unreadable)?;
    let mut progress = Progress::new(&name, size);
    let (mut data, mut line, mut left) = (vec![0; LINE], Vec::new(), size);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(LINE).min(LINE);
        file.read_exact(&mut data[..wanted]).map_err(unreadable)?;
        line.clear();
        encode(&data[..wanted], &mut line);
        line.push(b'\n');
        if session.write(&line).is_err() {
            // The machine says why before it closes.
            break;
        }
        left -= wanted as u64;
        progress.at(size - left);
    }
    let path = session.expect("done")?;
    session.finish()?;
    progress.done();
    Ok(path)
}

/// Copies the file `from` of that machine to `to` on this one, which may be a directory.
///
/// Answers the path of the file here.
///
/// # Errors
/// As [`put`]; [`Error::Machine`] also when what came has another SHA-256 than what was sent.
pub fn get(address: &str, token: Option<&str>, from: &str, to: &Path) -> Result<PathBuf, Error> {
    let name = from.rsplit('/').next().unwrap_or(from);
    let path = if to.is_dir() { to.join(name) } else { to.into() };
    let mut part = path.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut session = Session::open(address, token)?;
    session.run(&format!("from piton import transfer; transfer.send({})", quoted(from)))?;
    let size: u64 = session.expect("size")?.parse().map_err(|_| Error::Machine("it does not say a size".into()))?;
    let result = receive(&mut session, &part, size, name).and_then(|()| session.finish());
    let writing = || format!("writing {}", path.display());
    match result {
        Ok(()) => fs::rename(&part, &path).map_err(Error::io(writing()))?,
        Err(error) => {
            // What is half there is of no use; that it cannot be removed changes nothing.
            let _ = fs::remove_file(&part);
            return Err(error);
        }
    }
    Ok(path)
}

/// Writes what comes to the file `part` and compares its SHA-256.
fn receive(session: &mut Session, part: &Path, size: u64, name: &str) -> Result<(), Error> {
    let writing = || format!("writing {}", part.display());
    let mut file = BufWriter::new(File::create(part).map_err(Error::io(writing()))?);
    let (mut found, mut there) = (Sha256::new(), 0);
    let mut progress = Progress::new(name, size);
    while there < size {
        let line = session.line()?;
        let data = decode(line.trim_end().as_bytes()).ok_or_else(|| Error::Machine(line.trim_end().into()))?;
        found.update(&data);
        file.write_all(&data).map_err(Error::io(writing()))?;
        there += data.len() as u64;
        progress.at(there);
    }
    file.flush().map_err(Error::io(writing()))?;
    let digest = session.expect("done")?;
    if hexadecimal(&found.finalize()) != digest {
        return Err(Error::Machine("what came is not what was sent: another SHA-256".into()));
    }
    progress.done();
    Ok(())
}

/// The size of a file and its SHA-256 in hexadecimal.
fn measure(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut found, mut size, mut data) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let length = file.read(&mut data)?;
        if length == 0 {
            return Ok((size, hexadecimal(&found.finalize())));
        }
        found.update(&data[..length]);
        size += length as u64;
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text as a Python literal.
fn quoted(text: &str) -> String {
    let mut literal = String::from("'");
    for character in text.chars() {
        match character {
            ' '..='~' if !matches!(character, '\'' | '\\') => literal.push(character),
            _ => literal.push_str(&format!("\\U{:08x}", u32::from(character))),
        }
    }
    literal + "'"
}

/// Appends the base64 of `data` (RFC 4648, section 4).
fn encode(data: &[u8], text: &mut Vec<u8>) {
    for group in data.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            text.push(match place <= group.len() {
                true => ALPHABET[(bits >> (18 - 6 * place) & 63) as usize],
                false => b'=',
            });
        }
    }
}

/// The data of a line of base64, `None` when it is none.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::with_capacity(text.len() / 4 * 3);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for &digit in group {
            bits = bits << 6 | u32::try_from(ALPHABET.iter().position(|&d| d == digit)?).ok()?;
        }
        bits <<= 6 * (4 - group.len());
        data.extend_from_slice(&bits.to_be_bytes()[1..group.len().max(1)]);
    }
    Some(data)
}

/// A session of the machine, in its raw REPL.
struct Session {
    from: BufReader<TcpStream>,
    to: TcpStream,
}

impl Session {
    fn open(address: &str, token: Option<&str>) -> Result<Self, Error> {
        let what = || format!("connecting to {address} (is the machine running, and its network up?)");
        let to = TcpStream::connect(address).map_err(Error::io(what()))?;
        to.set_read_timeout(Some(SILENCE)).map_err(Error::io(what()))?;
        to.set_nodelay(true).map_err(Error::io(what()))?;
        let from = BufReader::new(to.try_clone().map_err(Error::io(what()))?);
        let mut session = Self { from, to };
        if session.until(&[b">>> ", b"token: "])? == 1 {
            let token = token.ok_or_else(|| Error::Usage("the machine asks for its token: PITON_TOKEN=...".into()))?;
            session.write(format!("{token}\n").as_bytes())?;
            if session.until(&[b">>> ", b"wrong\n"])? == 1 {
                return Err(Error::Machine("it does not accept the token".into()));
            }
        }
        session.write(b"\r\x01")?;
        session.until(&[RAW_PROMPT])?;
        Ok(session)
    }

    /// Starts a line of Python.
    fn run(&mut self, line: &str) -> Result<(), Error> {
        self.write(line.as_bytes())?;
        self.write(&[END])?;
        self.until(&[b"OK"]).map(drop)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.to.write_all(data).map_err(Error::io("sending to the machine"))
    }

    /// Reads up to the first of these texts and answers which it is.
    fn until(&mut self, texts: &[&[u8]]) -> Result<usize, Error> {
        let mut seen = Vec::new();
        let mut byte = [0];
        loop {
            self.from.read_exact(&mut byte).map_err(Error::io("waiting for the machine's prompt"))?;
            seen.push(byte[0]);
            if let Some(which) = texts.iter().position(|text| seen.ends_with(text)) {
                return Ok(which);
            }
        }
    }

    /// The next line of output.
    ///
    /// At the end of the output it is an error: the last line of the traceback.
    fn line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        let hearing = "hearing from the machine";
        self.from.read_until(b'\n', &mut line).map_err(Error::io(hearing))?;
        let text = String::from_utf8_lossy(&line).into_owned();
        match text.strip_prefix(char::from(END)) {
            None if line.is_empty() => Err(Error::Machine("it closed the connection".into())),
            None => Ok(text),
            Some(start) => {
                let mut rest = start.as_bytes().to_vec();
                self.from.read_until(END, &mut rest).map_err(Error::io(hearing))?;
                let rest = String::from_utf8_lossy(&rest).replace(['\r', char::from(END)], "");
                Err(Error::Machine(rest.trim_end().rsplit('\n').next().unwrap_or_default().into()))
            }
        }
    }

    /// What stands behind this word, which begins the next line.
    fn expect(&mut self, word: &str) -> Result<String, Error> {
        let line = self.line()?;
        let line = line.trim_end();
        match line.strip_prefix(word) {
            Some(rest) => Ok(rest.trim_start().into()),
            None => Err(Error::Machine(line.into())),
        }
    }

    /// Waits for the end of the output and that there is no error.
    fn finish(&mut self) -> Result<(), Error> {
        let mut ends = [0; 2];
        self.from.read_exact(&mut ends).map_err(Error::io("waiting for the machine's prompt"))?;
        match ends {
            [END, END] => Ok(()),
            _ => Err(Error::Machine("it did not end as expected".into())),
        }
    }
}

/// A bar on a terminal, one line for any other reader.
struct Progress<'a> {
    name: &'a str,
    size: u64,
    begun: Instant,
    shown: Option<Instant>,
    on_terminal: bool,
}

impl<'a> Progress<'a> {
    fn new(name: &'a str, size: u64) -> Self {
        Self { name, size, begun: Instant::now(), shown: None, on_terminal: std::io::stderr().is_terminal() }
    }

    fn at(&mut self, there: u64) {
        const PAUSE: Duration = Duration::from_millis(100);
        if self.on_terminal && self.shown.is_none_or(|shown| shown.elapsed() > PAUSE) {
            self.shown = Some(Instant::now());
            let percent = there.saturating_mul(100) / self.size.max(1);
            let bar = "#".repeat(usize::try_from(percent * 3 / 10).unwrap_or(0));
            eprint!("\r{} {percent:3}% [{bar:30}] {:.1} MB/s", self.name, self.rate(there));
        }
    }

    fn done(&mut self) {
        let line = format!("{}: {} bytes, {:.1} MB/s, SHA-256 compared", self.name, self.size, self.rate(self.size));
        match self.on_terminal {
            true => eprintln!("\r{line:78}"),
            false => eprintln!("{line}"),
        }
    }

    fn rate(&self, bytes: u64) -> f64 {
        bytes as f64 / 1e6 / self.begun.elapsed().as_secs_f64().max(1e-3)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A machine that answers one connection with fixed texts, each after the bytes that it waits for.
    fn machine(dialogue: Vec<(&'static [u8], Vec<u8>)>) -> (String, thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let thread = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut heard = Vec::new();
            for (awaited, answer) in dialogue {
                let mut byte = [0];
                let begin = heard.len();
                while !heard[begin..].ends_with(awaited) && client.read_exact(&mut byte).is_ok() {
                    heard.push(byte[0]);
                }
                client.write_all(&answer).expect("the client listens");
            }
            heard
        });
        (address, thread)
    }

    fn greeting() -> Vec<(&'static [u8], Vec<u8>)> {
        vec![(b"", b"\xff\xfd\x18\rPython 3.14\n>>> ".to_vec()), (b"\x01", RAW_PROMPT.to_vec())]
    }

    #[test]
    fn base64_is_that_of_the_rfc_and_comes_back() {
        for (data, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            let mut encoded = Vec::new();
            encode(data.as_bytes(), &mut encoded);
            assert_eq!(encoded, text.as_bytes());
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(data.as_bytes()));
        }
        let all: Vec<u8> = (0..=255).collect();
        let mut encoded = Vec::new();
        encode(&all, &mut encoded);
        assert_eq!(decode(&encoded), Some(all));
        assert!(decode(b"Zm9").is_none() && decode(b"Zm9!").is_none());
    }

    #[test]
    fn literals_are_python_s() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's\\\n"), "'it\\U00000027s\\U0000005c\\U0000000a'");
    }

    #[test]
    fn file_is_put() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f.bin");
        fs::write(&path, b"foobar").expect("written");
        let mut dialogue = greeting();
        dialogue.push((b"\x04", b"OKready\r\n".to_vec()));
        dialogue.push((b"Zm9vYmFy\n", b"done /tmp/f.bin\r\n\x04\x04>".to_vec()));
        let (address, machine) = machine(dialogue);
        assert_eq!(put(&address, None, &path, "/tmp").expect("put"), "/tmp/f.bin");
        let heard = String::from_utf8(machine.join().expect("the machine ends")).expect("text");
        assert!(heard.contains("transfer.receive('/tmp', 'f.bin', 6, 'c3ab8ff1"), "{heard}");
    }

    #[test]
    fn machine_s_error_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut dialogue = greeting();
        let answer = b"OK\x04Traceback:\r\n  x\r\nOSError: [Errno 2] ENOENT: no such file\r\n\x04>";
        dialogue.push((b"\x04", answer.to_vec()));
        let (address, machine) = machine(dialogue);
        let error = get(&address, None, "/none", folder.path()).expect_err("refused");
        assert!(error.to_string().contains("ENOENT: no such file"), "{error}");
        machine.join().expect("the machine ends");
    }

    #[test]
    fn file_is_got_and_damage_is_noticed() {
        for (digest, right) in [
            ("c3ab8ff13720e8ad9047dd39466b3c8974e592c2fa383d4a3960714caef0c4f2", true),
            ("00000000000000000000000000000000000000000000000000000000000000000", false),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let mut dialogue = greeting();
            let answer = format!("OKsize 6\r\nZm9v\r\nYmFy\r\ndone {digest}\r\n\x04\x04>");
            dialogue.push((b"\x04", answer.into_bytes()));
            let (address, machine) = machine(dialogue);
            let got = get(&address, None, "/tmp/f.bin", folder.path());
            assert_eq!(got.is_ok(), right);
            assert_eq!(fs::read(folder.path().join("f.bin")).ok().as_deref(), right.then_some(&b"foobar"[..]));
            assert!(!folder.path().join("f.bin.part").exists());
            machine.join().expect("the machine ends");
        }
    }

    #[test]
    fn token_is_given_when_asked_for() {
        for (answer, right) in [("\r\nPython\n>>> ", true), ("wrong\n", false)] {
            let dialogue = vec![
                (&b""[..], b"\rtoken: ".to_vec()),
                (&b"secret\n"[..], answer.as_bytes().to_vec()),
                (&b"\x01"[..], RAW_PROMPT.to_vec()),
            ];
            let (address, _machine) = machine(dialogue);
            assert_eq!(Session::open(&address, Some("secret")).is_ok(), right);
        }
        let (address, _machine) = machine(vec![(b"", b"\rtoken: ".to_vec())]);
        assert!(matches!(Session::open(&address, None), Err(Error::Usage(_))));
    }
}
