//! Where the command is to run.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;

/// What `PWD` is to be there instead of `pwd`, what it is here; none where it is to stay. `is_this_tree` is whether the
/// files that are served are those in which this process works.
pub(crate) fn corrected(pwd: Option<&OsStr>, is_this_tree: bool) -> Option<String> {
    let here = std::env::current_dir().ok()?;
    let name = here.to_str()?;
    // Of another tree than this one's, no directory of here tells.
    match pwd {
        Some(pwd) if !is_this_tree || is_meant(Path::new(pwd), &here) => None,
        pwd => {
            if let Some(pwd) = pwd {
                warn!("PWD={pwd:?} is not the working directory; the command runs in {name}");
            }
            Some(name.to_owned())
        }
    }
}

/// Whether `$PWD` says where the command is to run. It may be a left-over: a program that changes its directory and
/// then starts another leaves it as it was. It counts when it names the working directory, by whichever links, when
/// it names nothing that is here, and when it is `/`, which keeps the command out of the client's files.
fn is_meant(pwd: &Path, here: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let which = |path: &Path| path.metadata().map(|known| (known.dev(), known.ino()));
    let named = which(pwd);
    let is_absent = named
        .as_ref()
        .is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory));
    let is_here = || matches!((&named, which(here)), (Ok(named), Ok(here)) if *named == here);
    pwd.is_absolute() && (pwd == Path::new("/") || pwd == here || is_absent || is_here())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_left_over_pwd_is_not_meant() {
        let root = tempfile::tempdir().unwrap();
        let (here, link) = (root.path().join("here"), root.path().join("link"));
        std::fs::create_dir(&here).unwrap();
        std::os::unix::fs::symlink("here", &link).unwrap();
        for meant in [&here, &link, Path::new("/"), &root.path().join("not")] {
            assert!(is_meant(meant, &here), "{}", meant.display());
        }
        for left in [root.path(), Path::new("."), Path::new("")] {
            assert!(!is_meant(left, &here), "{}", left.display());
        }
    }
}
