//! What an image is: recognised by its bytes, told with everything that is inside, down to the keys.
//! The file may be a stranger's.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;

use cpu_proto::AuthorizedKeys;
use object::read::pe::PeFile64;
use object::{Object as _, ObjectSection as _};
use ssh_key::{HashAlg, PrivateKey, PublicKey};

use crate::arch::Arch;
use crate::archive::compress::{self, MAX_UNPACKED};
use crate::archive::{self, Part};
use crate::disk::{SECTOR, Window};
use crate::kernel::image;

/// Why nothing is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "it is neither a disk image with a GUID partition table, nor a kernel, nor an initramfs"
    )]
    Unknown,
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error("its partition table is damaged")]
    Table(#[source] gpt::GptError),
    #[error("its kernel is damaged")]
    Kernel(#[source] compress::Error),
    #[error("the initramfs is damaged")]
    Archive(#[from] archive::Error),
}

/// Lines about a file's contents, each level two spaces further in.
pub(crate) fn file(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    (&file).take(1024).read_to_end(&mut start)?;
    file.rewind()?;
    let mut text = format!("{}: {} bytes, ", path.display(), file.metadata()?.len());
    if is_disk(&start) {
        disk(&file, &mut text)?;
        return Ok(text);
    }
    let mut bytes = Vec::new();
    file.take(MAX_UNPACKED as u64).read_to_end(&mut bytes)?;
    if image::header(&bytes).is_ok() || sections(&bytes).is_some() {
        kernel(&bytes, 0, &mut text)?;
        return Ok(text);
    }
    match compress::unpack_first(&bytes) {
        Ok(Some(unpacked)) if is_disk(&unpacked.bytes) => {
            let _ = write!(
                text,
                "compressed by {}: {} bytes, ",
                unpacked.by,
                unpacked.bytes.len()
            );
            drop(bytes);
            let image = tempfile::tempfile()?;
            io::copy(&mut unpacked.bytes.as_slice(), &mut &image)?;
            disk(&image, &mut text)?;
        }
        Ok(Some(unpacked)) if image::header(&unpacked.bytes).is_ok() => {
            let _ = write!(text, "compressed by {}: ", unpacked.by);
            kernel(&unpacked.bytes, 0, &mut text)?;
        }
        _ => match archive::read(&bytes) {
            Ok(parts) => {
                text.push_str("an initramfs\n");
                initramfs(&parts, 1, &mut text);
            }
            Err(archive::Error::Format(0) | archive::Error::Empty) => return Err(Error::Unknown),
            Err(error) => return Err(error.into()),
        },
    }
    Ok(text)
}

fn is_disk(bytes: &[u8]) -> bool {
    bytes.get(512..520) == Some(b"EFI PART")
}

fn line(text: &mut String, level: usize, line: impl std::fmt::Display) {
    let _ = writeln!(text, "{:width$}{line}", "", width = 2 * level);
}

fn disk(file: &File, text: &mut String) -> Result<(), Error> {
    let table = gpt::GptConfig::new()
        .open_from_device(file.try_clone()?)
        .map_err(Error::Table)?;
    let _ = writeln!(text, "a disk with a GUID partition table {}", table.guid());
    let mut boot_code = [0; 440];
    let mut reader = file;
    reader.rewind()?;
    reader.read_exact(&mut boot_code)?;
    let bios = if boot_code.iter().any(|byte| *byte != 0) {
        "boot code for a BIOS"
    } else {
        "no boot code for a BIOS"
    };
    line(text, 1, bios);
    for (number, partition) in table.partitions() {
        let (first, last) = (partition.first_lba, partition.last_lba);
        let bytes = last
            .saturating_sub(first)
            .saturating_add(1)
            .saturating_mul(SECTOR);
        let (name, kind) = (partition.name.escape_debug(), partition.part_type_guid.guid);
        let boot = if partition.flags & 4 != 0 {
            ", bootable"
        } else {
            ""
        };
        line(
            text,
            1,
            format_args!(
                "partition {number} \"{name}\": type {kind}{boot}, from sector {first}, {bytes} bytes"
            ),
        );
        let (Some(start), Some(end)) = (
            first.checked_mul(SECTOR),
            last.checked_add(1).and_then(|end| end.checked_mul(SECTOR)),
        ) else {
            continue;
        };
        let window = Window::new(file, start..end);
        match fatfs::FileSystem::new(window, fatfs::FsOptions::new()) {
            Ok(volume) => directory(&volume.root_dir(), "", 0, text),
            Err(error) => line(text, 2, format_args!("no FAT file system: {error}")),
        }
    }
    Ok(())
}

/// Directories in one another that are followed; a damaged one may contain itself.
const MAX_DEPTH: usize = 8;
/// Files that are told about.
const MAX_FILE: u64 = 1 << 28;

fn directory(directory: &fatfs::Dir<'_, Window<'_>>, path: &str, depth: usize, text: &mut String) {
    for entry in directory.iter() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return line(text, 2, format_args!("{path}: damaged: {error}")),
        };
        let name = format!("{path}/{}", entry.file_name().escape_debug());
        if entry.is_dir() {
            if !name.ends_with("/.") && !name.ends_with("/..") && depth < MAX_DEPTH {
                self::directory(&entry.to_dir(), &name, depth + 1, text);
            }
            continue;
        }
        line(text, 2, format_args!("{name}  {} bytes", entry.len()));
        let mut bytes = Vec::new();
        match entry.to_file().take(MAX_FILE).read_to_end(&mut bytes) {
            Err(error) => line(text, 3, format_args!("damaged: {error}")),
            Ok(length) if (length as u64) < entry.len().min(MAX_FILE) => {
                line(
                    text,
                    3,
                    format_args!("damaged: only {length} bytes of it are there"),
                );
            }
            Ok(_) => contents(&bytes, 3, text),
        }
    }
}

/// What is in a file of an image, where that matters.
fn contents(bytes: &[u8], level: usize, text: &mut String) {
    if image::header(bytes).is_ok() || sections(bytes).is_some() {
        let mut told = String::new();
        match kernel(bytes, level, &mut told) {
            Ok(()) => line(text, level, told.trim_end()),
            Err(error) => line(
                text,
                level,
                format_args!("{:#}", anyhow::Error::from(error)),
            ),
        }
    } else if bytes.len() < 1 << 20 {
        keys(bytes, level, text);
    }
}

/// Public keys, and the words that a private one is one.
fn keys(bytes: &[u8], level: usize, text: &mut String) {
    let Ok(words) = str::from_utf8(bytes) else {
        return;
    };
    if words.starts_with("-----BEGIN ") {
        match PrivateKey::from_openssh(bytes) {
            Ok(key) => line(
                text,
                level,
                format_args!("PRIVATE key {}", about(key.public_key())),
            ),
            Err(_) if words.contains("PRIVATE KEY-----") => line(text, level, "a PRIVATE key"),
            Err(_) => {}
        }
        return;
    }
    let AuthorizedKeys { keys, .. } = AuthorizedKeys::parse(bytes);
    for key in keys {
        line(text, level, format_args!("key {}", about(&key)));
    }
}

/// Who may log in, and the lines that let nobody in.
fn logins(bytes: &[u8], level: usize, text: &mut String) {
    let AuthorizedKeys { keys, left_out } = AuthorizedKeys::parse(bytes);
    let who = if keys.is_empty() { "nobody can" } else { "may" };
    line(text, level, format_args!("/key.pub: {who} log in"));
    for key in keys {
        line(text, level + 1, format_args!("key {}", about(&key)));
    }
    for fault in left_out {
        line(text, level + 1, fault);
    }
}

fn about(key: &PublicKey) -> String {
    format!(
        "{} {} {}",
        key.algorithm(),
        key.fingerprint(HashAlg::Sha256),
        String::from_utf8_lossy(key.comment().as_bytes()).escape_debug()
    )
}

/// The sections of a unified kernel image.
fn sections(bytes: &[u8]) -> Option<Vec<(String, &[u8])>> {
    let file = PeFile64::parse(bytes).ok()?;
    let all: Vec<(String, &[u8])> = file
        .sections()
        .filter_map(|section| {
            let data = section.data().ok()?;
            let size = usize::try_from(section.size()).ok()?.min(data.len());
            Some((section.name().ok()?.to_owned(), &data[..size]))
        })
        .collect();
    all.iter().any(|(name, _)| name == ".linux").then_some(all)
}

/// A kernel. The caller has begun the first line.
fn kernel(bytes: &[u8], level: usize, text: &mut String) -> Result<(), Error> {
    if let Some(sections) = sections(bytes) {
        text.push_str("a unified kernel image\n");
        for (name, data) in sections {
            match name.as_str() {
                ".linux" => {
                    let mut told = String::new();
                    kernel(data, level + 1, &mut told)?;
                    line(text, level + 1, told.trim_end());
                }
                ".cmdline" => {
                    let words = String::from_utf8_lossy(data);
                    let words = words.trim_end_matches('\0');
                    line(text, level + 1, format_args!("command line: {words}"));
                }
                ".initrd" => {
                    line(
                        text,
                        level + 1,
                        format_args!("initramfs, {} bytes", data.len()),
                    );
                    initramfs(&archive::read(data)?, level + 2, text);
                }
                _ => {}
            }
        }
        return Ok(());
    }
    let header = image::header(bytes).map_err(|_| Error::Unknown)?;
    let whole = unpacked_kernel(bytes, header.arch)?;
    let version = header
        .version
        .or_else(|| banner(&whole))
        .unwrap_or_else(|| "of unknown version".to_owned());
    let efi = if header.efi {
        ", starts under UEFI"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "a kernel for {}{efi}: {}",
        header.arch,
        version.escape_debug()
    );
    match command_line(&whole) {
        Some(words) => line(text, level + 1, format_args!("command line: {words}")),
        None => line(text, level + 1, "no command line with a console inside"),
    }
    match built_in(&whole) {
        Some(part) => {
            line(
                text,
                level + 1,
                format_args!("initramfs inside, {} bytes", part.bytes.len()),
            );
            initramfs(&[part], level + 2, text);
        }
        None => line(text, level + 1, "no initramfs inside"),
    }
    Ok(())
}

/// The kernel proper, which is compressed in a bzImage (Documentation/arch/x86/boot.rst).
fn unpacked_kernel(bytes: &[u8], arch: Arch) -> Result<Vec<u8>, Error> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4).unwrap_or_default();
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let start = match arch {
        Arch::Aarch64 => return Ok(bytes.to_vec()),
        Arch::X86_64 => {
            let sectors = match bytes.get(0x1f1) {
                None | Some(0) => 4,
                Some(sectors) => usize::from(*sectors),
            };
            (sectors + 1) * 512 + number(0x248)
        }
    };
    let payload = bytes.get(start..).unwrap_or_default();
    match compress::unpack_first(payload).map_err(Error::Kernel)? {
        Some(unpacked) => Ok(unpacked.bytes),
        None => Ok(bytes.to_vec()),
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
    find(kernel, b"console=").find_map(|at| {
        let before = &kernel[..at];
        let from = before
            .iter()
            .rposition(|byte| !is_printable(*byte))
            .map_or(0, |end| end + 1);
        let words = word_run(kernel.get(from..)?);
        // A text of the kernel's own has a sentence's marks, or a format's.
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
fn built_in(kernel: &[u8]) -> Option<Part> {
    find(kernel, b"070701").find_map(|at| archive::first_newc(&kernel[at..]))
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

/// Printable characters from the beginning of `bytes`.
fn word_run(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| !is_printable(*byte));
    str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).unwrap_or_default()
}

/// Parts in short, and what matters in them.
fn initramfs(parts: &[Part], level: usize, text: &mut String) {
    for part in parts {
        let by = part.by.map_or_else(String::new, |by| {
            format!(", {} compressed by {by}", part.packed)
        });
        let (files, bytes) = (part.entries.len(), part.bytes.len());
        line(
            text,
            level,
            format_args!("{files} files, {bytes} bytes{by}"),
        );
        for entry in &part.entries {
            let contents = part.contents(entry);
            let is_file = entry.mode & 0o170_000 == 0o100_000;
            match (entry.name.as_slice(), is_file) {
                (b"init", true) => {
                    let what = match cpud_version(contents) {
                        Some(version) => format!("cpud {version}"),
                        None => "not cpud".to_owned(),
                    };
                    line(
                        text,
                        level,
                        format_args!("/init: {what}, {} bytes", contents.len()),
                    );
                }
                (b"key.pub", true) => logins(contents, level, text),
                (b"host_key", true) => {
                    let told = match PrivateKey::from_openssh(contents) {
                        Ok(key) => about(key.public_key()),
                        Err(error) => format!("damaged: {error}"),
                    };
                    let mode = entry.mode & 0o7777;
                    line(
                        text,
                        level,
                        format_args!("/host_key: the machine's, mode {mode:04o}: {told}"),
                    );
                }
                (_, true) if contents.starts_with(b"-----BEGIN") => {
                    let name = entry.name.escape_ascii();
                    line(text, level, format_args!("/{name}:"));
                    keys(contents, level + 1, text);
                }
                _ => {}
            }
        }
    }
}

/// What cpud says first as init, for whoever looks: cpud/src/init/mod.rs.
fn cpud_version(program: &[u8]) -> Option<&str> {
    find(program, b"version ").find_map(|at| {
        let (version, rest) = word_run(&program[at + 8..]).split_once(' ')?;
        rest.starts_with("is init").then_some(version)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_command_line_is_told_from_other_texts() {
        let kernel = b"\0use console=ttyS0, not (x)\0earlycon console= %s\0\
            console=tty0 console=ttyS0,115200 quiet panic=10\0\0\0";
        assert_eq!(
            command_line(kernel).as_deref(),
            Some("console=tty0 console=ttyS0,115200 quiet panic=10")
        );
        assert_eq!(command_line(b"console=\0console=%s\0"), None);
    }

    #[test]
    fn cpud_is_known_by_what_it_says() {
        assert_eq!(
            cpud_version(b"a version b\0 version 1.2.3 is init/dev"),
            Some("1.2.3")
        );
        assert_eq!(cpud_version(b"busybox version 1.36"), None);
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
            let _ = kernel(&bytes, 0, &mut String::new());
        }
    }
}
