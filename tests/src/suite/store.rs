//! Outcomes that are kept between runs, each with what it was made with.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Outcome;

/// What an outcome depends on. What stays the same from run to run has the same words.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct MadeWith {
    /// The kernel.
    pub kernel: String,
    /// The files of the root image.
    pub root: String,
    /// The program in the guest.
    pub program: String,
    /// The machine.
    pub machine: String,
}

impl MadeWith {
    fn differs_in_kernel_only(&self, other: &Self) -> bool {
        let kernel = other.kernel.clone();
        Self { kernel, ..self.clone() } == *other
    }
}

/// The outcomes of one system.
pub struct Store {
    folder: PathBuf,
    made_with: MadeWith,
    /// Outcomes of another kernel count too.
    keep_stale: bool,
}

/// An outcome that was kept.
pub struct Kept {
    /// The outcome.
    pub outcome: Outcome,
    /// It counts in this run.
    pub valid: bool,
    /// It is of another kernel.
    pub stale: bool,
}

#[derive(Deserialize, Serialize)]
struct Record {
    made_with: MadeWith,
    /// The time limit, in seconds.
    limit: u32,
    outcome: Outcome,
}

impl Store {
    /// The store in a folder, which is made when it is not there.
    ///
    /// # Errors
    /// A line for the user.
    pub fn new(folder: PathBuf, made_with: MadeWith, keep_stale: bool) -> Result<Self, String> {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self { folder, made_with, keep_stale })
    }

    /// What is kept of a file. With a time limit larger than that at which it was given up it is not valid.
    #[must_use]
    pub fn get(&self, name: &str, limit: u32) -> Option<Kept> {
        // What cannot be read is run again.
        let record: Record = serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()?;
        let same = record.made_with == self.made_with;
        let stale = !same && record.made_with.differs_in_kernel_only(&self.made_with);
        let in_time = !record.outcome.ran_out_of_time() || record.limit >= limit;
        let valid = in_time && (same || (stale && self.keep_stale));
        Some(Kept { outcome: record.outcome, valid, stale })
    }

    /// Keeps an outcome.
    ///
    /// # Errors
    /// A line for the user.
    pub fn put(&self, outcome: &Outcome, limit: u32) -> Result<(), String> {
        let record = Record { made_with: self.made_with.clone(), limit, outcome: outcome.clone() };
        let json = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
        let path = self.path(&outcome.name);
        // Whole or not at all: the run may be ended at any time.
        let partial = path.with_extension("partial");
        write(&partial, &json)?;
        fs::rename(&partial, &path).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }
}

/// Writes a file.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &Path, kernel: &str, root: &str, keep_stale: bool) -> Store {
        let made_with = MadeWith { kernel: kernel.into(), root: root.into(), ..MadeWith::default() };
        Store::new(folder.into(), made_with, keep_stale).unwrap()
    }

    #[test]
    fn outcome_is_valid_as_long_as_nothing_changes() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = Outcome { name: "test_a.b".into(), status: "exit 0".into(), ..Outcome::default() };
        store(folder.path(), "k", "r", false).put(&outcome, 10).unwrap();
        let valid = |kernel, root, keep| {
            let kept = store(folder.path(), kernel, root, keep).get("test_a.b", 20).expect("it is there");
            (kept.valid, kept.stale)
        };
        assert_eq!(valid("k", "r", false), (true, false));
        assert_eq!(valid("k2", "r", false), (false, true));
        assert_eq!(valid("k2", "r", true), (true, true));
        assert_eq!(valid("k2", "r2", true), (false, false));
        assert!(store(folder.path(), "k", "r", false).get("test_b", 20).is_none());
    }

    #[test]
    fn file_that_ran_out_of_time_is_tried_with_more() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), "k", "r", false);
        let status = "stopped after 10 s".into();
        store.put(&Outcome { name: "test_a".into(), status, ..Outcome::default() }, 10).unwrap();
        assert!(store.get("test_a", 10).unwrap().valid);
        assert!(!store.get("test_a", 11).unwrap().valid);
    }
}
