//! Another content for one file of an initramfs. All others stay as they are, and the part with the file is compressed as it
//! was before: of an archive that mkimage has made comes what mkimage would have made with that content.

use super::super::compress::{self, Compression};
use super::{NewcEntry, Part};
use crate::arch::Arch;

/// Why a file has no other content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("its archive is compressed by {0}, which mkimage cannot write: unpack it first")]
    Unwritten(&'static str),
    #[error("the file is too big for a newc archive, which counts to 4 GiB")]
    TooBig,
    #[error(transparent)]
    Compress(#[from] compress::Error),
}

/// Places of an entry's header: its magic, the length of the file, and the sum of its bytes.
const MAGIC_WITH_SUM: &[u8] = b"070702";
const LENGTH: usize = 54;
const SUM: usize = 102;

/// The file that the kernel has under a name in the end, with its part. Of several the last one wins; `None` if that is no
/// regular file, or shares its content with another.
pub(crate) fn find<'p, 'a>(
    parts: &'p [Part<'a>],
    name: &[u8],
) -> Option<(&'p Part<'a>, &'p NewcEntry)> {
    let mut all = parts
        .iter()
        .flat_map(|part| part.entries.iter().map(move |entry| (part, entry)));
    let last = all.rfind(|(part, entry)| part.name(entry) == name);
    last.filter(|(_, entry)| entry.mode & 0o170_000 == 0o100_000 && entry.links <= 1)
}

/// The initramfs `whole`, of which `part` and `entry` are, with other content of that file. For xz, `arch` is where it is
/// read.
pub(crate) fn replace(
    whole: &[u8],
    part: &Part<'_>,
    entry: &NewcEntry,
    contents: &[u8],
    arch: Option<Arch>,
) -> Result<Vec<u8>, Error> {
    let archive = with_contents(part, entry, contents)?;
    let packed = match part.by.map(Compression::by_name) {
        None => archive,
        // Every kernel reads what is made for ARM: it has no filter.
        Some(Some(compression)) => compression.apply(archive, arch.unwrap_or(Arch::Aarch64))?,
        Some(None) => return Err(Error::Unwritten(part.by.unwrap_or_default())),
    };
    let mut all = whole[..part.start].to_vec();
    all.extend(packed);
    let rest = &whole[part.start + part.packed..];
    let padding = rest.iter().take_while(|byte| **byte == 0).count();
    if padding < rest.len() {
        all.resize(all.len().next_multiple_of(4), 0);
        all.extend_from_slice(&rest[padding..]);
    }
    Ok(all)
}

fn with_contents(part: &Part<'_>, entry: &NewcEntry, contents: &[u8]) -> Result<Vec<u8>, Error> {
    let length = u32::try_from(contents.len()).map_err(|_| Error::TooBig)?;
    let mut all = part.bytes[..entry.contents.start].to_vec();
    let header = &mut all[entry.header..];
    let mut put = |at: usize, number: u32| {
        header[at..at + 8].copy_from_slice(format!("{number:08x}").as_bytes());
    };
    put(LENGTH, length);
    if part.bytes[entry.header..].starts_with(MAGIC_WITH_SUM) {
        let bytes = contents.iter().map(|byte| u32::from(*byte));
        put(SUM, bytes.fold(0, u32::wrapping_add));
    }
    all.extend_from_slice(contents);
    all.resize(all.len().next_multiple_of(4), 0);
    let end = entry.contents.end.next_multiple_of(4);
    all.extend_from_slice(part.bytes.get(end..).unwrap_or_default());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::newc::{self, EntryBody, FileTree};
    use super::super::read;
    use super::*;

    fn archive(key: &[u8]) -> Vec<u8> {
        let file = |bytes: &[u8]| (0o644, EntryBody::File(bytes.to_vec()));
        let tree: FileTree = [
            ("init", file(b"a program")),
            ("key.pub", file(key)),
            ("tmp", (0o1777, EntryBody::Directory)),
            ("zoo", file(b"after it")),
        ]
        .map(|(name, entry)| (name.to_owned(), entry))
        .into();
        newc::pack(tree, 7).unwrap()
    }

    fn replaced(whole: &[u8], contents: &[u8]) -> Result<Vec<u8>, Error> {
        let parts = read(whole).unwrap();
        let (part, entry) = find(&parts, b"key.pub").unwrap();
        replace(whole, part, entry, contents, Some(Arch::X86_64))
    }

    #[test]
    fn another_content_gives_the_archive_that_would_have_been_made_with_it() {
        let forms = [
            Compression::None,
            Compression::Xz,
            Compression::Zstd,
            Compression::Gzip,
        ];
        let other = archive(b"nothing of this");
        for (form, first) in forms.into_iter().zip([&b""[..], &other, b"", &other]) {
            let whole = |key: &[u8], last: &[u8]| {
                let packed = form.apply(archive(key), Arch::X86_64).unwrap();
                let mut all = [first, &packed].concat();
                if !last.is_empty() {
                    all.resize(all.len().next_multiple_of(4), 0);
                    all.extend_from_slice(last);
                }
                all
            };
            let last = newc::pack(FileTree::new(), 7).unwrap();
            for key in [&b"one\n"[..], b"one\ntwo\n", b"", b"x"] {
                for last in [&b""[..], &last] {
                    let made = replaced(&whole(b"a\n", last), key).unwrap();
                    assert!(made == whole(key, last), "{form:?} {key:?}");
                }
            }
        }
    }

    #[test]
    fn of_several_the_last_one_is_meant() {
        let two = [archive(b"first"), archive(b"second")].concat();
        let made = replaced(&two, b"third").unwrap();
        assert!(made == [archive(b"first"), archive(b"third")].concat());
        // However it is written.
        let named = |name: &str| {
            newc::pack(
                [(name.to_owned(), (0o644, EntryBody::File(b"last".to_vec())))].into(),
                7,
            )
            .unwrap()
        };
        for name in ["./key.pub", "//.//key.pub"] {
            let three = [archive(b"first"), named(name)].concat();
            let made = replaced(&three, b"third").unwrap();
            assert!(made.starts_with(&archive(b"first")), "{name}");
        }
        let none = newc::pack(FileTree::new(), 7).unwrap();
        assert!(find(&read(&none).unwrap(), b"key.pub").is_none());
        let link = (
            "key.pub".to_owned(),
            (0o777, EntryBody::Symlink("x".into())),
        );
        let linked = [archive(b"first"), newc::pack([link].into(), 7).unwrap()].concat();
        assert!(find(&read(&linked).unwrap(), b"key.pub").is_none());
    }

    #[test]
    fn a_sum_is_that_of_the_new_bytes() {
        let text = String::from_utf8(archive(b"a")).unwrap();
        let with_sum = text.replace("070701", "070702");
        let made = replaced(with_sum.as_bytes(), b"AB").unwrap();
        let made = String::from_utf8(made).unwrap();
        assert!(made.contains("00000083key.pub"), "{made}");
    }

    #[test]
    fn what_mkimage_cannot_compress_is_refused() {
        let block = lz4_flex::block::compress(&archive(b"a"));
        let length = u32::try_from(block.len()).unwrap().to_le_bytes();
        let frame = [b"\x02\x21\x4c\x18", &length[..], &block].concat();
        let refused = replaced(&frame, b"b");
        assert!(matches!(refused, Err(Error::Unwritten("lz4"))));
    }

    proptest! {
        #[test]
        fn whatever_is_read_can_be_changed(at in 0..600_usize, value: u8, contents: Vec<u8>) {
            let mut bytes = archive(b"a key\n");
            let at = at % bytes.len();
            bytes[at] = value;
            let Ok(parts) = read(&bytes) else { return Ok(()) };
            if let Some((part, entry)) = find(&parts, b"key.pub") {
                let made = replace(&bytes, part, entry, &contents, None).unwrap();
                let parts = read(&made).unwrap();
                let (part, entry) = find(&parts, b"key.pub").unwrap();
                prop_assert_eq!(part.contents(entry), contents);
            }
        }
    }
}
