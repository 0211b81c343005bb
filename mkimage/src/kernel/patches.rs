//! The patches of `kernel-patches/`, which are part of the program and are applied to a kernel's source when
//! it is unpacked. A source that a patch does not apply to, such as a later one that has the change, is left
//! as it is.

use std::io::{self, Seek as _, Write as _};
use std::path::Path;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::arch::BuiltInFile;
use crate::progress::Progress;
use crate::tools::{self, Tool};

const PATCHES: &[BuiltInFile] = &[BuiltInFile {
    name: "0001-9p-end-a-file-at-a-short-read.patch",
    text: include_str!("../../../kernel-patches/0001-9p-end-a-file-at-a-short-read.patch"),
}];

/// The program that applies them.
pub(super) const PATCH: Tool = Tool {
    program: "patch",
    package: "patch",
};

/// What tells these patches from others: the beginning of their SHA-256, in hex.
pub(super) fn identity() -> String {
    let mut hash = Sha256::new();
    for patch in PATCHES {
        hash.update((patch.text.len() as u64).to_be_bytes());
        hash.update(patch.text);
    }
    HEXLOWER.encode(&hash.finalize()[..8])
}

/// Apply all that apply to a tree that nobody uses yet.
pub(super) fn apply(tree: &Path, progress: Progress) -> Result<(), tools::Error> {
    for patch in PATCHES {
        apply_one(patch, tree, progress)?;
    }
    Ok(())
}

fn apply_one(patch: &BuiltInFile, tree: &Path, progress: Progress) -> Result<(), tools::Error> {
    let run = |options: &[&str]| {
        let input = temporary(patch.text).map_err(|source| tools::Error::Run {
            program: PATCH.program.to_owned(),
            source,
        })?;
        let mut command = tools::command(PATCH.program);
        command
            .args(["--strip=1", "--forward", "--batch", "--directory"])
            .arg(tree)
            .args(options)
            .stdin(input);
        tools::run_short(command, progress)
    };
    match run(&["--dry-run"]) {
        Ok(()) => run(&["--no-backup-if-mismatch"]),
        // patch(1): some hunks cannot be applied.
        Err(tools::Error::Refused { status, .. }) if status.code() == Some(1) => {
            progress.say(format!(
                "{} does not apply to this kernel source: left out",
                patch.name
            ));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// A file of this text, to be read from its beginning.
fn temporary(text: &str) -> io::Result<std::fs::File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const EXAMPLE: BuiltInFile = BuiltInFile {
        name: "example.patch",
        text: "Why.\n---\n--- a/fs/x.c\n+++ b/fs/x.c\n@@ -1,3 +1,3 @@\n before\n-old\n+new\n after\n",
    };

    /// What becomes of a file of this text, and whether anything else is then in its directory.
    fn patched(text: &str) -> String {
        let tree = tempfile::tempdir().unwrap();
        let directory = tree.path().join("fs");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("x.c"), text).unwrap();
        apply_one(&EXAMPLE, tree.path(), Progress::silent()).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::read_to_string(directory.join("x.c")).unwrap()
    }

    #[test]
    fn a_patch_applies_also_some_lines_further_down() {
        assert_eq!(patched("before\nold\nafter\n"), "before\nnew\nafter\n");
        assert_eq!(
            patched("more\n\nbefore\nold\nafter\n"),
            "more\n\nbefore\nnew\nafter\n"
        );
    }

    #[test]
    fn a_source_that_has_the_change_or_reads_otherwise_stays_as_it_is() {
        for text in ["before\nnew\nafter\n", "before\nother\nafter\n", "\n"] {
            assert_eq!(patched(text), text);
        }
        let empty = tempfile::tempdir().unwrap();
        apply(empty.path(), Progress::silent()).unwrap();
        assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_tree_that_is_not_there_is_an_error() {
        let empty = tempfile::tempdir().unwrap();
        let result = apply_one(&EXAMPLE, &empty.path().join("absent"), Progress::silent());
        assert!(matches!(result, Err(tools::Error::Refused { .. })));
    }
}
