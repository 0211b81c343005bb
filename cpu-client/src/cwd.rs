//! The command's working directory.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;

/// The `PWD` to send instead of `pwd`, which is this process's; `None` if that can stay. `is_this_tree` says whether the
/// served tree is the one in which this process has its working directory.
pub(crate) fn corrected(pwd: Option<&OsStr>, is_this_tree: bool) -> Option<String> {
    let here = std::env::current_dir().ok()?;
    let name = here.to_str()?;
    // In another tree, the working directory here means nothing.
    match pwd {
        Some(pwd) if !is_this_tree || counts(Path::new(pwd), &here) => None,
        pwd => {
            if let Some(pwd) = pwd {
                warn!("PWD={pwd:?} is not the working directory; the command runs in {name}");
            }
            Some(name.to_owned())
        }
    }
}

/// Whether `$PWD` says where the command is to run. It may be out of date: a program that changes its directory and
/// starts cpu need not have changed it. It counts if it names the working directory, through whichever links; if it
/// does not exist here; or if it is `/`, which keeps the command out of the client's files.
fn counts(pwd: &Path, here: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |path: &Path| path.metadata().map(|known| (known.dev(), known.ino()));
    let named = identity(pwd);
    let is_absent = named
        .as_ref()
        .is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory));
    let is_here = || matches!((&named, identity(here)), (Ok(named), Ok(here)) if *named == here);
    pwd.is_absolute() && (pwd == Path::new("/") || pwd == here || is_absent || is_here())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outdated_pwd_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let (here, link) = (root.path().join("here"), root.path().join("link"));
        std::fs::create_dir(&here).unwrap();
        std::os::unix::fs::symlink("here", &link).unwrap();
        for current in [&here, &link, Path::new("/"), &root.path().join("not")] {
            assert!(counts(current, &here), "{}", current.display());
        }
        for outdated in [root.path(), Path::new("."), Path::new("")] {
            assert!(!counts(outdated, &here), "{}", outdated.display());
        }
    }
}
