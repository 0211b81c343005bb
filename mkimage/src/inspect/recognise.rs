//! Recognises an image by its contents, and finds what is inside, down to the keys. The file may come from anybody.

mod disk;

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;

use super::report::{
    Error, ImageContents, ImageReport, KernelReport, KeyFile, NotableFile, PartReport, UkiSection,
};
use crate::arch::Arch;
use crate::archive::decompress::{self, MAX_UNPACKED};
use crate::archive::{self, NewcEntry, Part};
use crate::disk::table;
use crate::kernel::image;
use crate::media::uki;
use crate::read::{self, MAX_FILE, MAX_KEYS};
use cpu_proto::{AuthorizedKeys, HOST_KEY_AT_BOOT, package_note};
use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use ssh_key::PrivateKey;

/// Recognise a file.
pub(super) fn file(path: &Path) -> Result<ImageReport, Error> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    (&file).take(1024).read_to_end(&mut start)?;
    file.rewind()?;
    let size = file.metadata()?.len();
    let report = |contents| ImageReport {
        size,
        compressed: None,
        contents,
    };
    if table::is_there(&start) {
        return Ok(report(ImageContents::Disk(disk::report(&file)?)));
    }
    if let Some(unpacked) = disk::unpacked(&file)? {
        return Ok(ImageReport {
            compressed: Some((unpacked.by, unpacked.size)),
            ..report(ImageContents::Disk(disk::report(&unpacked.file)?))
        });
    }
    file.rewind()?;
    let bytes = read::to_end(file, MAX_UNPACKED)?;
    if is_kernel(&bytes) {
        return Ok(report(ImageContents::Kernel(kernel(&bytes)?)));
    }
    if image::header(&decompress::start(&bytes, START)).is_ok()
        && let Some(unpacked) = decompress::unpack_first(&bytes, MAX_FILE).map_err(Error::Unpack)?
    {
        return Ok(ImageReport {
            compressed: Some((unpacked.by, unpacked.bytes.len() as u64)),
            ..report(ImageContents::Kernel(kernel(&unpacked.bytes)?))
        });
    }
    match archive::read(&bytes) {
        Ok(parts) => Ok(report(ImageContents::Initramfs(initramfs(&parts)?))),
        Err(archive::Error::Format(0) | archive::Error::Empty) => Err(Error::Unknown),
        Err(error) => Err(error.into()),
    }
}

/// How much of the beginning of a file shows what it is.
const START: u64 = 1024;

fn is_kernel(bytes: &[u8]) -> bool {
    image::header(bytes).is_ok() || uki::sections(bytes).is_some()
}

/// Public keys, and whether a file is a private one.
fn keys(bytes: &[u8]) -> KeyFile {
    let Ok(text) = str::from_utf8(bytes) else {
        return KeyFile::Public(Vec::new());
    };
    if text.starts_with("-----BEGIN ") {
        return match PrivateKey::from_openssh(bytes) {
            Ok(key) => KeyFile::Private(Some(Box::new(key.public_key().clone()))),
            Err(_) if text.contains("PRIVATE KEY-----") => KeyFile::Private(None),
            Err(_) => KeyFile::Public(Vec::new()),
        };
    }
    let keys = AuthorizedKeys::parse(bytes).keys;
    KeyFile::Public(keys.into_iter().map(|key| key.key).collect())
}

fn kernel(bytes: &[u8]) -> Result<KernelReport, Error> {
    if let Some(sections) = uki::sections(bytes) {
        let mut known = Vec::new();
        for (name, data) in sections {
            known.push(match name.as_str() {
                ".linux" => UkiSection::Kernel(kernel(data)?),
                ".cmdline" => {
                    let text = String::from_utf8_lossy(data);
                    UkiSection::CommandLine(text.trim_end_matches('\0').to_owned())
                }
                ".initrd" => UkiSection::Initramfs {
                    bytes: data.len(),
                    parts: initramfs(&archive::read(data)?)?,
                },
                _ => continue,
            });
        }
        return Ok(KernelReport::Unified(known));
    }
    let header = image::header(bytes).map_err(|_| Error::Unknown)?;
    let whole = unpacked_kernel(bytes, header.arch)?;
    Ok(KernelReport::Plain {
        arch: header.arch,
        starts_under_efi: header.efi,
        version: header.version.or_else(|| banner(&whole)),
        command_line: command_line(&whole),
        initramfs: built_in(&whole)
            .map(|part| initramfs(&[part]))
            .transpose()?
            .and_then(|mut all| all.pop()),
    })
}

/// The kernel proper, which is compressed in a bzImage (Documentation/arch/x86/boot.rst).
fn unpacked_kernel(bytes: &[u8], arch: Arch) -> Result<Cow<'_, [u8]>, Error> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4).unwrap_or_default();
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let start = match arch {
        Arch::Aarch64 => return Ok(bytes.into()),
        Arch::X86_64 => {
            let sectors = match bytes.get(0x1f1) {
                None | Some(0) => 4,
                Some(sectors) => usize::from(*sectors),
            };
            (sectors + 1) * 512 + number(0x248)
        }
    };
    let payload = bytes.get(start..).unwrap_or_default();
    match decompress::unpack_first(payload, MAX_FILE).map_err(Error::Kernel)? {
        Some(unpacked) => Ok(unpacked.bytes.into()),
        None => Ok(bytes.into()),
    }
}

/// The words after `Linux version`.
fn banner(kernel: &[u8]) -> Option<String> {
    let start = b"Linux version ";
    find(kernel, start).find_map(|at| {
        let words = word_run(kernel.get(at + start.len()..)?);
        words
            .starts_with(|first: char| first.is_ascii_digit())
            .then(|| words.to_owned())
    })
}

/// The built-in command line: a text by itself that names a console. Those that the kernel has in its
/// own messages are no options, or not at the beginning of a text.
fn command_line(kernel: &[u8]) -> Option<String> {
    let mut seen = 0;
    find(kernel, b"console=").find_map(|at| {
        // A string that names several is parsed once.
        if at < seen {
            return None;
        }
        let before = &kernel[at.saturating_sub(MAX_WORDS).max(seen)..at];
        let from = before
            .iter()
            .rposition(|byte| !is_printable(*byte))
            .map_or(0, |end| end + 1);
        let words = word_run(kernel.get(at - before.len() + from..)?);
        seen = at - before.len() + from + words.len();
        // Strings of the kernel's code contain punctuation or format directives.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" =,._-:/@".contains(&byte);
        let all_options = words.bytes().all(plain) || words.contains('"');
        let named = words.split_ascii_whitespace().any(|word| {
            word.strip_prefix("console=")
                .is_some_and(|rest| !rest.is_empty())
        });
        (named && all_options).then(|| words.trim().to_owned())
    })
}

/// The archive that a kernel was built with, not compressed by itself.
fn built_in(kernel: &[u8]) -> Option<Part<'_>> {
    // Strings before it that begin with the same magic are not headers of an entry.
    let mut tries = find(kernel, b"070701").take(16);
    tries.find_map(|at| archive::first_newc(&kernel[at..]))
}

fn find<'a>(bytes: &'a [u8], wanted: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = wanted.first().copied();
    bytes
        .iter()
        .enumerate()
        .filter(move |(at, byte)| Some(**byte) == first && bytes[*at..].starts_with(wanted))
        .map(|(at, _)| at)
}

fn is_printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// The longest text that is read; the kernel's own limit for its command line is 2048.
const MAX_WORDS: usize = 4096;

/// Printable characters from the beginning of `bytes`.
fn word_run(bytes: &[u8]) -> &str {
    let bytes = bytes.get(..MAX_WORDS).unwrap_or(bytes);
    let end = bytes.iter().position(|byte| !is_printable(*byte));
    str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).unwrap_or_default()
}

fn initramfs(parts: &[Part<'_>]) -> Result<Vec<PartReport>, Error> {
    // A hostile archive may have several files of that name; without this each would be read.
    let bytes = parts.iter().flat_map(|part| {
        let named = part
            .entries
            .iter()
            .filter(|entry| part.name(entry) == b"key.pub");
        named.map(|entry| part.contents(entry).len())
    });
    let bytes = bytes.sum();
    if bytes as u64 > MAX_KEYS {
        return Err(Error::Keys(bytes));
    }
    Ok(parts.iter().map(part_report).collect())
}

fn part_report(part: &Part<'_>) -> PartReport {
    let notable = part.entries.iter();
    PartReport {
        compressed: part.by.map(|by| (by, part.packed)),
        files: part.entries.len(),
        bytes: part.bytes.len(),
        notable: notable
            .filter_map(|entry| notable_file(part, entry))
            .collect(),
    }
}

fn notable_file(part: &Part<'_>, entry: &NewcEntry) -> Option<NotableFile> {
    if entry.mode & 0o170_000 != 0o100_000 {
        return None;
    }
    let contents = part.contents(entry);
    Some(match part.name(entry) {
        b"init" => NotableFile::Init {
            cpud: cpud_version(contents),
            bytes: contents.len(),
        },
        b"key.pub" => NotableFile::Logins(AuthorizedKeys::parse(contents)),
        b"host_key" => NotableFile::HostKey {
            mode: entry.mode & 0o7777,
            key: (contents != HOST_KEY_AT_BOOT.as_bytes())
                .then(|| PrivateKey::from_openssh(contents).map(|key| key.public_key().clone())),
        },
        name if contents.starts_with(b"-----BEGIN") && contents.len() as u64 <= MAX_KEYS => {
            NotableFile::Other {
                name: name.escape_ascii().to_string(),
                keys: keys(contents),
            }
        }
        _ => return None,
    })
}

/// The version of cpud, by the note in its program.
fn cpud_version(program: &[u8]) -> Option<String> {
    let header = FileHeader64::<LittleEndian>::parse(program).ok()?;
    let endian = header.endian().ok()?;
    for segment in header.program_headers(endian, program).ok()? {
        let Ok(Some(mut notes)) = segment.notes(endian, program) else {
            continue;
        };
        while let Ok(Some(note)) = notes.next() {
            if (note.name(), note.n_type(endian).0) == (package_note::OWNER, package_note::TYPE)
                && let Some(version) = package_note::version(note.desc(), "cpud")
            {
                return Some(version.to_owned());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::program;

    #[test]
    fn a_command_line_is_told_from_other_texts() {
        let kernel = b"\0use console=ttyS0, not (x)\0earlycon console= %s\0\
            console=tty0 console=ttyS0,115200 quiet panic=10\0\0\0";
        assert_eq!(
            command_line(kernel).as_deref(),
            Some("console=tty0 console=ttyS0,115200 quiet panic=10")
        );
        assert_eq!(command_line(b"console=\0console=%s\0"), None);
        // Each string is parsed once, however often it contains the word.
        assert_eq!(command_line(&b"console=%".repeat(1 << 16)), None);
    }

    /// A program of one segment, a note with this description (elf(5)).
    fn program(description: &[u8]) -> Vec<u8> {
        let mut bytes = program::tests::elf(Arch::X86_64, Some("/"));
        bytes[64..68].copy_from_slice(&4_u32.to_le_bytes()); // p_type: PT_NOTE
        let start = bytes.len() as u64;
        let length = u32::try_from(description.len()).unwrap();
        for number in [4, length, package_note::TYPE] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(b"FDO\0");
        bytes.extend(description);
        let size = bytes.len() as u64 - start;
        for (at, value) in [(72, start), (96, size), (104, size), (112, 4)] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn cpud_is_known_by_its_note() {
        let version = |json: &[u8]| cpud_version(&program(json));
        let ours = br#"{"type":"cpu","name":"cpud","version":"1.2.3"}"#;
        assert_eq!(version(ours).as_deref(), Some("1.2.3"));
        assert_eq!(version(br#"{"name":"busybox","version":"1.36"}"#), None);
        assert_eq!(cpud_version(b"version 1.2.3 is init"), None);
        let whole = program(ours);
        for length in 0..whole.len() {
            assert_eq!(cpud_version(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn what_is_unknown_is_said_to_be() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello").unwrap();
        assert!(matches!(super::file(file.path()), Err(Error::Unknown)));
    }

    proptest! {
        #[test]
        fn any_kernel_is_told_about_or_refused(at in 0..1024_usize, value: u8, x86: bool) {
            let arch = if x86 { Arch::X86_64 } else { Arch::Aarch64 };
            let mut bytes = image::tests::kernel(arch);
            bytes[at] = value;
            let _ = kernel(&bytes);
        }
    }
}
