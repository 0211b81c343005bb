//! Parses fstab(5) lines, as `CPU_FSTAB` carries them, into arguments of mount(2).
//!
//! A line has 4 to 6 fields: source, target, type, options, and two numbers that mean nothing here. An invalid line is
//! an error by itself and does not affect the others.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// `MS_BIND` of linux/mount.h: the source is a directory or file.
pub const BIND: u32 = 1 << 12;
/// `MS_REC`: with [`BIND`] (`rbind`) or a propagation flag, includes everything mounted beneath.
pub const REC: u32 = 1 << 14;
/// `MS_REMOUNT`: changes the flags of what is mounted on the target.
pub const REMOUNT: u32 = 1 << 5;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Device, directory, tag, or whatever else the file system understands.
    pub source: OsString,
    /// Absolute path of the mount point.
    pub target: PathBuf,
    /// File system type; `none` with [`BIND`].
    pub fstype: OsString,
    /// `MS_*` flags of linux/mount.h, except those for propagation.
    pub flags: u32,
    /// One of `MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE`, `MS_UNBINDABLE`, possibly with [`REC`]; 0 if not given. It needs
    /// a separate call of mount(2).
    pub propagation: u32,
    /// The options of the file system, separated by commas.
    pub data: OsString,
}

/// An invalid line. It has no number, since lines of the namespace and of a file become one text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fstab line {text:?}: {reason}")]
pub struct Error {
    /// The beginning of the line.
    pub text: String,
    /// What is wrong with it.
    pub reason: Reason,
}

/// Why a line is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Fewer than four fields.
    #[error("it has {0} of at least 4 fields: source target type options")]
    TooFew(usize),
    /// More than six fields.
    #[error(
        "it has {0} fields, but at most 6 are allowed: entries are separated by newlines (a shell joins them \
         unless the expansion is quoted), and a blank in a name is written \\040"
    )]
    TooMany(usize),
    /// The target is not an absolute path.
    #[error("the second field, the mount point, must begin with /")]
    RelativeTarget,
    /// A NUL byte, literally or as `\000`.
    #[error("a field contains a NUL byte")]
    Nul,
}

/// What a mount option does to the flags.
enum Effect {
    Set(u32),
    Clear(u32),
    Propagation(u32),
    /// For mount(8) and other programs; means nothing to the kernel.
    Ignored,
    /// The entry is mounted only on request, and so never here.
    Skip,
    Data,
}

/// The effect of an option of mount(8). Values are from linux/mount.h.
fn effect_of(option: &[u8]) -> Effect {
    use Effect::{Clear, Ignored, Propagation, Set, Skip};
    const UNBINDABLE: u32 = 1 << 17;
    const PRIVATE: u32 = 1 << 18;
    const SLAVE: u32 = 1 << 19;
    const SHARED: u32 = 1 << 20;
    match option {
        b"ro" => Set(1),
        b"rw" => Clear(1),
        b"nosuid" => Set(1 << 1),
        b"suid" => Clear(1 << 1),
        b"nodev" => Set(1 << 2),
        b"dev" => Clear(1 << 2),
        b"noexec" => Set(1 << 3),
        b"exec" => Clear(1 << 3),
        b"sync" => Set(1 << 4),
        b"async" => Clear(1 << 4),
        b"remount" => Set(REMOUNT),
        b"mand" => Set(1 << 6),
        b"nomand" => Clear(1 << 6),
        b"dirsync" => Set(1 << 7),
        b"nosymfollow" => Set(1 << 8),
        b"symfollow" => Clear(1 << 8),
        b"noatime" => Set(1 << 10),
        b"atime" => Clear(1 << 10),
        b"nodiratime" => Set(1 << 11),
        b"diratime" => Clear(1 << 11),
        b"bind" => Set(BIND),
        b"rbind" => Set(BIND | REC),
        b"silent" => Set(1 << 15),
        b"loud" => Clear(1 << 15),
        b"relatime" => Set(1 << 21),
        b"norelatime" => Clear(1 << 21),
        b"strictatime" => Set(1 << 24),
        b"nostrictatime" => Clear(1 << 24),
        b"lazytime" => Set(1 << 25),
        b"nolazytime" => Clear(1 << 25),
        b"unbindable" => Propagation(UNBINDABLE),
        b"runbindable" => Propagation(UNBINDABLE | REC),
        b"private" => Propagation(PRIVATE),
        b"rprivate" => Propagation(PRIVATE | REC),
        b"slave" => Propagation(SLAVE),
        b"rslave" => Propagation(SLAVE | REC),
        b"shared" => Propagation(SHARED),
        b"rshared" => Propagation(SHARED | REC),
        b"" | b"defaults" | b"auto" | b"nouser" | b"user" | b"users" | b"owner" | b"group"
        | b"nofail" | b"_netdev" => Ignored,
        b"noauto" => Skip,
        _ if option.starts_with(b"x-") || option.starts_with(b"X-") => Ignored,
        _ if option.starts_with(b"comment=") => Ignored,
        _ => Effect::Data,
    }
}

/// Parses fstab lines into entries and errors, in order. Comments, blank lines and `noauto` entries are skipped.
pub fn parse(text: &[u8]) -> impl Iterator<Item = Result<Entry, Error>> {
    text.split(|&b| b == b'\n').filter_map(|line| {
        let error = |reason| {
            const SHOWN: usize = 80;
            let text = String::from_utf8_lossy(line.get(..SHOWN).unwrap_or(line)).into_owned();
            Error { text, reason }
        };
        parse_line(line).map_err(error).transpose()
    })
}

fn parse_line(line: &[u8]) -> Result<Option<Entry>, Reason> {
    let fields: Vec<&[u8]> = line
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty())
        .collect();
    let [source, target, fstype, options] = match fields[..] {
        [] => return Ok(None),
        [first, ..] if first.starts_with(b"#") => return Ok(None),
        [source, target, fstype, options]
        | [source, target, fstype, options, _]
        | [source, target, fstype, options, _, _] => [source, target, fstype, options],
        ref few if few.len() < 4 => return Err(Reason::TooFew(few.len())),
        ref many => return Err(Reason::TooMany(many.len())),
    };

    let target = PathBuf::from(unescape(target)?);
    if !target.is_absolute() {
        return Err(Reason::RelativeTarget);
    }
    let (mut flags, mut propagation, mut data) = (0, 0, Vec::new());
    for option in options.split(|&b| b == b',') {
        match effect_of(option) {
            Effect::Set(bits) => flags |= bits,
            Effect::Clear(bits) => flags &= !bits,
            Effect::Propagation(bits) => propagation = bits,
            Effect::Ignored => {}
            Effect::Skip => return Ok(None),
            Effect::Data => {
                if !data.is_empty() {
                    data.push(b',');
                }
                data.extend_from_slice(unescape(option)?.as_bytes());
            }
        }
    }
    let (source, fstype) = (unescape(source)?, unescape(fstype)?);
    Ok(Some(Entry {
        source,
        target,
        fstype,
        flags,
        propagation,
        data: OsString::from_vec(data),
    }))
}

/// Writes a name as a field, with blanks, `#` and backslashes as `\` and three octal digits.
pub(crate) fn escape(name: &str) -> String {
    let mut field = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_whitespace() || matches!(c, '\\' | '#' | '\x0b' | '\0') {
            // This cannot fail: it writes to memory.
            let _ = write!(field, "\\{:03o}", c as u32);
        } else {
            field.push(c);
        }
    }
    field
}

/// Decodes `\` and three octal digits, as in all tables of mounts. Any other backslash stands for itself, as in
/// libmount.
pub fn unescape(field: &[u8]) -> Result<OsString, Reason> {
    let mut name = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if byte == b'\\' => {
                Some(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'))
            }
            _ => None,
        };
        name.push(octal.unwrap_or(byte));
        rest = if octal.is_some() {
            after.get(3..).unwrap_or_default()
        } else {
            after
        };
    }
    if name.contains(&0) {
        Err(Reason::Nul)
    } else {
        Ok(OsString::from_vec(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(line: &str) -> Result<Entry, Reason> {
        let mut all = parse(line.as_bytes());
        let first = all.next().expect("an entry or an error");
        assert_eq!(all.next(), None);
        first.map_err(|e| e.reason)
    }

    #[test]
    fn comments_blanks_and_noauto_are_nothing() {
        assert_eq!(
            parse(b"\n# x y z\n \t\n\n/a /b ext4 noauto 0 0\n").count(),
            0
        );
    }

    #[test]
    fn the_chapters_line() {
        let e = one("myfs /mnt virtiofs rw 0 0").unwrap();
        assert_eq!(
            (e.source.to_str(), e.target.to_str()),
            (Some("myfs"), Some("/mnt"))
        );
        assert_eq!(
            (e.fstype.to_str(), e.flags, e.data.to_str()),
            (Some("virtiofs"), 0, Some(""))
        );
    }

    #[test]
    fn options_become_flags_and_data() {
        let e = one("h:/x /m nfs rw,ro,nosuid,vers=4,relatime,addr=1.2.3.4,x-y,rslave").unwrap();
        assert_eq!(e.flags, 1 | 2 | (1 << 21));
        assert_eq!(e.data.to_str(), Some("vers=4,addr=1.2.3.4"));
        assert_eq!(e.propagation, (1 << 19) | REC);
        assert_eq!(one("/a /b none rbind,ro 0").unwrap().flags, BIND | REC | 1);
    }

    #[test]
    fn escapes() {
        let e = one(r"/a\040b /c\134\011d none bind,x=\054 0 0").unwrap();
        assert_eq!(e.source.to_str(), Some("/a b"));
        assert_eq!(e.target.to_str(), Some("/c\\\td"));
        assert_eq!(e.data.to_str(), Some("x=,"));
        assert_eq!(
            one(r"\9\08\777\ /x t o").unwrap().source.to_str(),
            Some(r"\9\08\777\")
        );
    }

    #[test]
    fn faults_are_told_with_their_line() {
        assert_eq!(one("a /b none"), Err(Reason::TooFew(3)));
        assert_eq!(one("a b none bind 0 0"), Err(Reason::RelativeTarget));
        assert_eq!(one(r"a\000 /b none bind"), Err(Reason::Nul));
        let joined = "a /b none bind 0 0 c /d none bind 0 0";
        assert_eq!(one(joined), Err(Reason::TooMany(12)));
        let all: Vec<_> = parse(b"a /b t ro\nbad\nc /d t rw\n").collect();
        assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 2);
        assert_eq!(
            all[1].as_ref().unwrap_err().to_string(),
            "fstab line \"bad\": it has 1 of at least 4 fields: source target type options"
        );
    }

    proptest! {
        #[test]
        fn names_survive(name in "[ -~\t\n\x0b\x0c\ré]{1,20}") {
            let e = one(&format!("{} /x t defaults", escape(&name))).unwrap();
            prop_assert_eq!(e.source.to_str().unwrap(), name);
        }

        #[test]
        fn any_text_is_entries_and_errors(text in prop::collection::vec(
            prop::sample::select(&b"a/ \t\n\\#0147,\xff\0"[..]), 0..80)) {
            let lines = text.split(|&b| b == b'\n').count();
            let results: Vec<_> = parse(&text).collect();
            prop_assert!(results.len() <= lines);
            for entry in results.into_iter().flatten() {
                prop_assert!(entry.target.is_absolute());
                prop_assert!(!entry.source.as_bytes().contains(&0));
            }
        }
    }
}
