//! Describes an image: `recognise` parses it, `print` writes what was found.

mod logins;
mod print;
mod recognise;
mod report;

use std::path::Path;

pub(crate) use logins::logins;
pub(crate) use report::Error;

/// Lines about a file's contents, each level two spaces further in.
pub(crate) fn file(path: &Path) -> Result<String, Error> {
    let report = recognise::file(path)?;
    Ok(format!("{}: {}", path.display(), print::image(&report)))
}
