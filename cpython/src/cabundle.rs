//! The certificate bundle, built from the files of the ca-certificates package.
//!
//! On a Debian system the package's set-up program writes `/etc/ssl/certs/ca-certificates.crt`; nothing of the
//! packages runs here, so that [`bundle`] does it: every certificate, in the order of the file names.

use std::path::Path;

use crate::error::Error;
use crate::run;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Path of the bundle in the image.
pub const PATH: &str = "etc/ssl/certs/ca-certificates.crt";

/// Writes the bundle into an image tree; answers the number of certificates.
pub fn write(tree: &Path) -> Result<usize, Error> {
    let directory = tree.join("usr/share/ca-certificates");
    let mut files = Vec::new();
    for relative in run::walk(&directory)? {
        let path = directory.join(&relative);
        files.push((path.clone(), String::from_utf8_lossy(&run::read_file(&path)?).into_owned()));
    }
    let mut text = String::new();
    for (path, contents) in &files {
        text.push_str(&certificates(contents).ok_or_else(|| Error::Certificate(path.clone()))?);
    }
    if files.is_empty() {
        return Err(Error::Certificate(directory));
    }
    run::write_file(&tree.join(PATH), text)?;
    Ok(files.len())
}

/// The PEM certificates of one file, each ending in a newline; `None` when there is none or one is cut short.
fn certificates(contents: &str) -> Option<String> {
    let mut bundle = String::new();
    let mut inside = false;
    for line in contents.lines().map(str::trim_end) {
        if line == BEGIN {
            if inside {
                return None;
            }
            inside = true;
        }
        if inside {
            bundle.push_str(line);
            bundle.push('\n');
        }
        if line == END {
            inside = false;
        }
    }
    (!inside && !bundle.is_empty()).then_some(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_around_a_certificate_are_left_out() {
        let text = format!("# Root\r\n{BEGIN}\r\nAAAA\r\n{END}");
        assert_eq!(certificates(&text).unwrap(), format!("{BEGIN}\nAAAA\n{END}\n"));
    }

    #[test]
    fn several_certificates_in_one_file_are_all_taken() {
        let text = format!("{BEGIN}\nA\n{END}\n\n{BEGIN}\nB\n{END}\n");
        assert_eq!(certificates(&text).unwrap().matches(BEGIN).count(), 2);
    }

    #[test]
    fn truncated_or_empty_file_is_refused() {
        assert_eq!(certificates(&format!("{BEGIN}\nA\n")), None);
        assert_eq!(certificates(&format!("{BEGIN}\nA\n{BEGIN}\nB\n{END}\n")), None);
        assert_eq!(certificates(""), None);
    }
}
