//! Prints what was recognised in an image; each level is indented by two more spaces.

use std::fmt::{Display, Write as _};

use cpu_proto::KeyOptions;
use ssh_key::PublicKey;

use super::report::{
    DiskReport, FileContents, ImageContents, ImageReport, KernelReport, KeyFile, NotableFile,
    PartReport, PartitionReport, UkiSection, VolumeEntry,
};

/// A whole image. The first line goes on where the caller has begun it.
pub(super) fn image(report: &ImageReport) -> String {
    let mut text = format!("{} bytes, ", report.size);
    match &report.contents {
        ImageContents::Disk(found) => {
            if let Some((by, size)) = report.compressed {
                let _ = write!(text, "compressed by {by}: {size} bytes, ");
            }
            disk(found, &mut text);
        }
        ImageContents::Kernel(found) => {
            if let Some((by, _)) = report.compressed {
                let _ = write!(text, "compressed by {by}: ");
            }
            kernel(found, 0, &mut text);
        }
        ImageContents::Initramfs(parts) => {
            text.push_str("an initramfs\n");
            initramfs(parts, 1, &mut text);
        }
    }
    text
}

fn line(text: &mut String, level: usize, line: impl Display) {
    let _ = writeln!(text, "{:width$}{line}", "", width = 2 * level);
}

fn disk(disk: &DiskReport, text: &mut String) {
    let _ = writeln!(text, "a disk with a GUID partition table {}", disk.guid);
    let bios = if disk.has_boot_code {
        "boot code for a BIOS"
    } else {
        "no boot code for a BIOS"
    };
    line(text, 1, bios);
    for partition in &disk.partitions {
        self::partition(partition, text);
    }
}

fn partition(partition: &PartitionReport, text: &mut String) {
    let boot = if partition.is_bootable {
        ", bootable"
    } else {
        ""
    };
    line(
        text,
        1,
        format_args!(
            "partition {} \"{}\": type {}{boot}, from sector {}, {} bytes",
            partition.number,
            partition.name.escape_debug(),
            partition.kind,
            partition.first_sector,
            partition.bytes
        ),
    );
    let entries = match &partition.files {
        None => return,
        Some(Err(error)) => return line(text, 2, format_args!("no FAT file system: {error}")),
        Some(Ok(entries)) => entries,
    };
    for entry in entries {
        match entry {
            VolumeEntry::Damaged { path, error } => {
                line(text, 2, format_args!("{path}: damaged: {error}"));
            }
            VolumeEntry::File {
                path,
                bytes,
                contents,
            } => {
                line(text, 2, format_args!("{path}  {bytes} bytes"));
                file_contents(contents, text);
            }
        }
    }
}

fn file_contents(contents: &FileContents, text: &mut String) {
    match contents {
        FileContents::Unreadable(error) => line(text, 3, format_args!("damaged: {error}")),
        FileContents::Short(length) => {
            line(
                text,
                3,
                format_args!("damaged: only {length} bytes of it are there"),
            );
        }
        FileContents::Kernel(Ok(found)) => {
            let _ = write!(text, "{:6}", "");
            kernel(found, 3, text);
        }
        FileContents::Initramfs(Ok(parts)) => initramfs(parts, 3, text),
        FileContents::Kernel(Err(error)) | FileContents::Initramfs(Err(error)) => {
            line(text, 3, chain(error));
        }
        FileContents::Keys(found) => keys(found, 3, text),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

fn keys(keys: &KeyFile, level: usize, text: &mut String) {
    match keys {
        KeyFile::Private(Some(key)) => {
            line(text, level, format_args!("PRIVATE key {}", describe(key)));
        }
        KeyFile::Private(None) => line(text, level, "a PRIVATE key"),
        KeyFile::Public(all) => {
            for key in all {
                line(text, level, format_args!("key {}", describe(key)));
            }
        }
    }
}

fn describe(key: &PublicKey) -> String {
    format!(
        "{} {} {}",
        key.algorithm(),
        cpu_proto::fingerprint(key),
        String::from_utf8_lossy(key.comment().as_bytes()).escape_debug()
    )
}

/// A kernel. The caller has begun the first line.
fn kernel(report: &KernelReport, level: usize, text: &mut String) {
    match report {
        KernelReport::Unified(sections) => {
            text.push_str("a unified kernel image\n");
            for section in sections {
                uki_section(section, level + 1, text);
            }
        }
        KernelReport::Plain {
            arch,
            starts_under_efi,
            version,
            command_line,
            initramfs: inside,
        } => {
            let efi = if *starts_under_efi {
                ", starts under UEFI"
            } else {
                ""
            };
            let version = version.as_deref().unwrap_or("of unknown version");
            let _ = writeln!(text, "a kernel for {arch}{efi}: {}", version.escape_debug());
            match command_line {
                Some(options) => line(text, level + 1, format_args!("command line: {options}")),
                None => line(text, level + 1, "no command line with a console inside"),
            }
            match inside {
                Some(part) => {
                    line(
                        text,
                        level + 1,
                        format_args!("initramfs inside, {} bytes", part.bytes),
                    );
                    self::part(part, level + 2, text);
                }
                None => line(text, level + 1, "no initramfs inside"),
            }
        }
    }
}

fn uki_section(section: &UkiSection, level: usize, text: &mut String) {
    match section {
        UkiSection::Kernel(report) => {
            let _ = write!(text, "{:width$}", "", width = 2 * level);
            kernel(report, level, text);
        }
        UkiSection::CommandLine(options) => {
            line(text, level, format_args!("command line: {options}"));
        }
        UkiSection::Initramfs { bytes, parts } => {
            line(text, level, format_args!("initramfs, {bytes} bytes"));
            initramfs(parts, level + 1, text);
        }
    }
}

fn initramfs(parts: &[PartReport], level: usize, text: &mut String) {
    for part in parts {
        self::part(part, level, text);
    }
}

fn part(part: &PartReport, level: usize, text: &mut String) {
    let by = part.compressed.map_or_else(String::new, |(by, size)| {
        format!(", {size} compressed by {by}")
    });
    let (files, bytes) = (part.files, part.bytes);
    line(
        text,
        level,
        format_args!("{files} files, {bytes} bytes{by}"),
    );
    for file in &part.notable {
        notable(file, level, text);
    }
}

fn notable(file: &NotableFile, level: usize, text: &mut String) {
    match file {
        NotableFile::Init { cpud, bytes } => {
            let what = match cpud {
                Some(version) => format!("cpud {version}"),
                None => "a program without cpud's version note".to_owned(),
            };
            line(text, level, format_args!("/init: {what}, {bytes} bytes"));
        }
        NotableFile::Logins(logins) => {
            let who = if logins.keys.is_empty() {
                "nobody can"
            } else {
                "may"
            };
            line(text, level, format_args!("/key.pub: {who} log in"));
            for key in &logins.keys {
                let (what, options) = login(&key.options);
                let key = describe(&key.key);
                line(text, level + 1, format_args!("{what} {key}{options}"));
            }
            for revoked in &logins.revoked {
                let key = describe(&revoked.key);
                line(text, level + 1, format_args!("revoked key {key}"));
            }
            for fault in &logins.left_out {
                line(text, level + 1, fault);
            }
        }
        NotableFile::HostKey { mode, key } => {
            let key = match key {
                Some(Ok(key)) => describe(key),
                Some(Err(error)) => format!("damaged: {error}"),
                None => "made each time that it boots".to_owned(),
            };
            line(
                text,
                level,
                format_args!("/host_key: the machine's, mode {mode:04o}: {key}"),
            );
        }
        NotableFile::Other { name, keys } => {
            line(text, level, format_args!("/{name}:"));
            self::keys(keys, level + 1, text);
        }
    }
}

/// What a line of keys is about, and what it says besides.
fn login(options: &KeyOptions) -> (&'static str, String) {
    let mut plain = KeyOptions::default();
    let mut said = String::new();
    let mut what = "key";
    if options.cert_authority {
        (what, plain.cert_authority) = ("certificates of the CA", true);
        plain.principals.clone_from(&options.principals);
        if !options.principals.is_empty() {
            let names = options.principals.join(", ");
            said = format!(", for {}", names.escape_debug());
        }
    }
    if options.isolate {
        plain.isolate = true;
        said.push_str(", isolated");
    }
    if *options != plain {
        said.push_str(", with options that limit it");
    }
    (what, said)
}
