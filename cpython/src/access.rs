//! What decides who may have a session over the network: a token and a certificate, given when the image is made.
//!
//! They come from the environment, so that a token is in no command line. The image gets the token's SHA-256 only
//! (`python/piton/repl/access.py` reads the files).

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::run;

/// The files of one image: path below the root and content.
pub struct Access(Vec<(&'static str, Vec<u8>)>);

impl Access {
    /// Reads PITON_REPL_TOKEN (the token), PITON_REPL_CERT and PITON_REPL_KEY (paths of PEM files).
    pub fn from_environment() -> Result<Self, Error> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut files = Vec::new();
        if let Some(token) = set("PITON_REPL_TOKEN") {
            files.push(("etc/piton/repl-token", run::sha256_of_text(&token)?.into_bytes()));
        }
        for (name, path) in
            [("PITON_REPL_CERT", "etc/piton/repl-cert.pem"), ("PITON_REPL_KEY", "etc/piton/repl-key.pem")]
        {
            if let Some(file) = set(name) {
                files.push((path, run::read_file(&PathBuf::from(file))?));
            }
        }
        Ok(Self(files))
    }

    /// Differs whenever the files do; empty without any.
    pub fn fingerprint(&self) -> Result<String, Error> {
        let mut text = String::new();
        for (path, content) in &self.0 {
            text.push_str(&format!("{path} {}\n", run::sha256_of_text(&String::from_utf8_lossy(content))?));
        }
        Ok(text)
    }

    /// Writes the files into a tree.
    pub fn write(&self, tree: &Path) -> Result<(), Error> {
        self.0.iter().try_for_each(|(path, content)| run::write_file(&tree.join(path), content))
    }

    /// The files, which nobody but root may read.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(path, _)| *path)
    }
}
