//! Boards as data: reads `board/NAME/board.toml`.
//!
//! [`Board`] is what the file says. A board is added by adding its folder; nothing in the code lists them. Unknown
//! keys are errors, so that a misspelt one is not silently ignored.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::Error;
use crate::workspace;

/// One board, as its `board.toml` describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// The folder's name.
    #[serde(skip)]
    pub name: String,
    /// The chip, for the table.
    pub soc: String,
    /// `arm64`: which image it boots.
    pub arch: String,
    /// 1: every change is tested on it; 2: tested before a release; 3: built only.
    pub tier: u8,
    /// What it was last tested on.
    pub tested_on: String,
    /// How QEMU plays it.
    pub qemu: Qemu,
}

/// How QEMU plays a board.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// The program's name.
    pub program: String,
    /// `-machine`.
    pub machine: String,
    /// `-cpu`, unless the caller chooses another.
    pub cpu: String,
    /// `-smp`, unless the caller chooses another.
    pub cpus: u32,
    /// `-m` in QEMU's notation, unless the caller chooses another.
    pub memory: String,
    /// The `gic-version` values the machine takes; empty when it has no such option.
    #[serde(default)]
    pub gic_versions: Vec<u32>,
    /// The network device, as `-device` has it; empty when the machine has none.
    #[serde(default)]
    pub network: String,
    /// Index of the serial port that carries the console.
    #[serde(default)]
    pub console_serial: usize,
}

impl Board {
    /// Reads the board of that name.
    ///
    /// # Errors
    /// [`Error::UnknownBoard`] names the boards there are; [`Error::BoardFile`] says what its file lacks.
    pub fn load(name: &str) -> Result<Self, Error> {
        Self::load_from(&workspace::root().join("board"), name)
    }

    /// All boards, by name.
    ///
    /// # Errors
    /// [`Error::BoardFile`] for the first one whose file is wrong.
    pub fn all() -> Result<Vec<Self>, Error> {
        let folder = workspace::root().join("board");
        names(&folder)?.iter().map(|name| Self::load_from(&folder, name)).collect()
    }

    fn load_from(folder: &Path, name: &str) -> Result<Self, Error> {
        let known = names(folder)?;
        if !known.iter().any(|k| k == name) {
            return Err(Error::UnknownBoard { name: name.into(), known: known.join(", ") });
        }
        let path = folder.join(name).join("board.toml");
        let text = fs::read_to_string(&path).map_err(|source| Error::Input {
            what: "the board file",
            path: path.clone(),
            source,
        })?;
        let mut board: Self =
            toml::from_str(&text).map_err(|e| Error::BoardFile { path, message: e.to_string().trim_end().into() })?;
        board.name = name.into();
        Ok(board)
    }
}

/// The names of the folders in `folder` that hold a `board.toml`, sorted.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let what = || format!("listing {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(what()))? {
        let entry = entry.map_err(Error::io(what()))?;
        if entry.path().join("board.toml").is_file()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_file_in_the_tree_is_complete() {
        let boards = Board::all().expect("all board files parse");
        assert!(boards.iter().any(|b| b.name == "qemu-virt"));
    }

    #[test]
    fn unknown_board_is_refused_with_the_list() {
        let error = Board::load("nonesuch").expect_err("there is no such board");
        let text = error.to_string();
        assert!(text.contains("nonesuch") && text.contains("qemu-virt"), "{text}");
        assert_eq!(error.status(), 2);
    }

    #[test]
    fn board_name_with_a_path_in_it_is_unknown() {
        assert!(matches!(Board::load("../board/qemu-virt"), Err(Error::UnknownBoard { .. })));
    }

    #[test]
    fn misspelt_key_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("x")).expect("mkdir");
        fs::write(dir.path().join("x/board.toml"), "sok = 'x'\n").expect("write");
        let error = Board::load_from(dir.path(), "x").expect_err("the key is unknown");
        assert!(error.to_string().contains("sok"), "{error}");
    }
}
