//! Fetching Debian packages of another suite and architecture with apt, without touching the machine's own.
//!
//! [`Apt`] keeps a private state directory (lists, downloads) below `build/cache`, so neither root nor a chroot
//! is needed and nothing of the target runs. apt does what it is good at: it checks the suite's signature and
//! every hash, resumes broken downloads and resolves dependencies. What was resolved is written down as a
//! [`Lock`]; as long as the packages it names are there, no network is used again.
//!
//! The mirror is the one the machine's own apt uses, or `PITON_MIRROR`. Only apt's proxy and mirror settings are
//! taken over from the machine, not its hooks.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::packages::{self, Choice, Selection};
use crate::run;

/// Archive keys, in the order they are looked for. `PITON_KEYRING` names another file.
const KEYRINGS: &[&str] =
    &["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// One package of a resolved set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Full Debian version.
    pub version: String,
    /// `all` or the architecture.
    pub architecture: String,
    /// SHA-256 of the .deb, in hexadecimal.
    pub sha256: String,
}

impl Package {
    /// The name apt gives the downloaded file.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }
}

/// A resolved and downloaded set of packages, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Suite it came from.
    pub suite: String,
    /// Python as `MAJOR.MINOR`.
    pub python: String,
    /// The [`Selection`] it answers, as text: with another one it is void.
    pub selection: String,
    /// The packages.
    pub packages: Vec<Package>,
}

impl Lock {
    /// As text, one line per fact, tab-separated.
    pub fn to_text(&self) -> String {
        let mut text = format!("suite\t{}\npython\t{}\nselection\t{}\n", self.suite, self.python, self.selection);
        for package in &self.packages {
            let Package { name, version, architecture, sha256 } = package;
            let _ = writeln!(text, "package\t{name}\t{version}\t{architecture}\t{sha256}");
        }
        text
    }

    /// Reads [`Lock::to_text`] back; `None` when the text is not complete.
    pub fn from_text(text: &str) -> Option<Lock> {
        let mut lock =
            Lock { suite: String::new(), python: String::new(), selection: String::new(), packages: Vec::new() };
        for line in text.lines() {
            match *line.split('\t').collect::<Vec<_>>() {
                ["suite", suite] => lock.suite = suite.to_owned(),
                ["python", python] => lock.python = python.to_owned(),
                ["selection", selection] => lock.selection = selection.to_owned(),
                ["package", name, version, architecture, sha256] => lock.packages.push(Package {
                    name: name.to_owned(),
                    version: version.to_owned(),
                    architecture: architecture.to_owned(),
                    sha256: sha256.to_owned(),
                }),
                _ => return None,
            }
        }
        (!lock.suite.is_empty() && !lock.python.is_empty() && !lock.packages.is_empty()).then_some(lock)
    }

    /// The upstream Python version, such as `3.14.8`.
    pub fn python_version(&self) -> String {
        let name = format!("python{}-minimal", self.python);
        let version = self.packages.iter().find(|package| package.name == name).map(|package| package.version.as_str());
        upstream_version(version.unwrap_or(&self.python)).to_owned()
    }
}

/// A private apt for one suite and architecture.
pub struct Apt {
    state: PathBuf,
    config: PathBuf,
    mirror: String,
    choice: Choice,
    debian_arch: String,
}

/// Why a suite could not be used.
enum Refusal {
    /// Nothing else is worth trying.
    Fatal(Error),
    /// The next suite may do.
    Unusable(String),
}

impl Apt {
    /// Prepares the state directory and the configuration file.
    fn open(cache: &Path, mirror: &str, choice: Choice, debian_arch: &str) -> Result<Apt, Error> {
        let state = cache.join(format!("{}-{debian_arch}", choice.suite));
        run::make_dir(&state.join("lists/partial"))?;
        run::make_dir(&state.join("archives/partial"))?;
        run::write_file(&state.join("status"), "")?;
        let keyring = keyring()?;
        let source = format!(
            "deb [arch={debian_arch} target=Packages signed-by={}] {mirror} {} main\n",
            keyring.display(),
            choice.suite
        );
        run::write_file(&state.join("sources.list"), source)?;
        let config = state.join("apt.conf");
        run::write_file(&config, apt_config(&state, debian_arch))?;
        Ok(Apt { state, config, mirror: mirror.to_owned(), choice, debian_arch: debian_arch.to_owned() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = run::command(program);
        command.arg("-c").arg(&self.config);
        command
    }

    fn has_lists(&self) -> bool {
        fs::read_dir(self.state.join("lists")).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with("_Packages"))
        })
    }

    fn no_network(&self, detail: String) -> Error {
        Error::NoNetwork { mirror: self.mirror.clone(), suite: self.choice.suite, detail }
    }

    fn update(&self) -> Result<(), Refusal> {
        let Choice { suite, .. } = self.choice;
        run::progress(&format!("fetching the package index of {suite} ({}) from {}", self.debian_arch, self.mirror));
        match run::show(self.command("apt-get").args(["-q", "update", "--error-on=any"])) {
            Ok(()) => Ok(()),
            Err(Error::Command { stderr, .. }) if is_missing_suite(&stderr) => {
                Err(Refusal::Unusable(format!("{suite}: not on this mirror, or not signed by a known key\n{stderr}")))
            }
            Err(Error::Command { stderr, .. }) => Err(Refusal::Fatal(self.no_network(stderr))),
            Err(other) => Err(Refusal::Fatal(other)),
        }
    }

    /// Names of everything a selection installs.
    fn resolve(&self, selection: &Selection) -> Result<Vec<String>, Refusal> {
        let mut command = self.command("apt-get");
        command.args(["-q", "--simulate", "--no-install-recommends", "install"]).args(&selection.with_dependencies);
        let text = run::output(&mut command).map_err(|error| match error {
            Error::Command { stderr, .. } => Refusal::Unusable(format!("{}: {stderr}", self.choice.suite)),
            other => Refusal::Fatal(other),
        })?;
        let mut names: Vec<String> = installed_names(&text).filter(|name| !packages::is_skipped(name)).collect();
        names.extend(selection.alone.iter().cloned());
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Version and hash of the named packages, from the signed index.
    fn describe(&self, names: &[String]) -> Result<Vec<Package>, Refusal> {
        let text = run::output(self.command("apt-cache").args(["show", "--no-all-versions"]).args(names)).map_err(
            |error| match error {
                Error::Command { stderr, .. } => Refusal::Unusable(format!("{}: {stderr}", self.choice.suite)),
                other => Refusal::Fatal(other),
            },
        )?;
        let mut found = parse_packages(&text);
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        match names.iter().find(|name| !found.iter().any(|package| package.name == **name)) {
            Some(missing) => Err(Refusal::Unusable(format!("{}: no package {missing}", self.choice.suite))),
            None => Ok(found),
        }
    }

    /// Downloads what is not there yet. apt checks hashes, and resumes in `archives/partial`.
    fn download(&self, wanted: &[Package]) -> Result<(), Error> {
        let archives = self.archives();
        let missing: Vec<&Package> =
            wanted.iter().filter(|package| !archives.join(package.file_name()).is_file()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        run::progress(&format!("downloading {} packages of {}", missing.len(), self.choice.suite));
        let mut command = self.command("apt-get");
        command.current_dir(&archives).args(["-q", "download"]);
        command.args(missing.iter().map(|package| format!("{}={}", package.name, package.version)));
        run::show(&mut command).map_err(|error| match error {
            Error::Command { stderr, .. } => self.no_network(stderr),
            other => other,
        })
    }

    fn archives(&self) -> PathBuf {
        self.state.join("archives")
    }

    /// Resolves and downloads a selection.
    fn fetch(&self, selection: &Selection, refresh: bool) -> Result<Lock, Refusal> {
        let fresh = refresh || !self.has_lists();
        if fresh {
            self.update()?;
        }
        let mut wanted = self.resolve(selection).and_then(|names| self.describe(&names))?;
        if let Err(error) = self.download(&wanted) {
            // Versions an older index names leave the mirror's pool: ask for the index once more.
            if fresh {
                return Err(Refusal::Fatal(error));
            }
            self.update()?;
            wanted = self.resolve(selection).and_then(|names| self.describe(&names))?;
            self.download(&wanted).map_err(Refusal::Fatal)?;
        }
        Ok(Lock {
            suite: self.choice.suite.to_owned(),
            python: self.choice.python.to_owned(),
            selection: selection.to_text(),
            packages: wanted,
        })
    }
}

/// Where the packages of a lock are.
pub fn archives(cache: &Path, lock: &Lock, debian_arch: &str) -> PathBuf {
    cache.join(format!("{}-{debian_arch}", lock.suite)).join("archives")
}

/// Resolves and downloads the packages of an image (or of the compiling Python) into `cache`, from the first suite
/// that has them, and remembers the outcome in `lock_file`. With a valid lock nothing is asked of the network.
pub fn obtain(
    cache: &Path,
    lock_file: &Path,
    debian_arch: &str,
    choices: &[Choice],
    select: impl Fn(&str) -> Selection,
    refresh: bool,
) -> Result<Lock, Error> {
    if !refresh {
        let known = fs::read_to_string(lock_file).ok().and_then(|text| Lock::from_text(&text));
        if let Some(lock) = known {
            let offered = choices.iter().any(|choice| choice.suite == lock.suite && choice.python == lock.python);
            let current = lock.selection == select(&lock.python).to_text();
            let archives = archives(cache, &lock, debian_arch);
            if offered && current && lock.packages.iter().all(|package| archives.join(package.file_name()).is_file()) {
                return Ok(lock);
            }
        }
    }
    let mirror = mirror()?;
    let mut reasons = Vec::new();
    for choice in choices {
        if !reasons.is_empty() {
            run::progress(&format!(
                "notice: {}; falling back to Python {} of {}",
                reasons.last().map_or("the preferred suite is not usable", |reason: &String| {
                    reason.lines().next().unwrap_or_default()
                }),
                choice.python,
                choice.suite
            ));
        }
        let apt = Apt::open(cache, &mirror, *choice, debian_arch)?;
        match apt.fetch(&select(choice.python), refresh) {
            Ok(lock) => {
                verify(&apt.archives(), &lock)?;
                run::write_file(lock_file, lock.to_text())?;
                return Ok(lock);
            }
            Err(Refusal::Unusable(reason)) => reasons.push(reason),
            Err(Refusal::Fatal(error)) => return Err(error),
        }
    }
    Err(Error::NoPython { mirror, reasons })
}

/// Compares every downloaded package with the hash in the lock; a file that differs is removed.
fn verify(archives: &Path, lock: &Lock) -> Result<(), Error> {
    let files: Vec<PathBuf> = lock.packages.iter().map(|package| archives.join(package.file_name())).collect();
    let sums = run::sha256_of_files(&files)?;
    for (package, file) in lock.packages.iter().zip(&files) {
        match sums.get(file) {
            Some(sum) if *sum == package.sha256 => {}
            Some(_) => {
                fs::remove_file(file).map_err(Error::io("remove", file))?;
                return Err(Error::BadPackage {
                    name: package.name.clone(),
                    why: "its SHA-256 differs from the index",
                });
            }
            None => {
                return Err(Error::BadPackage { name: package.name.clone(), why: "it was not downloaded" });
            }
        }
    }
    Ok(())
}

/// The address packages are fetched from.
fn mirror() -> Result<String, Error> {
    if let Some(mirror) = std::env::var("PITON_MIRROR").ok().filter(|mirror| !mirror.is_empty()) {
        return Ok(mirror);
    }
    let format = "$(ORIGIN)\t$(RELEASE)\t$(REPO_URI)";
    let text = run::output(run::command("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    choose_mirror(&text).ok_or(Error::NoMirror)
}

/// Picks Debian's main archive from lines of origin, suite and address. The origin is empty until the machine has
/// fetched its own index once, so that an empty one counts as possible, but less so.
fn choose_mirror(text: &str) -> Option<String> {
    let candidates = text.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let (origin, suite, address) = (fields.next()?, fields.next()?, fields.next()?);
        // Not a disc or a list of mirrors: the address is used for other suites.
        if !["http:", "https:", "file:"].iter().any(|scheme| address.starts_with(scheme)) {
            return None;
        }
        let main = !suite.is_empty() && suite.chars().all(|letter| letter.is_ascii_alphabetic());
        match origin {
            "Debian" if main => Some((0, address)),
            "Debian" | "Debian Backports" if !suite.contains("security") => Some((1, address)),
            "" | "$(ORIGIN)" if main => Some((2, address)),
            _ => None,
        }
    });
    candidates.min_by_key(|(rank, _)| *rank).map(|(_, address)| address.to_owned())
}

/// The file with the keys of Debian's archive.
fn keyring() -> Result<PathBuf, Error> {
    if let Some(file) = std::env::var_os("PITON_KEYRING").filter(|file| !file.is_empty()) {
        return Ok(PathBuf::from(file));
    }
    find_keyring().ok_or(Error::MissingPrograms(vec![crate::needs::KEYRING]))
}

/// The machine's own keyring file, where it has one.
pub fn find_keyring() -> Option<PathBuf> {
    KEYRINGS.iter().map(PathBuf::from).find(|file| file.is_file())
}

/// apt configuration that moves all state below `state` and switches the machine's hooks off.
fn apt_config(state: &Path, debian_arch: &str) -> String {
    let state = state.display();
    format!(
        "#clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         #clear DPkg::Pre-Install-Pkgs;\n\
         #clear DPkg::Post-Invoke;\n\
         #clear APT::Default-Release;\n\
         APT::Architecture \"{debian_arch}\";\n\
         #clear APT::Architectures;\n\
         APT::Architectures {{ \"{debian_arch}\"; }};\n\
         APT::Sandbox::User \"\";\n\
         APT::Install-Recommends \"false\";\n\
         APT::Install-Suggests \"false\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::GzipIndexes \"false\";\n\
         Acquire::Check-Valid-Until \"false\";\n\
         Acquire::Retries \"3\";\n\
         Acquire::http::Timeout \"30\";\n\
         Acquire::https::Timeout \"30\";\n\
         Dir::State \"{state}/\";\n\
         Dir::State::status \"{state}/status\";\n\
         Dir::State::lists \"{state}/lists/\";\n\
         Dir::Cache \"{state}/\";\n\
         Dir::Cache::archives \"{state}/archives/\";\n\
         Dir::Cache::pkgcache \"\";\n\
         Dir::Cache::srcpkgcache \"\";\n\
         Dir::Etc::sourcelist \"{state}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         Dir::Etc::trusted \"/dev/null\";\n\
         Dir::Etc::trustedparts \"/dev/null\";\n"
    )
}

/// Whether apt's complaint is about this suite and not about the network.
fn is_missing_suite(stderr: &str) -> bool {
    let unreachable = ["Could not", "Temporary failure", "timed out"];
    let refused =
        ["have a Release file", "has a Release file", "404", "NO_PUBKEY", "not signed", "EXPKEYSIG", "signatures"];
    refused.iter().any(|sign| stderr.contains(sign)) && !unreachable.iter().any(|sign| stderr.contains(sign))
}

/// Package names in the `Inst NAME (...)` lines of a simulated installation.
fn installed_names(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
}

/// Packages in the paragraphs `apt-cache show` prints.
fn parse_packages(text: &str) -> Vec<Package> {
    text.split("\n\n")
        .filter_map(|paragraph| {
            let field = |name: &str| {
                paragraph
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                    .map(|value| value.trim().to_owned())
            };
            Some(Package {
                name: field("Package")?,
                version: field("Version")?,
                architecture: field("Architecture")?,
                sha256: field("SHA256")?,
            })
        })
        .collect()
}

/// A Debian version without epoch and Debian revision (Debian Policy, 5.6.12).
fn upstream_version(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.rsplit_once('-').map_or(version, |(upstream, _)| upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_version_drops_epoch_and_revision() {
        assert_eq!(upstream_version("1:3.14.8-1"), "3.14.8");
        assert_eq!(upstream_version("3.14.0~rc1-2+b1"), "3.14.0~rc1");
        assert_eq!(upstream_version("3.14"), "3.14");
    }

    #[test]
    fn mirror_is_the_main_archive_and_not_security_or_a_stranger() {
        let text = "Debian\tbookworm-security\thttp://a.example/security/\n\
                    Node\tnodistro\thttp://b.example/\n\
                    Debian Backports\tbookworm-backports\thttp://c.example/debian/\n\
                    Debian\tbookworm\thttp://d.example/debian/\n";
        assert_eq!(choose_mirror(text).as_deref(), Some("http://d.example/debian/"));
    }

    #[test]
    fn mirror_without_known_origin_is_used_before_the_first_update() {
        assert_eq!(
            choose_mirror("\tbookworm\thttp://d.example/debian/\n").as_deref(),
            Some("http://d.example/debian/")
        );
        assert_eq!(choose_mirror(""), None);
        assert_eq!(choose_mirror("Debian\tbookworm\tcdrom:[Debian]/\n"), None);
        assert_eq!(choose_mirror("Ubuntu\tnoble\thttp://u.example/\n"), None);
    }

    #[test]
    fn missing_suite_is_told_from_a_dead_network() {
        assert!(is_missing_suite("E: The repository 'x forky Release' does not have a Release file."));
        assert!(!is_missing_suite("E: Failed to fetch x  Could not connect to 127.0.0.1:9 (127.0.0.1)."));
        assert!(!is_missing_suite("E: Failed to fetch x  Temporary failure resolving 'x'"));
    }

    #[test]
    fn simulated_installation_lists_names_without_architecture() {
        let text = "Reading package lists...\nInst libc6 (2.43-7 Debian:testing [arm64])\nInst zlib1g:arm64 (1 x [arm64])\nConf libc6 (2)\n";
        assert_eq!(installed_names(text).collect::<Vec<_>>(), ["libc6", "zlib1g"]);
    }

    #[test]
    fn package_paragraphs_are_parsed_and_incomplete_ones_ignored() {
        let text = "Package: zlib1g\nVersion: 1:1.3-1\nArchitecture: arm64\nSHA256: ab\n\nPackage: broken\n\n";
        let found = parse_packages(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].file_name(), "zlib1g_1%3a1.3-1_arm64.deb");
    }

    #[test]
    fn lock_reads_back_what_it_wrote() {
        let lock = Lock {
            suite: "forky".into(),
            python: "3.14".into(),
            selection: "python3.14-minimal alone: without:".into(),
            packages: vec![Package {
                name: "python3.14-minimal".into(),
                version: "3.14.8-1".into(),
                architecture: "arm64".into(),
                sha256: "00".into(),
            }],
        };
        assert_eq!(Lock::from_text(&lock.to_text()), Some(lock.clone()));
        assert_eq!(lock.python_version(), "3.14.8");
    }

    #[test]
    fn truncated_lock_is_refused() {
        assert_eq!(Lock::from_text("suite\tforky\npython\t3.14\npackage\tlibc6\t2.4"), None);
        assert_eq!(Lock::from_text(""), None);
    }
}
