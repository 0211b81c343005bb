//! Small packages of every format, and what is read of them.

use std::collections::BTreeMap;
use std::io::Write as _;

use proptest::prelude::*;

use super::super::compress::Compression;
use super::super::newc::{self, EntryBody, FileTree};
use super::*;

mod rpm_6;

/// The files of a package.
type PackageFiles<'a> = &'a [(&'a str, &'a [u8])];

/// Makes a package of files.
type Maker<'a> = &'a dyn Fn(PackageFiles<'_>) -> Vec<u8>;

fn tar(files: PackageFiles<'_>) -> Vec<u8> {
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

fn packed(by: Compression, bytes: Vec<u8>) -> Vec<u8> {
    by.apply(bytes, Arch::Aarch64).unwrap()
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

/// A Debian package for a machine, by Debian's name, with these files.
pub(crate) fn deb(machine: &str, files: PackageFiles<'_>) -> Vec<u8> {
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

/// A header of rpm with strings for tags.
fn rpm_header(strings: &[(u32, &str)]) -> Vec<u8> {
    let (mut index, mut store) = (Vec::new(), Vec::new());
    for (tag, text) in strings {
        let offset = u32::try_from(store.len()).unwrap();
        // Type 6 is one string.
        for number in [*tag, 6, offset, 1] {
            index.extend(number.to_be_bytes());
        }
        store.extend(text.as_bytes());
        store.push(0);
    }
    let mut header = b"\x8e\xad\xe8\x01\0\0\0\0".to_vec();
    for length in [strings.len(), store.len()] {
        header.extend(u32::try_from(length).unwrap().to_be_bytes());
    }
    [header, index, store].concat()
}

fn rpm_with(machine: &str, payload: &[u8]) -> Vec<u8> {
    let mut lead = b"\xed\xab\xee\xdb\x03\0\0\0".to_vec();
    lead.resize(96, 0);
    let mut signatures = rpm_header(&[(269, "a sum")]);
    signatures.resize(signatures.len().next_multiple_of(8), 0);
    // RPMTAG_NAME, _ARCH and _PAYLOADCOMPRESSOR.
    let header = rpm_header(&[(1000, "kernel-core"), (1022, machine), (1125, "zstd")]);
    [&lead, &signatures, &header, payload].concat()
}

fn cpio(files: PackageFiles<'_>) -> Vec<u8> {
    let mut tree = FileTree::new();
    for (name, bytes) in files {
        for (end, _) in name.match_indices('/').skip(1) {
            tree.insert(name[..end].to_owned(), (0o755, EntryBody::Directory));
        }
        tree.insert((*name).to_owned(), (0o644, EntryBody::File(bytes.to_vec())));
    }
    let link = EntryBody::Symlink("../lib/modules/vmlinuz".to_owned());
    tree.insert("./boot/vmlinuz".to_owned(), (0o777, link));
    newc::pack(tree, 7).unwrap()
}

/// A package of rpm for a machine, by rpm's name, with these files.
pub(crate) fn rpm(machine: &str, files: PackageFiles<'_>) -> Vec<u8> {
    rpm_with(machine, &packed(Compression::Zstd, cpio(files)))
}

fn info(machine: &str) -> Vec<u8> {
    format!("# made by hand\npkgname = linux\narch = {machine}\n").into_bytes()
}

/// A package of apk, as its tools cut it: the first two archives have no end.
pub(crate) fn apk(machine: &str, files: PackageFiles<'_>) -> Vec<u8> {
    let cut = |name: &str, bytes: &[u8]| {
        let mut part = tar(&[(name, bytes)]);
        part.truncate(part.len() - 1024);
        part
    };
    let parts = [
        cut(".SIGN.RSA.x.pub", b"a signature"),
        cut(".PKGINFO", &info(machine)),
        tar(files),
    ];
    parts.map(|part| packed(Compression::Gzip, part)).concat()
}

/// A package of pacman.
pub(crate) fn pacman(machine: &str, files: PackageFiles<'_>) -> Vec<u8> {
    let info = info(machine);
    let first: [(&str, &[u8]); 2] = [(".MTREE", b"x"), (".PKGINFO", &info)];
    packed(Compression::Zstd, tar(&[&first, files].concat()))
}

fn unpacked(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut files = BTreeMap::new();
    let mut keep = |name: String, reader: &mut dyn Read| {
        let mut bytes = Vec::new();
        // Not every reader reads all.
        if name != "boot/unread" {
            reader.read_to_end(&mut bytes).map_err(unread)?;
        }
        files.insert(name, bytes);
        Ok(())
    };
    unpack(file.path(), Arch::X86_64, &mut keep)?;
    Ok(files)
}

/// One of each format for x86_64 with these files.
fn each(files: PackageFiles<'_>) -> [Vec<u8>; 4] {
    let machine = "x86_64";
    [
        deb("amd64", files),
        rpm(machine, files),
        apk(machine, files),
        pacman(machine, files),
    ]
}

#[test]
fn every_file_with_a_plain_path_is_unpacked() {
    let files: [(&str, &[u8]); 5] = [
        ("./boot/unread", b"12345"),
        ("./boot/vmlinuz-6.1", b"kernel"),
        ("/usr/share/doc/x", b"text"),
        ("boot/../../outside", b"x"),
        ("usr/empty", b""),
    ];
    for package in each(&files) {
        let found = unpacked(&package).unwrap();
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        let expected = [
            "boot/unread",
            "boot/vmlinuz-6.1",
            "usr/empty",
            "usr/share/doc/x",
        ];
        assert_eq!(names, expected);
        assert_eq!(found["boot/vmlinuz-6.1"], b"kernel");
        assert_eq!(found["usr/share/doc/x"], b"text");
    }
}

#[test]
fn payloads_of_rpm_may_have_any_compression_that_the_kernel_knows() {
    let payload = cpio(&[("./boot/x", b"y")]);
    for by in [
        Compression::Xz,
        Compression::Gzip,
        Compression::Zstd,
        Compression::None,
    ] {
        let package = rpm_with("x86_64", &packed(by, payload.clone()));
        assert_eq!(unpacked(&package).unwrap()["boot/x"], b"y");
    }
    let bzip2 = unpacked(&rpm_with("x86_64", b"BZh91AY")).unwrap_err();
    assert!(bzip2.to_string().contains("bzip2"), "{bzip2}");
}

#[test]
fn another_architecture_is_told() {
    let files: [(&str, &[u8]); 1] = [("boot/x", b"y")];
    for package in [
        deb("arm64", &files),
        rpm("aarch64", &files),
        apk("aarch64", &files),
        pacman("aarch64", &files),
    ] {
        let error = unpacked(&package).unwrap_err();
        assert!(matches!(error, Error::Machine { .. }), "{error}");
    }
}

#[test]
fn what_cannot_be_kept_is_not_called_damaged() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for package in each(&[("boot/x", b"y")]) {
        std::fs::write(file.path(), package).unwrap();
        let mut full = |_, _: &mut dyn Read| Err(Error::Keep(io::ErrorKind::StorageFull.into()));
        let result = unpack(file.path(), Arch::X86_64, &mut full);
        assert!(matches!(result, Err(Error::Keep(_))), "{result:?}");
    }
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
    let pax = |length: usize| {
        let name = "x".repeat(length);
        let mut archive = tar::Builder::new(Vec::new());
        let records = [("APK-TOOLS.checksum", &b"x"[..]), ("path", name.as_bytes())];
        archive.append_pax_extensions(records).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("short").unwrap();
        header.set_size(1);
        header.set_cksum();
        archive.append(&header, &b"y"[..]).unwrap();
        let end = archive.into_inner().unwrap();
        let start = tar(&[(".PKGINFO", &info("x86_64"))]);
        packed(Compression::Gzip, [start, end].concat())
    };
    let found = unpacked(&pax(300)).unwrap();
    assert_eq!(found.keys().map(String::len).collect::<Vec<_>>(), [300]);
    assert!(matches!(unpacked(&pax(70_000)), Err(Error::LongName(_))));
    let mut entry = cpio(&[("x", b"")]);
    entry[94..102].copy_from_slice(b"00002000");
    let long = unpacked(&rpm_with("x86_64", &entry));
    assert!(matches!(long, Err(Error::LongName(0x2000))), "{long:?}");
}

#[test]
fn bombs_are_refused_before_they_fill_the_disk() {
    let with_data = |data: &[u8]| [b"!<arch>\n".to_vec(), member("data.tar.xz", data)].concat();
    let makers: [Maker<'_>; 4] = [
        &|files| with_data(&packed(Compression::Xz, tar(files))),
        &|files| rpm("x86_64", files),
        &|files| apk("x86_64", files),
        &|files| pacman("x86_64", files),
    ];
    for make in makers {
        let fill = |length: usize| make(&[("./boot/x", &vec![0; length])]);
        assert_eq!(unpacked(&fill(30 << 20)).unwrap().len(), 1);
        let result = unpacked(&fill(33 << 20));
        let bomb = matches!(result, Err(Error::Unpack(decompress::Error::Bomb { .. })));
        assert!(bomb, "{result:?}");
    }
    let mut entry = tar(&[("boot/x", b"")]);
    entry.truncate(512);
    let many = |count| with_data(&packed(Compression::Xz, entry.repeat(count)));
    assert!(unpacked(&many(MAX_FILES)).is_ok());
    let result = unpacked(&many(MAX_FILES + 1));
    assert!(matches!(result, Err(Error::Files)), "{result:?}");
    let names = |count| {
        let long = format!("./{}", "x".repeat(4000));
        let file = |_| (long.clone(), (0o644, EntryBody::File(Vec::new())));
        let one = newc::pack([file(0)].into(), 7).unwrap();
        let end = (110 + long.len() + 1).next_multiple_of(4);
        let last = newc::pack(FileTree::new(), 7).unwrap();
        let all = [one[..end].repeat(count), last].concat();
        rpm_with("x86_64", &packed(Compression::Xz, all))
    };
    assert!(unpacked(&names(MAX_NAMES / 4002)).is_ok());
    let result = unpacked(&names(MAX_NAMES / 4002 + 1));
    assert!(matches!(result, Err(Error::Files)), "{result:?}");
    // Headers that announce more than there is take no memory for it.
    for at in [104, 108] {
        let mut package = rpm("x86_64", &[]);
        package[at..at + 4].copy_from_slice(&[0xff; 4]);
        assert!(matches!(unpacked(&package), Err(Error::Format)));
    }
}

#[test]
fn a_member_that_is_cut_short_or_there_twice_is_refused() {
    let files: [(&str, &[u8]); 2] = [("boot/x", b"y"), ("boot/z", b"y")];
    let data = member("data.tar", &tar(&files));
    let package = |data: &[u8]| [&b"!<arch>\n"[..], data].concat();
    assert_eq!(unpacked(&package(&data)).unwrap().len(), 2);
    // Between two files, and nothing else tells.
    let cut = unpacked(&package(&data[..60 + 1024]));
    assert!(matches!(cut, Err(Error::Damaged(_))), "{cut:?}");
    let twice = unpacked(&package(&data.repeat(2)));
    assert!(matches!(twice, Err(Error::Twice(_))), "{twice:?}");
}

#[test]
fn what_is_told_of_a_package_is_short_and_no_order_to_a_terminal() {
    let machine = format!("\x1b[2J\n{}", "x".repeat(1000));
    let error = unpacked(&rpm(&machine, &[])).unwrap_err().to_string();
    assert!(
        error.len() < 200 && !error.contains(char::is_control),
        "{error:?}"
    );
    let files: [(&str, &[u8]); 2] = [("lib/modules/6\n1/a", b"y"), ("boot/z", b"y")];
    let found = unpacked(&pacman("x86_64", &files)).unwrap();
    assert_eq!(found.into_keys().collect::<Vec<_>>(), ["boot/z"]);
}

#[test]
fn what_is_cut_short_is_refused() {
    for whole in each(&[("boot/x", b"y")]) {
        for length in 0..whole.len() {
            // The last byte may be padding; between two of its gzip files, a package of apk is whole and empty.
            let is_whole = unpacked(&whole[..length]).is_ok_and(|files| !files.is_empty());
            assert!(!is_whole || length + 1 == whole.len(), "{length}");
        }
    }
}

#[test]
fn what_is_none_says_which_there_are() {
    for other in [&b"MZ"[..], b"", b"ADBd", b"!<arch>\n"] {
        let error = unpacked(other).unwrap_err().to_string();
        assert!(error.starts_with("it is "), "{error}");
    }
    // Whoever opened a FIFO would wait.
    for path in ["/tmp", "/dev/null"] {
        let result = unpack(Path::new(path), Arch::X86_64, &mut |_, _| Ok(()));
        assert!(matches!(result, Err(Error::NoFile)), "{result:?}");
    }
    // A compressed archive that describes nothing.
    let plain = packed(Compression::Gzip, tar(&[("boot/x", b"y")]));
    assert!(matches!(unpacked(&plain), Err(Error::Format)));
}

proptest! {
    #[test]
    fn any_change_of_a_byte_is_read_or_refused(which in 0..5_usize, at in 0..2000_usize, value: u8) {
        let files: PackageFiles<'_> = &[("boot/x", b"y")];
        let plain = rpm_with("x86_64", &cpio(files));
        let mut bytes = each(files).into_iter().chain([plain]).nth(which).unwrap();
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = unpacked(&bytes);
    }

    #[test]
    fn any_change_of_an_archive_is_read_or_refused(at in 0..2048_usize, value: u8) {
        let mut archive = tar(&[(".PKGINFO", &info("x86_64")), ("boot/x", b"y")]);
        archive[at] = value;
        for header in [0, 1024] {
            let mut changed = tar::Header::new_old();
            changed.as_mut_bytes().copy_from_slice(&archive[header..header + 512]);
            changed.set_cksum();
            archive[header..header + 512].copy_from_slice(changed.as_bytes());
        }
        let _ = unpacked(&packed(Compression::Gzip, archive));
    }
}
