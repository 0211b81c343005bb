//! Parses an initramfs as the kernel does (Documentation/driver-api/early-userspace/buffer-format.rst): newc archives one
//! after the other, each of them perhaps compressed, with zeros between them. No I/O. The bytes may come from anybody.

pub(crate) mod replace;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::ops::Range;

use super::decompress::{self, MAX_UNPACKED, Sum};
use super::newc::{HEADER, header_numbers};

/// The kernel's own limit, PATH_MAX.
const MAX_NAME: usize = 4096;
const TRAILER: &[u8] = b"TRAILER!!!";
/// Entries of one archive, of which the largest that distributions make has some ten thousand.
const MAX_ENTRIES: usize = 1 << 17;
/// Bytes of all names of one archive.
const MAX_NAMES: usize = 16 << 20;

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing but zeros, or nothing at all.
    #[error("there is no archive in it")]
    Empty,
    /// What begins at this byte is unknown.
    #[error("at byte {0} there is neither a newc archive nor one that is compressed")]
    Format(usize),
    /// It ends early.
    #[error("the archive ends in the middle of an entry: it is truncated or damaged")]
    Truncated,
    /// The header at this byte makes no sense.
    #[error("the header of an entry at byte {0} of the archive is damaged")]
    Header(usize),
    /// More than a list of them should have.
    #[error(
        "an archive in it has more than {MAX_ENTRIES} files, or names of more than {MAX_NAMES} bytes: do not use it"
    )]
    Entries,
    /// What is compressed cannot be unpacked.
    #[error(transparent)]
    Compression(#[from] decompress::Error),
}

/// One part: an archive with all its entries.
#[derive(Debug)]
pub struct Part<'a> {
    /// Where it begins in the file.
    pub start: usize,
    /// How it was compressed.
    pub by: Option<&'static str>,
    /// How long it is in the file.
    pub packed: usize,
    /// Its files, in their order.
    pub entries: Vec<NewcEntry>,
    /// The archive, not compressed.
    pub bytes: Cow<'a, [u8]>,
}

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewcEntry {
    /// Where its header begins.
    header: usize,
    name: Range<usize>,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    owner: (u32, u32),
    links: u32,
    device: (u32, u32),
    contents: Range<usize>,
}

impl Part<'_> {
    /// The name of a file, without a leading `/` or `./`.
    pub fn name(&self, entry: &NewcEntry) -> &[u8] {
        self.bytes.get(entry.name.clone()).unwrap_or_default()
    }

    /// What is in a file, or in a symbolic link.
    pub fn contents(&self, entry: &NewcEntry) -> &[u8] {
        self.bytes.get(entry.contents.clone()).unwrap_or_default()
    }
}

/// Every part.
pub fn read(bytes: &[u8]) -> Result<Vec<Part<'_>>, Error> {
    let (mut parts, mut at, mut sum) = (Vec::new(), 0, Sum::default());
    loop {
        at += bytes[at..].iter().take_while(|byte| **byte == 0).count();
        let rest = &bytes[at..];
        if rest.is_empty() {
            break;
        }
        let part = if let Some(unpacked) = decompress::unpack_first(rest, MAX_UNPACKED)? {
            let (entries, _) = entries(&unpacked.bytes)?;
            Part {
                start: at,
                by: Some(unpacked.by),
                packed: unpacked.consumed,
                entries,
                bytes: unpacked.bytes.into(),
            }
        } else if is_newc(rest) {
            let (entries, length) = entries(rest)?;
            Part {
                start: at,
                by: None,
                packed: length,
                entries,
                bytes: rest[..length].into(),
            }
        } else {
            return Err(Error::Format(at));
        };
        at += part.packed;
        if part.by.is_some() {
            sum.add(part.packed, part.bytes.len())?;
        }
        parts.push(part);
    }
    if parts.is_empty() {
        return Err(Error::Empty);
    }
    Ok(parts)
}

/// The archive at the beginning of `bytes`, when there is a whole one, whatever follows it.
pub fn first_newc(bytes: &[u8]) -> Option<Part<'_>> {
    let (entries, length) = entries(bytes).ok()?;
    Some(Part {
        start: 0,
        by: None,
        packed: length,
        entries,
        bytes: bytes[..length].into(),
    })
}

/// All of it without compression, as a kernel is built with it.
pub fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    for part in read(bytes)? {
        match part.bytes {
            Cow::Owned(bytes) if all.is_empty() => all = bytes,
            bytes => all.extend_from_slice(&bytes),
        }
        all.resize(all.len().next_multiple_of(4), 0);
    }
    Ok(all)
}

fn is_newc(bytes: &[u8]) -> bool {
    bytes.starts_with(b"070701") || bytes.starts_with(b"070702")
}

/// The entries of one archive or of several, up to what is none, and how long they are.
fn entries(bytes: &[u8]) -> Result<(Vec<NewcEntry>, usize), Error> {
    let (mut all, mut at, mut names) = (Vec::new(), 0, 0);
    loop {
        let here = at;
        let header = bytes.get(at..).and_then(<[u8]>::first_chunk);
        let numbers = header_numbers(header.ok_or(Error::Truncated)?);
        let numbers = numbers.ok_or(Error::Header(at))?;
        let (length, name_length) = (numbers[6] as usize, numbers[11] as usize);
        if !(1..=MAX_NAME).contains(&name_length) {
            return Err(Error::Header(at));
        }
        let name_at = at + HEADER;
        let name = bytes
            .get(name_at..name_at + name_length - 1)
            .ok_or(Error::Truncated)?;
        let start = (name_at + name_length).next_multiple_of(4);
        let end = start + length;
        if end > bytes.len() && name != TRAILER {
            return Err(Error::Truncated);
        }
        at = end.next_multiple_of(4).min(bytes.len());
        if name == TRAILER {
            let padding = bytes[at..].iter().take_while(|byte| **byte == 0).count();
            if is_newc(&bytes[at + padding..]) {
                at += padding;
                continue;
            }
            return Ok((all, at));
        }
        names += name.len();
        if all.len() == MAX_ENTRIES || names > MAX_NAMES {
            return Err(Error::Entries);
        }
        // As the kernel looks a path up, these say nothing.
        let mut plain = name;
        while let Some(rest) = [&b"/"[..], b"./"]
            .iter()
            .find_map(|start| plain.strip_prefix(*start))
        {
            plain = rest;
        }
        all.push(NewcEntry {
            header: here,
            name: name_at + name.len() - plain.len()..name_at + name.len(),
            mode: numbers[1],
            owner: (numbers[2], numbers[3]),
            links: numbers[4],
            device: (numbers[9], numbers[10]),
            contents: start..end,
        });
    }
}

/// Write the lines of `--list`, like those of ls -l.
pub fn list(parts: &[Part<'_>], mut to: impl Write) -> io::Result<()> {
    for part in parts {
        let (packed, whole) = (part.packed, part.bytes.len());
        match part.by {
            Some(by) => writeln!(to, "{whole} bytes, {packed} when compressed by {by}:"),
            None => writeln!(to, "{whole} bytes, not compressed:"),
        }?;
        for entry in &part.entries {
            writeln!(to, "{}", Line(part, entry))?;
        }
    }
    to.flush()
}

/// An entry as ls -l shows it.
struct Line<'a>(&'a Part<'a>, &'a NewcEntry);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(part, entry) = self;
        let mode = entry.mode;
        let kind = match mode & 0o170_000 {
            0o040_000 => 'd',
            0o120_000 => 'l',
            0o020_000 => 'c',
            0o060_000 => 'b',
            0o010_000 => 'p',
            0o140_000 => 's',
            0o100_000 => '-',
            _ => '?',
        };
        write!(f, "{kind}")?;
        for (shift, special, set) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
            let bits = mode >> shift;
            let special = mode & special != 0;
            let execute = match (bits & 1 != 0, special) {
                (true, true) => set,
                (false, true) => set.to_ascii_uppercase(),
                (true, false) => 'x',
                (false, false) => '-',
            };
            let read = if bits & 4 != 0 { 'r' } else { '-' };
            let write = if bits & 2 != 0 { 'w' } else { '-' };
            write!(f, "{read}{write}{execute}")?;
        }
        let size = match kind {
            'c' | 'b' => format!("{}, {}", entry.device.0, entry.device.1),
            _ => entry.contents.len().to_string(),
        };
        let (user, group) = entry.owner;
        let name = part.name(entry).escape_ascii();
        write!(f, " {:>3} {user}:{group} {size:>10} {name}", entry.links)?;
        if kind == 'l' {
            let to = part.contents(entry);
            let to = to.get(..MAX_NAME).unwrap_or(to);
            write!(f, " -> {}", to.escape_ascii())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::compress::Compression;
    use super::super::newc::{self, EntryBody, FileTree};
    use super::*;
    use crate::arch::Arch;

    fn archive(name: &str) -> Vec<u8> {
        let file = |bytes: &[u8]| EntryBody::File(bytes.to_vec());
        let tree: FileTree = [
            ("dev", 0o755, EntryBody::Directory),
            (
                "dev/console",
                0o600,
                EntryBody::CharDevice { major: 5, minor: 1 },
            ),
            (name, 0o4755, file(b"a program")),
            ("tmp", 0o1777, EntryBody::Directory),
        ]
        .map(|(name, mode, body)| (name.to_owned(), (mode, body)))
        .into();
        newc::pack(tree, 7).unwrap()
    }

    #[test]
    fn parts_are_read_whatever_their_compression() {
        let mut bytes = Vec::new();
        let forms = [
            Compression::None,
            Compression::Xz,
            Compression::Zstd,
            Compression::None,
            Compression::Gzip,
        ];
        for (index, form) in forms.into_iter().enumerate() {
            bytes.extend(
                form.apply(archive(&format!("init{index}")), Arch::X86_64)
                    .unwrap(),
            );
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        let parts = read(&bytes).unwrap();
        let by: Vec<_> = parts.iter().map(|part| part.by).collect();
        assert_eq!(by, [None, Some("xz"), Some("zstd"), None, Some("gzip")]);
        for (index, part) in parts.iter().enumerate() {
            let entry = &part.entries[2];
            assert_eq!(part.name(entry), format!("init{index}").as_bytes());
            assert_eq!(part.contents(entry), b"a program");
        }
        assert_eq!(read(&unpack(&bytes).unwrap()).unwrap()[0].entries.len(), 20);
    }

    #[test]
    fn a_list_looks_like_that_of_ls() {
        let mut text = Vec::new();
        list(&read(&archive("init")).unwrap(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x   2 0:0          0 dev",
                "crw-------   1 0:0       5, 1 dev/console",
                "-rwsr-xr-x   1 0:0          9 init",
                "drwxrwxrwt   2 0:0          0 tmp",
            ]
        );
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = archive("init");
        // Zeros behind the trailer are no part of the archive.
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for length in 0..end {
            assert!(read(&whole[..length]).is_err(), "{length} bytes were taken");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        assert!(matches!(read(b"\0\0\0"), Err(Error::Empty)));
        assert!(matches!(read(b"\0\0\0hello"), Err(Error::Format(3))));
        let zeros = Compression::Xz.apply(vec![0; 99], Arch::X86_64).unwrap();
        assert!(read(&zeros).is_err());
    }

    #[test]
    fn parts_count_together_and_entries_are_counted() {
        let packed = Compression::Xz
            .apply(archive("init"), Arch::X86_64)
            .unwrap();
        assert_eq!(read(&packed.repeat(100)).unwrap().len(), 100);
        let mut large = archive("init");
        large.resize(1 << 20, 0);
        let packed = Compression::Xz.apply(large, Arch::X86_64).unwrap();
        assert!(read(&packed.repeat(20)).is_ok());
        let bytes = packed.repeat(40);
        let bomb = read(&bytes);
        let bomb = matches!(
            bomb,
            Err(Error::Compression(decompress::Error::Bomb { .. }))
        );
        assert!(bomb, "40 parts of 1 MiB out of {} bytes each", packed.len());

        let entry = |name: &str, times: usize| {
            let file = |_| (name.to_owned(), (0o644, EntryBody::File(Vec::new())));
            let one = newc::pack([file(0)].into(), 7).unwrap();
            let end = (HEADER + name.len() + 1).next_multiple_of(4);
            [
                one[..end].repeat(times),
                newc::pack(FileTree::new(), 7).unwrap(),
            ]
            .concat()
        };
        assert_eq!(
            read(&entry("x", MAX_ENTRIES)).unwrap()[0].entries.len(),
            MAX_ENTRIES
        );
        assert!(matches!(
            read(&entry("x", MAX_ENTRIES + 1)),
            Err(Error::Entries)
        ));
        let long = "x".repeat(MAX_NAME - 1);
        assert!(read(&entry(&long, MAX_NAMES / MAX_NAME)).is_ok());
        assert!(matches!(
            read(&entry(&long, 2 + MAX_NAMES / MAX_NAME)),
            Err(Error::Entries)
        ));
    }

    proptest! {
        #[test]
        fn any_change_of_a_byte_is_read_or_refused(at in 0..600_usize, value: u8) {
            let mut bytes = archive("init");
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(parts) = read(&bytes) {
                let _ = list(&parts, io::sink());
            }
        }

        #[test]
        fn any_bytes_after_a_header_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read(&[&b"070701"[..], &bytes].concat());
        }
    }
}
