//! Requests as text: `open /bin/date`, `read /etc/hosts 4096 @0`.

use std::fmt::{Display, Formatter, Result};
use std::sync::Arc;

use super::fids::Fid;
use crate::fs::{Change, FileSystem};
use crate::msg::{FORGET_ALL, Flock, Request, SetAttr};
use crate::wire::Name;

/// A request and the files it concerns, as they were before it. No text is made and no path looked up unless it is
/// displayed.
pub(super) struct Description<'a, F: FileSystem> {
    pub(super) fs: &'a F,
    pub(super) request: &'a Request<'a>,
    pub(super) fid: Option<Arc<Fid<F>>>,
    /// The directory that a file is moved or linked to.
    pub(super) other: Option<Arc<Fid<F>>>,
}

/// The fids of [`Description::fid`] and [`Description::other`].
pub(super) fn fids_of(request: &Request<'_>) -> (Option<u32>, Option<u32>) {
    use Request as R;
    match *request {
        R::Version { .. }
        | R::Auth { .. }
        | R::Attach { .. }
        | R::Flush { .. }
        | R::Forget {}
        | R::Sync {}
        | R::Tally { .. } => (None, None),
        R::Statfs { fid }
        | R::Lopen { fid, .. }
        | R::Lopenread { fid, .. }
        | R::Fetch { fid, .. }
        | R::Replay { fid, .. }
        | R::Lcreate { fid, .. }
        | R::Lcreategetattr { fid, .. }
        | R::Readlink { fid }
        | R::Getattr { fid, .. }
        | R::Setattr { fid, .. }
        | R::Setgetattr { fid, .. }
        | R::Xattrwalk { fid, .. }
        | R::Xattrcreate { fid, .. }
        | R::Readdir { fid, .. }
        | R::Fsync { fid, .. }
        | R::Lock { fid, .. }
        | R::Getlock { fid, .. }
        | R::Walk { fid, .. }
        | R::Walkgetattr { fid, .. }
        | R::Lookup { fid, .. }
        | R::List { fid, .. }
        | R::Bind { fid, .. }
        | R::Read { fid, .. }
        | R::Write { fid, .. }
        | R::Clunk { fid }
        | R::Remove { fid } => (Some(fid), None),
        R::Symlink { dfid, .. }
        | R::Mknod { dfid, .. }
        | R::Mkdir { dfid, .. }
        | R::Unlinkat { dfid, .. } => (Some(dfid), None),
        R::Rename { fid, dfid, .. } | R::Link { fid, dfid, .. } => (Some(fid), Some(dfid)),
        R::Renameat {
            olddirfid,
            newdirfid,
            ..
        } => (Some(olddirfid), Some(newdirfid)),
    }
}

impl<F: FileSystem> Description<'_, F> {
    fn path(&self, fid: Option<&Arc<Fid<F>>>, name: Option<&[u8]>) -> String {
        let Some(fid) = fid else {
            return "(no such fid)".to_owned();
        };
        let mut path = self.fs.path(&fid.node);
        if let Some(name) = name {
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        escaped(&path)
    }
}

/// UTF-8 unchanged, except that backslashes and whatever a terminal would act on or that changes the direction of
/// text are escaped; so are all other bytes.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().escape_debug().to_string();
        // `escape_debug` escapes quotes too, which are harmless here.
        text.push_str(&valid.replace("\\'", "'").replace("\\\"", "\""));
        text.extend(chunk.invalid().iter().map(|b| format!("\\x{b:02x}")));
    }
    text
}

impl<F: FileSystem> Display for Description<'_, F> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        use Request as R;
        let at = || self.path(self.fid.as_ref(), None);
        let name = |name: &[u8]| self.path(self.fid.as_ref(), Some(name));
        let to = |name: &[u8]| self.path(self.other.as_ref(), Some(name));
        f.write_str(self.request.kind().name())?;
        match self.request {
            R::Version { msize, version } => write!(f, " {} {msize}", escaped(version.bytes())),
            R::Auth { aname, .. } | R::Attach { aname, .. } => {
                write!(f, " /{}", escaped(aname.bytes()).trim_start_matches('/'))
            }
            R::Flush { oldtag } => write!(f, " tag {oldtag}"),
            R::Walk { names, .. } if names.is_empty() => write!(f, " {}", at()),
            R::Walk { names, .. } => {
                let names: Vec<_> = names.iter().map(Name::bytes).collect();
                write!(f, " {}", name(&names.join(&b'/')))
            }
            R::Fetch { names, .. } => names
                .iter()
                .try_for_each(|one| write!(f, " {}", name(one.bytes()))),
            R::Lcreate {
                name: new, mode, ..
            }
            | R::Lcreategetattr {
                name: new, mode, ..
            }
            | R::Mkdir {
                name: new, mode, ..
            }
            | R::Mknod {
                name: new, mode, ..
            } => write!(f, " {} {mode:o}", name(new.bytes())),
            R::Unlinkat { name: old, .. }
            | R::Walkgetattr { name: old, .. }
            | R::Lookup { name: old, .. }
            | R::Bind { name: old, .. } => write!(f, " {}", name(old.bytes())),
            R::Forget {} | R::Sync {} | R::Tally { .. } => Ok(()),
            R::Symlink {
                name: new, target, ..
            } => write!(f, " {} → {}", name(new.bytes()), escaped(target.bytes())),
            R::Rename { name: new, .. } | R::Link { name: new, .. } => {
                write!(f, " {} → {}", at(), to(new.bytes()))
            }
            R::Renameat {
                oldname, newname, ..
            } => write!(f, " {} → {}", name(oldname.bytes()), to(newname.bytes())),
            R::Read { offset, count, .. } | R::Readdir { offset, count, .. } => {
                write!(f, " {} {count} @{offset}", at())
            }
            R::Write { offset, data, .. } => {
                write!(f, " {} {} @{offset}", at(), data.0.len())
            }
            R::Xattrwalk { name, .. } | R::Xattrcreate { name, .. } => {
                write!(f, " {} {}", at(), escaped(name.bytes()))
            }
            R::Setattr { attr, .. } | R::Setgetattr { attr, .. } => {
                write!(f, " {}", at())?;
                changes(f, attr)
            }
            R::Lock {
                kind,
                start,
                length,
                ..
            } => {
                let kind = match *kind {
                    Flock::READ => "read",
                    Flock::WRITE => "write",
                    _ => "unlock",
                };
                write!(f, " {} {kind} {length} @{start}", at())
            }
            R::Lopen { .. }
            | R::Lopenread { .. }
            | R::Statfs { .. }
            | R::Readlink { .. }
            | R::Getattr { .. }
            | R::Getlock { .. }
            | R::Fsync { .. }
            | R::List { .. }
            | R::Replay { .. }
            | R::Clunk { .. }
            | R::Remove { .. } => write!(f, " {}", at()),
        }
    }
}

/// The one path that a request concerns: that of the new file if it makes one.
pub(super) struct Path<'a, F: FileSystem>(pub(super) &'a Description<'a, F>);

impl<F: FileSystem> Display for Path<'_, F> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        use Request as R;
        let description = self.0;
        let at = |name: Option<&[u8]>| description.path(description.fid.as_ref(), name);
        match description.request {
            R::Version { .. }
            | R::Auth { .. }
            | R::Attach { .. }
            | R::Flush { .. }
            | R::Forget {}
            | R::Sync {}
            | R::Tally { .. } => Ok(()),
            R::Walk { names, .. } if !names.is_empty() => {
                let names: Vec<_> = names.iter().map(Name::bytes).collect();
                f.write_str(&at(Some(&names.join(&b'/'))))
            }
            R::Lcreate { name, .. }
            | R::Lcreategetattr { name, .. }
            | R::Walkgetattr { name, .. }
            | R::Lookup { name, .. }
            | R::Bind { name, .. }
            | R::Mkdir { name, .. }
            | R::Mknod { name, .. }
            | R::Symlink { name, .. }
            | R::Unlinkat { name, .. } => f.write_str(&at(Some(name.bytes()))),
            _ => f.write_str(&at(None)),
        }
    }
}

/// What the client is told to forget.
pub(super) struct Forgotten<'a>(pub(super) &'a Change);

impl Display for Forgotten<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Change {
            what, name, place, ..
        } = self.0;
        if *what == FORGET_ALL {
            return f.write_str("forget everything");
        }
        write!(f, "forget {}", escaped(place))?;
        if !name.is_empty() {
            let slash = if place.ends_with(b"/") { "" } else { "/" };
            write!(f, "{slash}{}", escaped(name))?;
        }
        Ok(())
    }
}

fn changes(f: &mut Formatter<'_>, attr: &SetAttr) -> Result {
    let asks = |bits: u32| attr.valid & bits != 0;
    if asks(SetAttr::MODE) {
        write!(f, " mode {:o}", attr.mode & 0o7777)?;
    }
    if asks(SetAttr::UID) {
        write!(f, " uid {}", attr.uid)?;
    }
    if asks(SetAttr::GID) {
        write!(f, " gid {}", attr.gid)?;
    }
    if asks(SetAttr::SIZE) {
        write!(f, " size {}", attr.size)?;
    }
    if asks(SetAttr::ATIME | SetAttr::MTIME) {
        f.write_str(" times")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn names_of_any_bytes_are_safe_and_told_apart() {
        for (name, text) in [
            (
                &b"/home/ann/d'or \"x\" e\xcc\x81"[..],
                "/home/ann/d'or \"x\" e\u{301}",
            ),
            (b"/a\nopen /b\x1b[2J\x7f", "/a\\nopen /b\\u{1b}[2J\\u{7f}"),
            (b"/a\\n", "/a\\\\n"),
            (b"/\\'", "/\\\\'"),
            (b"/\xff\xc3", "/\\xff\\xc3"),
            // Right-to-left override; a line separator.
            ("/\u{202e}gpj\u{2028}".as_bytes(), "/\\u{202e}gpj\\u{2028}"),
        ] {
            assert_eq!(escaped(name), text);
        }
    }
}
