//! Every message of 9P2000.L, as one table.
//!
//! A row of the table: the type number of the request (that of its reply is one more), the name, the name in traces,
//! the fields of the request and the fields of the reply, in their order on the wire. From it the macro generates
//! [`Kind`], [`Request`] and [`Reply`] with their decoding and encoding. The fields are those of
//! `include/net/9p/9p.h` and `net/9p/client.c` of the Linux kernel. A message is `size[4] type[1] tag[2]`, then its
//! body. The last rows are those of [`EXTENDED`] (Walkgetattr) and of [`WATCHED`] (the others).

mod dialects;

#[cfg(test)]
use crate::wire::sample::{Entropy, Sample};
use crate::wire::{BodyReader, Data, Frame, HEADER, Malformed, Name, Str, WalkVec, Wire};

pub use dialects::*;

/// The version string of the dialect.
pub const VERSION: &[u8] = b"9P2000.L";
/// The tag of [`Request::Version`], and in [`EXTENDED`] of requests without a reply.
pub const NO_TAG: u16 = !0;
/// The first tag of what the machine asks for by itself. The kernel takes the lowest that are free.
pub const OWN_TAGS: u16 = 0xff00;
/// No fid: the `afid` of an attach without authentication.
pub const NO_FID: u32 = !0;
/// No user: in an attach that names none, or a setattr that leaves the owner alone.
pub const NO_ID: u32 = !0;

macro_rules! structs {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

        impl<'a> Wire<'a> for $name {
            fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed> {
                Ok(Self { $($field: Wire::get(from)?,)* })
            }
            fn put(&self, to: &mut Frame) {
                $(self.$field.put(to);)*
            }
        }

        #[cfg(test)]
        impl<'a> Sample<'a> for $name {
            fn sample(from: &mut Entropy<'a>) -> Self {
                Self { $($field: Sample::sample(from),)* }
            }
        }
    )*};
}

structs! {
    /// Identifies a file to the peer.
    pub struct Qid {
        /// [`Qid::DIR`], [`Qid::SYMLINK`] or [`Qid::FILE`].
        kind: u8,
        /// Changes whenever the file does; 0 tells the peer not to cache it.
        version: u32,
        /// Like an inode number: two names have the same one exactly if they are the same file.
        path: u64,
    }

    /// A time since 1970. Earlier times have their seconds in two's complement.
    pub struct Time {
        /// Seconds.
        sec: u64,
        /// Nanoseconds, below 10⁹.
        nsec: u64,
    }

    /// The result of a getattr: that of stat(2), and which of its fields are valid.
    pub struct Attr {
        /// `P9_STATS_*` of the valid fields.
        valid: u64,
        /// The file.
        qid: Qid,
        /// Type and permissions.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Hard links.
        nlink: u64,
        /// Device number of a device, packed as by the kernel's `new_encode_dev`.
        rdev: u64,
        /// Bytes.
        size: u64,
        /// Preferred size of a read or write in bytes.
        blksize: u64,
        /// Units of 512 bytes.
        blocks: u64,
        /// Last read.
        atime: Time,
        /// Last change of the contents.
        mtime: Time,
        /// Last change of anything.
        ctime: Time,
        /// Creation.
        btime: Time,
        /// Generation of the inode.
        generation: u64,
        /// Version of the contents.
        data_version: u64,
    }

    /// The changes that a setattr asks for.
    pub struct SetAttr {
        /// `P9_ATTR_*`: the constants of this type.
        valid: u32,
        /// New permissions, with [`SetAttr::MODE`].
        mode: u32,
        /// New owner, with [`SetAttr::UID`].
        uid: u32,
        /// New group, with [`SetAttr::GID`].
        gid: u32,
        /// New size in bytes, with [`SetAttr::SIZE`].
        size: u64,
        /// New time of the last read, with [`SetAttr::ATIME_SET`].
        atime: Time,
        /// New time of the last change, with [`SetAttr::MTIME_SET`].
        mtime: Time,
    }

    /// The result of a statfs, in the units of statfs(2).
    pub struct Statfs {
        /// Magic number of the file system.
        magic: u32,
        /// Size of a block in bytes.
        bsize: u32,
        /// Blocks.
        blocks: u64,
        /// Free blocks.
        bfree: u64,
        /// Free blocks for users without privilege.
        bavail: u64,
        /// Inodes.
        files: u64,
        /// Free inodes.
        ffree: u64,
        /// Identifier of the file system.
        fsid: u64,
        /// Longest name in bytes.
        namelen: u32,
    }

    /// A record lock, requested or found.
    pub struct Flock {
        /// [`Flock::READ`], [`Flock::WRITE`] or [`Flock::UNLOCK`].
        kind: u8,
        /// First byte.
        start: u64,
        /// Bytes; 0 is up to the end, however far the file grows.
        length: u64,
        /// The process that requests or holds it.
        proc_id: u32,
    }

    /// What became of the files that a relay fetched before anybody asked for them.
    pub struct FetchTotals {
        /// Files that arrived.
        files: u32,
        /// Their bytes.
        bytes: u64,
        /// Those of them that were opened or read.
        used_files: u32,
        /// The bytes of these.
        used_bytes: u64,
    }
}

impl Qid {
    /// A directory.
    pub const DIR: u8 = 0x80;
    /// A symbolic link.
    pub const SYMLINK: u8 = 0x02;
    /// Anything else.
    pub const FILE: u8 = 0;
}

impl Attr {
    /// `P9_STATS_BASIC`: all of stat(2).
    pub const BASIC: u64 = 0x7ff;
    /// `P9_STATS_BTIME`.
    pub const BTIME: u64 = 0x800;
    /// `P9_STATS_ALL`.
    pub const ALL: u64 = 0x3fff;
}

impl SetAttr {
    /// Change the permissions.
    pub const MODE: u32 = 1;
    /// Change the owner.
    pub const UID: u32 = 1 << 1;
    /// Change the group.
    pub const GID: u32 = 1 << 2;
    /// Change the size.
    pub const SIZE: u32 = 1 << 3;
    /// Change the access time: to the current time, or with [`SetAttr::ATIME_SET`] to the given one.
    pub const ATIME: u32 = 1 << 4;
    /// Change the modification time: to the current time, or with [`SetAttr::MTIME_SET`] to the given one.
    pub const MTIME: u32 = 1 << 5;
    /// Change the status change time to the current time.
    pub const CTIME: u32 = 1 << 6;
    /// The access time is given.
    pub const ATIME_SET: u32 = 1 << 7;
    /// The modification time is given.
    pub const MTIME_SET: u32 = 1 << 8;
}

impl Flock {
    /// A shared lock.
    pub const READ: u8 = 0;
    /// An exclusive lock.
    pub const WRITE: u8 = 1;
    /// No lock.
    pub const UNLOCK: u8 = 2;
}

macro_rules! messages {
    ($($number:literal $name:ident $label:literal
        { $($tfield:ident: $ttype:ty),* } { $($rfield:ident: $rtype:ty),* })*) => {
        /// The kind of a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "described by the table")]
        pub enum Kind { $($name = $number,)* }

        impl Kind {
            /// All kinds, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// From the type byte of a request.
            pub fn new(number: u8) -> Result<Self, Malformed> {
                match number {
                    $($number => Ok(Self::$name),)*
                    _ => Err(Malformed::Unknown(number)),
                }
            }

            /// The type byte of the request; that of the reply is one more.
            pub fn number(self) -> u8 {
                self as u8
            }

            /// The name in traces and counts. Kinds that do the same share one.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }

        /// A message of the client, its strings borrowed from the bytes that arrived.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "described by the table")]
        pub enum Request<'a> { $($name { $($tfield: $ttype,)* },)* }

        impl<'a> Request<'a> {
            /// The kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$name { .. } => Kind::$name,)* }
            }

            /// A request of this kind with arbitrary fields.
            #[cfg(test)]
            fn sample(kind: Kind, from: &mut Entropy<'a>) -> Self {
                match kind { $(Kind::$name => Self::$name { $($tfield: Sample::sample(from),)* },)* }
            }

            /// Decodes the body of a message, which must contain exactly these fields.
            pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Self, Malformed> {
                let mut from = BodyReader::new(body);
                let request = match kind {
                    $(Kind::$name => Self::$name { $($tfield: Wire::get(&mut from)?,)* },)*
                };
                from.finish()?;
                Ok(request)
            }

            /// Encodes a whole message.
            pub fn encode(&self, tag: u16, to: &mut Frame) {
                to.start(self.kind().number(), tag);
                match self {
                    $(Self::$name { $($tfield,)* } => { $($tfield.put(to);)* })*
                }
                to.finish();
            }
        }

        /// A message of the server.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "described by the table")]
        #[expect(clippy::large_enum_variant, reason = "lives on the stack; a walk has no heap")]
        pub enum Reply<'a> {
            /// Rlerror, type 7: the reply to any request that fails, with a Linux error number.
            Error { ecode: u32 },
            $($name { $($rfield: $rtype,)* },)*
        }

        impl<'a> Reply<'a> {
            /// The type byte of an error.
            pub const ERROR: u8 = 7;

            /// The type byte.
            pub fn number(&self) -> u8 {
                match self {
                    Self::Error { .. } => Self::ERROR,
                    $(Self::$name { .. } => $number + 1,)*
                }
            }

            /// The reply to this kind of request, with arbitrary fields.
            #[cfg(test)]
            fn sample(kind: Kind, from: &mut Entropy<'a>) -> Self {
                match kind { $(Kind::$name => Self::$name { $($rfield: Sample::sample(from),)* },)* }
            }

            /// Decodes the body of a message of this type, which must contain exactly its fields.
            pub fn decode(number: u8, body: &'a [u8]) -> Result<Self, Malformed> {
                let mut from = BodyReader::new(body);
                let reply = match number {
                    Self::ERROR => Self::Error { ecode: Wire::get(&mut from)? },
                    $(n if n == $number + 1 => Self::$name { $($rfield: Wire::get(&mut from)?,)* },)*
                    _ => return Err(Malformed::Unknown(number)),
                };
                from.finish()?;
                Ok(reply)
            }

            /// Encodes a whole message.
            pub fn encode(&self, tag: u16, to: &mut Frame) {
                to.start(self.number(), tag);
                match self {
                    Self::Error { ecode } => ecode.put(to),
                    $(Self::$name { $($rfield,)* } => { $($rfield.put(to);)* })*
                }
                to.finish();
            }
        }
    };
}

messages! {
    8   Statfs      "statfs"      { fid: u32 } { stat: Statfs }
    12  Lopen       "open"        { fid: u32, flags: u32 } { qid: Qid, iounit: u32 }
    14  Lcreate     "create"      { fid: u32, name: Name<'a>, flags: u32, mode: u32, gid: u32 } { qid: Qid, iounit: u32 }
    16  Symlink     "symlink"     { dfid: u32, name: Name<'a>, target: Str<'a>, gid: u32 } { qid: Qid }
    18  Mknod       "mknod"       { dfid: u32, name: Name<'a>, mode: u32, major: u32, minor: u32, gid: u32 } { qid: Qid }
    20  Rename      "rename"      { fid: u32, dfid: u32, name: Name<'a> } {}
    22  Readlink    "readlink"    { fid: u32 } { target: Str<'a> }
    24  Getattr     "getattr"     { fid: u32, mask: u64 } { attr: Attr }
    26  Setattr     "setattr"     { fid: u32, attr: SetAttr } {}
    30  Xattrwalk   "xattrwalk"   { fid: u32, newfid: u32, name: Str<'a> } { size: u64 }
    32  Xattrcreate "xattrcreate" { fid: u32, name: Str<'a>, size: u64, flags: u32 } {}
    40  Readdir     "readdir"     { fid: u32, offset: u64, count: u32 } { data: Data<'a> }
    50  Fsync       "fsync"       { fid: u32, datasync: u32 } {}
    52  Lock        "lock"        { fid: u32, kind: u8, flags: u32, start: u64, length: u64, proc_id: u32, client_id: Str<'a> } { status: u8 }
    54  Getlock     "getlock"     { fid: u32, lock: Flock, client_id: Str<'a> } { lock: Flock, client_id: Str<'a> }
    70  Link        "link"        { dfid: u32, fid: u32, name: Name<'a> } {}
    72  Mkdir       "mkdir"       { dfid: u32, name: Name<'a>, mode: u32, gid: u32 } { qid: Qid }
    74  Renameat    "rename"      { olddirfid: u32, oldname: Name<'a>, newdirfid: u32, newname: Name<'a> } {}
    76  Unlinkat    "unlink"      { dfid: u32, name: Name<'a>, flags: u32 } {}
    100 Version     "version"     { msize: u32, version: Str<'a> } { msize: u32, version: Str<'a> }
    102 Auth        "auth"        { afid: u32, uname: Str<'a>, aname: Str<'a>, n_uname: u32 } { aqid: Qid }
    104 Attach      "attach"      { fid: u32, afid: u32, uname: Str<'a>, aname: Str<'a>, n_uname: u32 } { qid: Qid }
    108 Flush       "flush"       { oldtag: u16 } {}
    110 Walk        "walk"        { fid: u32, newfid: u32, names: WalkVec<Name<'a>> } { qids: WalkVec<Qid> }
    116 Read        "read"        { fid: u32, offset: u64, count: u32 } { data: Data<'a> }
    118 Write       "write"       { fid: u32, offset: u64, data: Data<'a> } { count: u32 }
    120 Clunk       "clunk"       { fid: u32 } {}
    122 Remove      "remove"      { fid: u32 } {}
    126 Walkgetattr "walk"        { fid: u32, newfid: u32, name: Name<'a> } { attr: Attr }
    128 Lookup      "walk"        { fid: u32, newfid: u32, name: Name<'a> } { kept: u8, ecode: u32, attr: Attr, target: Str<'a> }
    130 List        "list"        { fid: u32, open: u8 } { kept: u8, qid: Qid, data: Data<'a> }
    132 Bind        "bind"        { fid: u32, newfid: u32, name: Name<'a>, path: u64, btime: Time } {}
    134 Forget      "forget"      {} { what: u8, dir: u64, name: Str<'a> }
    136 Lopenread   "open"        { fid: u32, flags: u32, count: u32 } { qid: Qid, iounit: u32, version: u32, size: u64, data: Data<'a> }
    138 Fetch       "fetch"       { fid: u32, names: WalkVec<Name<'a>> } { data: Data<'a> }
    140 Tally       "tally"       { fetched: FetchTotals, answered: Data<'a> } {}
    142 Lcreategetattr "create"   { fid: u32, name: Name<'a>, flags: u32, mode: u32, gid: u32 } { qid: Qid, iounit: u32, attr: Attr }
    144 Setgetattr  "setattr"     { fid: u32, attr: SetAttr } { attr: Attr }
    146 Sync        "sync"        {} {}
    148 Replay      "fetch"       { fid: u32, count: u32 } { data: Data<'a> }
}

/// The first seven bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Size of the whole message in bytes, including the header.
    pub size: u32,
    /// Type byte.
    pub kind: u8,
    /// Matches a reply with its request.
    pub tag: u16,
}

impl Header {
    /// Decodes the first bytes of a message.
    pub fn decode(bytes: &[u8; HEADER]) -> Self {
        let &[s0, s1, s2, s3, kind, t0, t1] = bytes;
        Self {
            size: u32::from_le_bytes([s0, s1, s2, s3]),
            kind,
            tag: u16::from_le_bytes([t0, t1]),
        }
    }
}

/// One name in the data of a readdir: `qid[13] offset[8] type[1] name[s]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The file; the version means nothing here.
    pub qid: Qid,
    /// The offset at which to continue after this entry: opaque to the peer, never 0.
    pub offset: u64,
    /// `DT_*` of readdir(3).
    pub kind: u8,
    /// The name, which may be `.` or `..`.
    pub name: Str<'a>,
}

impl DirEntry<'_> {
    /// Bytes on the wire without the name.
    pub const FIXED: usize = 13 + 8 + 1 + 2;
}

impl<'a> Wire<'a> for DirEntry<'a> {
    fn get(from: &mut BodyReader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            qid: Wire::get(from)?,
            offset: Wire::get(from)?,
            kind: Wire::get(from)?,
            name: Wire::get(from)?,
        })
    }
    fn put(&self, to: &mut Frame) {
        self.qid.put(to);
        self.offset.put(to);
        self.kind.put(to);
        self.name.put(to);
    }
}

#[cfg(test)]
mod tests;
