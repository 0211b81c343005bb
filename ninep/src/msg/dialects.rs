//! Our dialects of 9P2000.L: version strings, and what their messages contain.

use super::{Attr, Qid};
use crate::wire::{BodyReader, Data, Frame, Malformed, Str, Wire};

/// The version string of the dialect that [`crate::relay`] speaks with [`crate::server`] to save round trips.
/// It is 9P2000.L with two additions:
///
/// * `size[4] Twalkgetattr tag[2] fid[4] newfid[4] name[s]` walks one name, neither `.` nor `..`. The reply
///   `size[4] Rwalkgetattr tag[2]` has the body of an Rgetattr, whose qid is that of the walk.
/// * A clunk and a walk of no names may have the tag [`NO_TAG`](super::NO_TAG). Such a request is never answered; it takes effect
///   on its fid before the next request is read. The file may be closed later.
pub const EXTENDED: &[u8] = b"9P2000.L.cpu";
/// The version string of the dialect in which the server says what [`crate::relay`] may keep, and takes it back. It is
/// [`EXTENDED`] with these additions:
///
/// * `size[4] Tlookup tag[2] fid[4] newfid[4] name[s]` does what a Twalkgetattr does. In the reply `size[4] Rlookup tag[2]
///   kept[1] ecode[4]`, followed by the body of an Rgetattr and `target[s]`, `kept` is a combination of [`KEEP_NAME`],
///   [`KEEP_ATTR`] and [`LACKS_XATTRS`]. If `ecode` is not 0, the name does not exist, there is no new fid, and the attributes
///   mean nothing. `target` is what a symbolic link leads to, if that has up to [`MAX_TARGET`] bytes, else empty.
/// * `size[4] Tlist tag[2] fid[4] open[1]` lists a directory, and with `open` 1 also opens the fid for reading. The reply
///   is `size[4] Rlist tag[2] kept[1] qid[13] count[4] data[count]`, with [`ListEntry`] values. Unless `kept` is
///   [`KEEP_NAME`], there are none; otherwise they are all.
/// * `size[4] Tbind tag[2] fid[4] newfid[4] name[s] path[8] btime_sec[8] btime_nsec[8]` walks one name to a file with this qid
///   path and time of birth. It has the tag [`NO_TAG`](super::NO_TAG) and no reply. If there is no such file there any more,
///   requests for the new fid fail with `ESTALE`.
/// * `size[4] Tlopenread tag[2] fid[4] flags[4] count[4]` does what a Tlopen for reading does, and reads from the beginning of
///   the file. The reply `size[4] Rlopenread tag[2] qid[13] iounit[4] version[4] size[8] count[4] data[count]` has the body
///   of an Rlopen; the version of the file's qid and its size, the same before and after it was read; and the first bytes,
///   up to `count` and [`MAX_FIRST`], fewer only at the end of the file. If the version is 0, nothing was read.
/// * `size[4] Tfetch tag[2] fid[4] n[2] n*(name[s])` reads small files in a directory, of which nobody has asked for any yet. The
///   reply is `size[4] Rfetch tag[2] count[4] data[count]`, with a [`FetchedFile`] for each name.
/// * A Tlopen for reading may have the tag [`NO_TAG`](super::NO_TAG). If it fails, requests for the fid fail with `ESTALE`.
/// * `size[4] Rforget tag[2] what[1] dir[8] name[s]` is sent by the server, with the tag [`NO_TAG`](super::NO_TAG), when something has
///   changed that it allowed to keep. `what` is one of the constants `FORGET_*`, and `dir` the qid path of a directory.
/// * `size[4] Ttally tag[2] files[4] bytes[8] used_files[4] used_bytes[8] count[4] answered[count]` is the last message of a
///   relay, with the tag [`NO_TAG`](super::NO_TAG) and no reply: [`FetchTotals`](super::FetchTotals), and how many requests of
///   each type it has answered itself: `number[4]` for type 0, for type 2, and so on. A server that does not know it may refuse
///   it.
/// * `Tlcreategetattr` and `Tsetgetattr` have the body of a Tlcreate and of a Tsetattr, and do what these do. Their replies have the
///   body of an Rlcreate and of an Rsetattr, followed by that of an Rgetattr for the file. If the server cannot tell it, its
///   `valid` is 0.
/// * `size[4] Treplay tag[2] fid[4] count[4]` asks for what was asked for when the same program ran before, beneath a directory,
///   some `count` bytes of it. The reply `size[4] Rreplay tag[2] count[4] data[count]` has [`ReplayRecord`] values; with none, there is no
///   more. A server that knows nothing of it may refuse it.
/// * `size[4] Tsync tag[2]` is answered when every file is closed whose last clunk without a reply the server has read before.
pub const WATCHED: &[u8] = b"9P2000.L.cpu.4";
/// In an Rlookup or Rlist: the directory is watched, and the name or its absence may be kept.
pub const KEEP_NAME: u8 = 1;
/// Its attributes may be kept: the file is a directory that is watched, or the directory in which it is named shows their
/// changes.
pub const KEEP_ATTR: u8 = 2;
/// In an Rlookup or Rlist, besides [`KEEP_ATTR`]: the file has no extended attributes.
pub const LACKS_XATTRS: u8 = 4;
/// In an Rreplay: the data is that of the file; of a listing: it is told to who opens the directory.
pub const KEEP_DATA: u8 = 8;
/// The longest link target in an Rlookup or Rlist.
pub const MAX_TARGET: usize = 256;
/// The most bytes of a file that come with its open.
pub const MAX_FIRST: u32 = 128 * 1024;
/// The most bytes of files in an Rfetch.
pub const MAX_FETCHED: usize = 64 * 1024;
/// The attributes of a name in the directory have changed; without a name, those of the directory itself.
pub const FORGET_ATTR: u8 = 0;
/// The name refers to another file or to none, and so the attributes of the directory have changed too. Without a name,
/// any may.
pub const FORGET_NAME: u8 = 1;
/// The directory is not watched any more.
pub const FORGET_DIR: u8 = 2;
/// The directory has been removed, and its number may become that of another.
pub const FORGET_REMOVED: u8 = 3;
/// Everything.
pub const FORGET_ALL: u8 = 4;

/// One name in the data of an Rlist: `kind[1] name[s] qid[13] kept[1]`, and if `kept` is not 0, the body of an Rgetattr and
/// `target[s]`, as in an Rlookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListEntry<'a> {
    /// `DT_*` of readdir(3).
    pub kind: u8,
    /// The name, which may be `.` or `..`.
    pub name: Str<'a>,
    /// The file; the version means nothing here.
    pub qid: Qid,
    /// The attributes, if they may be kept.
    pub attr: Option<Attr>,
    /// Whether it has no extended attributes; only with `attr`.
    pub lacks_xattrs: bool,
    /// What it leads to, if it is a symbolic link; only with `attr`.
    pub target: Str<'a>,
}

impl<'a> Wire<'a> for ListEntry<'a> {
    fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed> {
        let mut entry = Self {
            kind: Wire::get(from)?,
            name: Wire::get(from)?,
            qid: Wire::get(from)?,
            attr: None,
            lacks_xattrs: false,
            target: Str::default(),
        };
        let kept = u8::get(from)?;
        if kept != 0 {
            entry.attr = Some(Wire::get(from)?);
            entry.lacks_xattrs = kept & LACKS_XATTRS != 0;
            entry.target = Wire::get(from)?;
        }
        Ok(entry)
    }
    fn put(&self, to: &mut Frame) {
        self.kind.put(to);
        self.name.put(to);
        self.qid.put(to);
        let Some(attr) = &self.attr else {
            return 0_u8.put(to);
        };
        let lacks_xattrs = if self.lacks_xattrs { LACKS_XATTRS } else { 0 };
        (KEEP_ATTR | lacks_xattrs).put(to);
        attr.put(to);
        self.target.put(to);
    }
}

/// One file in the data of an Rfetch: `version[4] count[4] data[count]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedFile<'a> {
    /// The version of its qid. With 0, there is nothing of it.
    pub version: u32,
    /// All of it.
    pub data: Data<'a>,
}

impl<'a> Wire<'a> for FetchedFile<'a> {
    fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            version: Wire::get(from)?,
            data: Wire::get(from)?,
        })
    }
    fn put(&self, to: &mut Frame) {
        self.version.put(to);
        self.data.put(to);
    }
}

/// One value in the data of an Rreplay. It says what the reply to a request would say, and may be kept as this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayRecord<'a> {
    /// The qid path of a directory.
    pub dir: u64,
    /// A name in it. If it is empty, this is its listing: the data is that of an Rlist.
    pub name: Str<'a>,
    /// As in an Rlookup, and perhaps [`KEEP_DATA`].
    pub kept: u8,
    /// As in an Rlookup.
    pub ecode: u32,
    /// As in an Rlookup.
    pub attr: Attr,
    /// As in an Rlookup.
    pub target: Str<'a>,
    /// Where the data is in the file.
    pub offset: u64,
    /// Contents of the file, of the version that is in `attr`.
    pub data: Data<'a>,
}

impl<'a> Wire<'a> for ReplayRecord<'a> {
    fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            dir: Wire::get(from)?,
            name: Wire::get(from)?,
            kept: Wire::get(from)?,
            ecode: Wire::get(from)?,
            attr: Wire::get(from)?,
            target: Wire::get(from)?,
            offset: Wire::get(from)?,
            data: Wire::get(from)?,
        })
    }
    fn put(&self, to: &mut Frame) {
        self.dir.put(to);
        self.name.put(to);
        self.kept.put(to);
        self.ecode.put(to);
        self.attr.put(to);
        self.target.put(to);
        self.offset.put(to);
        self.data.put(to);
    }
}
