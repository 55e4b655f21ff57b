//! pip from inside, over TLS, from the index that the host's pip is configured for.

use std::env;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::thread;

use tests::host::{free_port, skipped};
use tests::script::run_on;

/// What every Debian machine trusts.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The bytes that the host serves.
const SERVED: usize = 100_000;
/// A small package, for `make test`; `make packages` names large ones in `PITON_PACKAGES`.
const SMALL: &str = "idna";
/// How long one package may take, in seconds: most of it is the guest's compiler of Python, on a busy host.
const SECONDS: u32 = 300;

#[test]
fn packages_are_installed_over_tls_and_used() {
    let index = setting("index-url");
    if let Err(reason) = reach(SMALL) {
        skipped("packages_are_installed_over_tls_and_used", &reason);
        return;
    }
    let packages = env::var("PITON_PACKAGES").unwrap_or(SMALL.into());
    let url = serve();
    let arguments: Vec<&str> = [url.as_str()].into_iter().chain(packages.split_whitespace()).collect();
    let forward = format!("{}:9", free_port());
    let mut machine = vec!["--net", "user", "--forward", &forward, "--memory", "1G"];
    if let Some(index) = &index {
        machine.extend(["--pip-index", index]);
    }
    let authorities = setting("cert").or(Path::new(AUTHORITIES).exists().then(|| AUTHORITIES.into()));
    if let Some(authorities) = &authorities {
        machine.extend(["--ca-bundle", authorities]);
    }
    let limit = SECONDS * arguments.len() as u32;
    let outcome = run_on("net_packages", &machine, include_str!("packages.py"), &arguments, "", limit);
    outcome.expect_status(0);
    outcome.expect_output("well\n");
    println!("{}", outcome.output);
}

/// What the host's pip is configured for, the environment before its files, as pip itself has it.
fn setting(name: &str) -> Option<String> {
    let output = Command::new("python3").args(["-m", "pip", "config", "list"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = |section: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{section}.{name}=")))?;
        Some(line.trim_matches(['\'', '"']).to_owned())
    };
    found(":env:").or_else(|| found("install")).or_else(|| found("global"))
}

/// Whether the host itself gets a package from its index; the end of what pip says otherwise.
fn reach(package: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--retries", "1", "--dest"])
        .arg(folder.path())
        .arg(package)
        .output()
        .map_err(|e| format!("the host has no python3: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("the host's own pip gets no packages: {}", errors.lines().last().unwrap_or_default()))
}

/// Answers every request over HTTP with the same bytes, and returns where the guest reaches that.
fn serve() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let mut request = Vec::new();
            let mut bytes = [0; 1000];
            while !request.ends_with(b"\r\n\r\n")
                && let Ok(len @ 1..) = connection.read(&mut bytes)
            {
                request.extend(&bytes[..len]);
            }
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {SERVED}\r\n\r\n");
            // A guest that has gone fails its own test.
            let _ = connection.write_all(&[head.as_bytes(), &[7; SERVED]].concat());
        }
    });
    format!("http://10.0.2.2:{port}/")
}
