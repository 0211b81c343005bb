//! A Debian package (deb(5)): an ar archive with two compressed tar archives, of which one describes it.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};

use super::{Error, Files, MAX_CONTROL, MAX_DATA, tar_files, unread};
use crate::arch::Arch;
use crate::archive::decompress;

/// Give its files to `files`.
pub(super) fn unpack(file: File, arch: Arch, files: &mut Files<'_, '_>) -> Result<(), Error> {
    let mut members = Members::new(file)?;
    let (mut is_checked, mut is_unpacked) = (false, false);
    while let Some((name, content)) = members.next()? {
        let suffixes = ["", ".xz", ".gz", ".zst"].map(Some);
        let (control, data) = (
            name.strip_prefix("control.tar"),
            name.strip_prefix("data.tar"),
        );
        if control
            .or(data)
            .is_some_and(|_| !suffixes.contains(&control.or(data)))
        {
            return Err(Error::Member(name));
        }
        // Each of them may become large, however small it is.
        if control.is_some() && is_checked || data.is_some() && is_unpacked {
            return Err(Error::Twice(name));
        }
        let packed = content.limit();
        let read = |max| {
            let content = BufReader::new(content);
            decompress::reader(content, packed, max).map_err(Error::Unpack)
        };
        if control.is_some() {
            check(read(MAX_CONTROL)?, arch)?;
            is_checked = true;
        } else if data.is_some() {
            tar_files::read(read(MAX_DATA)?, |name, contents| files.add(name, contents))?;
            is_unpacked = true;
        }
    }
    if is_unpacked {
        Ok(())
    } else {
        Err(Error::Format)
    }
}

/// The members of an ar archive.
struct Members {
    file: File,
    whole: u64,
    next: u64,
}

impl Members {
    fn new(mut file: File) -> Result<Self, Error> {
        let whole = file.metadata().map_err(Error::Open)?.len();
        let mut magic = [0; 8];
        match file.read_exact(&mut magic) {
            Ok(()) if magic == *b"!<arch>\n" => Ok(Self {
                file,
                whole,
                next: 8,
            }),
            _ => Err(Error::Format),
        }
    }

    /// Name and content of the next one. Its header has 60 bytes of text: a name of 16, at last a size
    /// of 10 and two bytes that end it.
    fn next(&mut self) -> Result<Option<(String, io::Take<File>)>, Error> {
        self.file
            .seek(SeekFrom::Start(self.next))
            .map_err(Error::Damaged)?;
        let mut header = Vec::new();
        (&self.file)
            .take(60)
            .read_to_end(&mut header)
            .map_err(Error::Damaged)?;
        if header.is_empty() {
            return Ok(None);
        }
        let text = str::from_utf8(&header).map_err(|_| Error::Format)?;
        let fields = text.get(..16).zip(text.get(48..58));
        let (Some((name, size)), true) = (fields, text.ends_with("`\n")) else {
            return Err(Error::Format);
        };
        let size: u64 = size.trim().parse().map_err(|_| Error::Format)?;
        let end = size.checked_add(self.next + 60).ok_or(Error::Format)?;
        if end > self.whole {
            return Err(Error::Damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        self.next = end + end % 2;
        let name = name.trim_end().trim_end_matches('/').to_owned();
        let file = self.file.try_clone().map_err(Error::Damaged)?;
        Ok(Some((name, file.take(size))))
    }
}

/// Refuse a package for another architecture.
fn check(control: impl Read, arch: Arch) -> Result<(), Error> {
    let mut is_described = false;
    tar_files::read(control, |name, contents| {
        if is_described || name.rsplit('/').next() != Some("control") {
            return Ok(());
        }
        let mut text = String::new();
        contents.read_to_string(&mut text).map_err(unread)?;
        let mut lines = text.lines();
        let got = lines.find_map(|line| line.strip_prefix("Architecture: "));
        is_described = true;
        super::check_machine(
            got.ok_or(Error::Format)?.trim(),
            arch.facts().debian_name,
            arch,
        )
    })?;
    if is_described {
        Ok(())
    } else {
        Err(Error::Format)
    }
}
