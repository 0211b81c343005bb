//! What is put right in the kernel's source before it is compiled. Each place is found by its text, so that a
//! source in which it reads otherwise, as a later one may, stays as it is.

use std::fs;
use std::io;
use std::path::Path;

/// A place in the source.
struct Mend {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

/// Counts what is mended: another number is another source.
pub(super) const EDITION: u32 = 1;

const MENDS: &[Mend] = &[
    // 9P says by a short answer that a file ends. Linux 6.12 goes by the size that it knows: when a file has
    // become shorter since, it asks for the missing rest again and again, and the program that reads hangs.
    Mend {
        file: "fs/9p/vfs_addr.c",
        from: "\tif (pos + total >= i_size_read(rreq->inode))\n",
        to: "\tif (iov_iter_count(&subreq->io_iter) ||\n\t    pos + total >= i_size_read(rreq->inode))\n",
    },
];

/// Mends a tree that nobody uses yet.
pub(super) fn mend(tree: &Path) -> io::Result<()> {
    for Mend { file, from, to } in MENDS {
        let path = tree.join(file);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        if text.matches(from).count() == 1 {
            fs::write(&path, text.replace(from, to))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_as_expected_is_mended() {
        let tree = tempfile::tempdir().unwrap();
        mend(tree.path()).unwrap();
        let mended = &MENDS[0];
        let path = tree.path().join(mended.file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let around = |text: &str| format!("before\n{text}after\n");
        for (before, after) in [
            (around(mended.from), around(mended.to)),
            (around(mended.to), around(mended.to)),
            (around("other\n"), around("other\n")),
        ] {
            fs::write(&path, before).unwrap();
            mend(tree.path()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), after);
        }
    }
}
