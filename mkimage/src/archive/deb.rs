//! The files of a Debian package (deb(5)): an ar archive with a tar archive in it.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Component, Path};

use super::decompress;
use crate::arch::Arch;

/// Longer than any control file.
const MAX_CONTROL: u64 = 1 << 20;
/// A kernel package unpacks to 100 MB, with modules that are not compressed to 500 MB. Most of it is kept on disk.
const MAX_DATA: u64 = 960 << 20;
/// Some 5,000 files are in one.
const MAX_FILES: usize = 1 << 15;

/// Why a package cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("it is no Debian package")]
    Format,
    #[error("it is a package for {got}, and the machine is {wanted} (--arch)")]
    Machine { got: String, wanted: Arch },
    #[error("it has {0}, of a kind that mkimage cannot read")]
    Member(String),
    #[error(
        "it has more than {MAX_FILES} files: do not use it, or unpack it yourself (dpkg-deb -x)"
    )]
    Files,
    #[error(transparent)]
    Unpack(decompress::Error),
    #[error("cannot read it")]
    Open(#[source] io::Error),
    #[error("it is damaged or truncated")]
    Damaged(#[source] io::Error),
    #[error("a file in it has a name of {0} bytes")]
    LongName(u64),
    #[error("cannot keep what is in it")]
    Keep(#[source] io::Error),
}

/// What a failure to read means.
pub(crate) fn unread(error: io::Error) -> Error {
    decompress::in_reader(error).map_or_else(Error::Damaged, Error::Unpack)
}

/// Give every regular file of a package for `arch` to `keep`, with its path from the root without the first `/`.
/// Paths with `..` in them are left out.
pub(crate) fn unpack(
    path: &Path,
    arch: Arch,
    mut keep: impl FnMut(String, &mut dyn Read) -> Result<(), Error>,
) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::Open)?;
    let whole = file.metadata().map_err(Error::Open)?.len();
    let mut members = Members::new(file)?;
    let mut data = false;
    while let Some((name, content)) = members.next()? {
        let suffixes = ["", ".xz", ".gz", ".zst"].map(Some);
        let (control, files) = (
            name.strip_prefix("control.tar"),
            name.strip_prefix("data.tar"),
        );
        if control
            .or(files)
            .is_some_and(|_| !suffixes.contains(&control.or(files)))
        {
            return Err(Error::Member(name));
        }
        let packed = content.limit().min(whole);
        let read = |max| {
            let content = BufReader::new(content);
            decompress::reader(content, packed, max).map_err(Error::Unpack)
        };
        if control.is_some() {
            check_machine(read(MAX_CONTROL)?, arch)?;
        } else if files.is_some() {
            unpack_data(read(MAX_DATA)?, &mut keep)?;
            data = true;
        }
    }
    if data { Ok(()) } else { Err(Error::Format) }
}

/// The members of an ar archive.
struct Members {
    file: File,
    next: u64,
}

impl Members {
    fn new(mut file: File) -> Result<Self, Error> {
        let mut magic = [0; 8];
        match file.read_exact(&mut magic) {
            Ok(()) if magic == *b"!<arch>\n" => Ok(Self { file, next: 8 }),
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
        self.next = size
            .checked_add(self.next + 60)
            .map(|end| end + end % 2)
            .ok_or(Error::Format)?;
        let name = name.trim_end().trim_end_matches('/').to_owned();
        let file = self.file.try_clone().map_err(Error::Damaged)?;
        Ok(Some((name, file.take(size))))
    }
}

fn check_machine(control: impl Read, arch: Arch) -> Result<(), Error> {
    let mut archive = tar::Archive::new(control);
    for entry in archive.entries().map_err(unread)? {
        let mut entry = entry.map_err(unread)?;
        if !entry.path().is_ok_and(|path| path.ends_with("control")) {
            continue;
        }
        let mut text = String::new();
        entry.read_to_string(&mut text).map_err(unread)?;
        let got = text
            .lines()
            .find_map(|line| line.strip_prefix("Architecture: "));
        return match got {
            Some(got) if got.trim() == arch.facts().debian_name => Ok(()),
            Some(got) => Err(Error::Machine {
                got: got.trim().to_owned(),
                wanted: arch,
            }),
            None => Err(Error::Format),
        };
    }
    Err(Error::Format)
}

fn unpack_data(
    data: impl Read,
    keep: &mut impl FnMut(String, &mut dyn Read) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut archive = tar::Archive::new(data);
    // A name that did not fit into its own header (tar(5), GNU long names). The crate would read one of
    // any length into memory.
    let (mut long, mut count) = (None, 0);
    let entries = archive.entries().map_err(unread)?;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(unread)?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            let length = entry.size();
            if length > MAX_NAME {
                return Err(Error::LongName(length));
            }
            let mut name = Vec::new();
            entry.read_to_end(&mut name).map_err(unread)?;
            long = Some(
                String::from_utf8_lossy(&name)
                    .trim_end_matches('\0')
                    .to_owned(),
            );
            continue;
        }
        let short = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = long.take().unwrap_or(short);
        if !kind.is_file() {
            continue;
        }
        count += 1;
        if count > MAX_FILES {
            return Err(Error::Files);
        }
        if let Some(name) = plain(Path::new(&name)) {
            keep(name, &mut entry)?;
        }
    }
    Ok(())
}

/// The kernel's own limit, PATH_MAX.
const MAX_NAME: u64 = 4096;

/// A path without `.` and the first `/`; `None` when it has `..` in it, or is not UTF-8.
fn plain(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir | Component::RootDir => {}
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::super::compress::Compression;
    use super::*;

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            // The crate refuses to write some of these names.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, *bytes).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn member(name: &str, bytes: &[u8]) -> Vec<u8> {
        let size = bytes.len();
        let mut member = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644);
        if size % 2 == 1 {
            member.push('\n');
        }
        let end = member.split_off(60);
        [member.as_bytes(), bytes, end.as_bytes()].concat()
    }

    /// A package for a machine, by Debian's name, with these files.
    pub(crate) fn package(machine: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
        let control = format!("Package: x\nArchitecture: {machine}\n");
        let control = tar(&[("./control", control.as_bytes())]);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&control).unwrap();
        let data = zstd::bulk::compress(&tar(files), 1).unwrap();
        [
            b"!<arch>\n".to_vec(),
            member("debian-binary", b"2.0\n"),
            member("control.tar.gz", &encoder.finish().unwrap()),
            member("data.tar.zst", &data),
        ]
        .concat()
    }

    fn unpacked(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut files = BTreeMap::new();
        unpack(file.path(), Arch::X86_64, |name, reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(unread)?;
            files.insert(name, bytes);
            Ok(())
        })?;
        Ok(files)
    }

    #[test]
    fn every_file_with_a_plain_path_is_unpacked() {
        let files: [(&str, &[u8]); 3] = [
            ("./boot/vmlinuz-6.1", b"kernel"),
            ("/usr/share/doc/x", b"text"),
            ("boot/../../outside", b"x"),
        ];
        let found = unpacked(&package("amd64", &files)).unwrap();
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["boot/vmlinuz-6.1", "usr/share/doc/x"]);
        assert_eq!(found["boot/vmlinuz-6.1"], b"kernel");
    }

    #[test]
    fn what_cannot_be_kept_is_not_called_damaged() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), package("amd64", &[("boot/x", b"y")])).unwrap();
        let full = |_, _: &mut dyn Read| Err(Error::Keep(io::ErrorKind::StorageFull.into()));
        let result = unpack(file.path(), Arch::X86_64, full);
        assert!(matches!(result, Err(Error::Keep(_))), "{result:?}");
    }

    #[test]
    fn long_names_are_read_and_endless_ones_refused() {
        let long = |length: usize| {
            let mut archive = tar::Builder::new(Vec::new());
            let name = format!("boot/{}", "x".repeat(length));
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            archive.append_data(&mut header, &name, &b"y"[..]).unwrap();
            let data = archive.into_inner().unwrap();
            [b"!<arch>\n".to_vec(), member("data.tar", &data)].concat()
        };
        assert_eq!(unpacked(&long(300)).unwrap().len(), 1);
        assert!(matches!(unpacked(&long(9000)), Err(Error::LongName(_))));
    }

    fn with_data(data: &[u8]) -> Vec<u8> {
        [b"!<arch>\n".to_vec(), member("data.tar.xz", data)].concat()
    }

    #[test]
    fn bombs_are_refused_before_they_fill_the_disk() {
        let fill = |length: usize| {
            let files: [(&str, &[u8]); 1] = [("./boot/x", &vec![0; length])];
            Compression::Xz.apply(tar(&files), Arch::X86_64).unwrap()
        };
        assert_eq!(unpacked(&with_data(&fill(30 << 20))).unwrap().len(), 1);
        let result = unpacked(&with_data(&fill(33 << 20)));
        let bomb = matches!(result, Err(Error::Unpack(decompress::Error::Bomb { .. })));
        assert!(bomb, "{result:?}");

        let many = |count| {
            let mut entry = tar(&[("boot/x", b"")]);
            entry.truncate(512);
            Compression::Xz
                .apply(entry.repeat(count), Arch::X86_64)
                .unwrap()
        };
        assert!(unpacked(&with_data(&many(MAX_FILES))).is_ok());
        let result = unpacked(&with_data(&many(MAX_FILES + 1)));
        assert!(matches!(result, Err(Error::Files)), "{result:?}");
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let error = unpacked(&package("arm64", &[])).unwrap_err();
        assert!(matches!(error, Error::Machine { .. }), "{error}");
        let whole = package("amd64", &[("boot/x", b"y")]);
        for length in [0, 7, 30, 100, whole.len() - 20] {
            assert!(unpacked(&whole[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_change_of_a_byte_is_read_or_refused(at in 0..400_usize, value: u8) {
            let mut bytes = package("amd64", &[("boot/x", b"y")]);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = unpacked(&bytes);
        }
    }
}
