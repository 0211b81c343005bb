//! Stands between Linux's FUSE and a 9P server: a mount of the client's files for kernels that have no 9P client.
//!
//! The kernel writes requests of `linux/fuse.h` into /dev/fuse. Each becomes one or several requests of 9P, one after the other,
//! as Linux's own 9P client sends them, so that [`relay`](crate::relay) saves the same round trips for both. No I/O and no clock:
//! the caller reads and writes.
//!
//! * The kernel's number of a file stands for a fid (`nodes.rs`), its number of an open file is the number of a fid.
//! * Nothing is kept here: the relay knows what may be kept. The kernel may keep for [`KERNEL_TTL`] what the relay has answered itself,
//!   since otherwise it asks for each name of a path each time. So whoever delivers what was sent after a change of the client's
//!   files has to wait for so long, [`KERNEL_TTL_END`], after the relay has forgotten something.
//! * A request that a signal interrupts is flushed, and fails with `EINTR` if the server has not done it.

mod abi;
mod failure;
mod init;
mod listing;
mod lock;
mod make;
mod nodes;
mod place;
mod reply;
mod request;
mod xattr;

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::errno::Errno;
use crate::msg::{NO_TAG, Request};
use crate::relay::Error;
use crate::relay::framer::{Framer, Segment};
use crate::wire::Frame;
use abi::ReplyWriter;
use nodes::{FidPool, Location, Nodes};

/// Largest request of the kernel beyond the data of a write: a header, fields, two names.
pub const REQUEST_OVERHEAD: usize = 16 * 1024;

/// How long the kernel keeps a name and attributes that the relay has answered itself.
pub const KERNEL_TTL: Duration = Duration::from_millis(10);

/// When it has certainly forgotten them: it reckons in ticks of up to 10 ms, and rounds up.
pub const KERNEL_TTL_END: Duration = Duration::from_millis(25);

/// What the kernel may keep of a mount, and who mounts it.
#[derive(Debug, Clone, Default)]
pub struct FuseOptions {
    /// The user's name, for the attach.
    pub uname: Vec<u8>,
    /// New files of other users than root are given to them: with a server that is root's.
    pub own: bool,
    /// Whether pages that are mapped are kept, without which there are no shared mappings.
    pub pages: bool,
    /// Whether names and attributes are kept for as long as the mount exists.
    pub loose: bool,
    /// Largest message of 9P to propose, in bytes.
    pub msize: u32,
}

/// A reply for the kernel, to be written with one writev(2).
#[derive(Debug)]
pub struct FuseReply {
    /// The header, and what is not data.
    pub head: Vec<u8>,
    /// What follows it.
    pub data: Bytes,
}

impl FuseReply {
    /// In place of this reply, if the kernel finds it impossible: an error.
    pub fn refusal(&self) -> Vec<u8> {
        let unique = self.head.get(8..16).and_then(<[u8]>::first_chunk);
        let unique = unique.map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        ReplyWriter::new(unique, Errno::EIO.raw()).finish(0)
    }
}

/// The front of one mount.
#[derive(Debug)]
pub struct FuseFront {
    options: FuseOptions,
    /// Most bytes of a read or write.
    payload: u32,
    /// Flags of a reply to an open.
    open_flags: u32,
    nodes: Nodes,
    fids: FidPool,
    /// Who has locked a file, by its number.
    lock_holders: HashMap<u64, Vec<LockHolder>>,
    /// Requests that the server has not answered, by tag.
    pending: Vec<Option<Pending>>,
    free_tags: Vec<u16>,
    /// The number of requests sent so far.
    sent: u64,
    /// Whether the operation at hand has had no other replies than the relay's own.
    is_kept: bool,
    /// The version and the INIT that waits for it.
    init: Option<Op>,
    /// Locks that somebody else holds or has just released, to be requested again.
    blocked: Vec<Op>,
    requests: Vec<Bytes>,
    replies: Vec<FuseReply>,
    incoming: Framer,
    frame: Frame,
}

/// Who holds a lock, in the kernel's number and 9P's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LockHolder {
    owner: u64,
    proc_id: u32,
    /// The open file through which it has locked first.
    fid: u32,
}

/// A request of 9P under way.
#[derive(Debug)]
struct Pending {
    op: Op,
    /// Its number among all.
    sequence: u64,
    is_kept: bool,
}

/// A request of the kernel under way.
#[derive(Debug)]
struct Op {
    /// The kernel's number of it; 0 if the kernel waits for no reply.
    unique: u64,
    step: FuseStep,
}

/// What has been asked of the server for an [`Op`]. A `fid` is one that this step makes or uses up.
#[derive(Debug)]
enum FuseStep {
    Version {
        kernel_flags: u64,
        minor: u32,
        readahead: u32,
    },
    Attach {
        kernel_flags: u64,
        minor: u32,
        readahead: u32,
    },
    /// The walk of a look-up, then its attributes. `owner`: a new file, to be given to this user and group.
    Walk {
        place: Location,
        fid: u32,
        owner: Option<(u32, u32)>,
    },
    Own {
        place: Location,
        fid: u32,
    },
    EntryAttr {
        place: Location,
        fid: u32,
    },
    /// The walk to a file that had no fid, for this request of the kernel.
    WalkAgain {
        node: u64,
        fid: u32,
        request: Bytes,
    },
    /// Something with a name is being made in a directory.
    Make {
        place: Location,
        owner: Option<(u32, u32)>,
    },
    CreateClone {
        place: Location,
        fid: u32,
        flags: u32,
        mode: u32,
        gid: u32,
        owner: Option<(u32, u32)>,
    },
    /// `exclusive`: the kernel has asked that there be no such file.
    Create {
        exclusive: bool,
        place: Location,
        fid: u32,
        owner: Option<(u32, u32)>,
    },
    CreateWalk {
        place: Location,
        open: u32,
        fid: u32,
        path: u64,
        owner: Option<(u32, u32)>,
    },
    CreateOwn {
        place: Location,
        open: u32,
        fid: u32,
        path: u64,
    },
    CreateAttr {
        place: Location,
        open: u32,
        fid: u32,
        path: u64,
    },
    Getattr {
        node: u64,
    },
    Setattr {
        node: u64,
        fid: u32,
    },
    OpenClone {
        node: u64,
        fid: u32,
        flags: u32,
        is_dir: bool,
    },
    Open {
        node: u64,
        fid: u32,
        is_dir: bool,
    },
    Read {
        node: u64,
        fid: u32,
        offset: u64,
        size: u32,
        got: BytesMut,
    },
    Write,
    Readdir {
        max: usize,
    },
    Readlink,
    Statfs,
    Rename {
        from: Location,
        to: Location,
    },
    /// The reply has no fields.
    Done,
    XattrWalk {
        fid: u32,
        size: u32,
    },
    XattrRead {
        fid: u32,
        length: u32,
        got: BytesMut,
    },
    XattrClone {
        fid: u32,
        name: Box<[u8]>,
        value: Bytes,
        flags: u32,
    },
    XattrCreate {
        fid: u32,
        value: Bytes,
    },
    XattrWrite {
        fid: u32,
    },
    /// The end of a fid. Its number is free afterwards. `unlocks`: it ends locks of this file.
    Clunk {
        fid: u32,
        unlocks: Option<u64>,
    },
    Lock {
        lock: LockRequest,
        waits: bool,
    },
    Getlock,
    /// A flush of the request with this tag for the operation `of`, if that is still the one with this number.
    Flush {
        of: u64,
        tag: u16,
        sequence: u64,
    },
}

/// A lock that is requested.
#[derive(Debug, Clone, Copy)]
struct LockRequest {
    fid: u32,
    kind: u8,
    start: u64,
    length: u64,
    holder: LockHolder,
}

/// As long as a session may take.
const LOOSE: Duration = Duration::from_hours(365 * 24);

/// The fid of the root.
const ROOT_FID: u32 = 0;

impl FuseFront {
    /// A front for a new mount.
    pub fn new(options: FuseOptions) -> Self {
        let mut fids = FidPool::default();
        let _root = fids.take();
        Self {
            options,
            payload: 0,
            open_flags: 0,
            nodes: Nodes::default(),
            fids,
            lock_holders: HashMap::new(),
            pending: Vec::new(),
            free_tags: Vec::new(),
            sent: 0,
            is_kept: false,
            init: None,
            blocked: Vec::new(),
            requests: Vec::new(),
            replies: Vec::new(),
            incoming: Framer::default(),
            frame: Frame::default(),
        }
    }

    /// Takes bytes of the 9P server, or replies of the relay itself, if they are `kept`.
    pub fn from_server(&mut self, mut chunk: Bytes, kept: bool) -> Result<(), Error> {
        let max = usize::try_from(self.options.msize).unwrap_or(usize::MAX);
        while let Some(segment) = self.incoming.next(&mut chunk, |_| Some(max))? {
            if let Segment::Whole(header, message) = segment {
                self.reply(header, &message, kept);
            }
        }
        Ok(())
    }

    /// Requests for the server, in order.
    pub fn take_requests(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.requests)
    }

    /// Whether there are some.
    pub fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Replies for the kernel.
    pub fn take_replies(&mut self) -> Vec<FuseReply> {
        std::mem::take(&mut self.replies)
    }

    /// Whether a lock is waited for: then [`FuseFront::retry_locks`] has to be called about once a second.
    pub fn has_blocked_locks(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// Requests once more the locks that somebody else holds.
    pub fn retry_locks(&mut self) {
        for op in std::mem::take(&mut self.blocked) {
            if let FuseStep::Lock { lock, waits } = op.step {
                self.send_lock(op.unique, lock, waits);
            }
        }
    }

    /// Sends a request for an operation.
    fn send(&mut self, unique: u64, step: FuseStep, request: &Request<'_>) {
        let tag = self.begin(Op { unique, step });
        let Some(tag) = tag else { return };
        request.encode(tag, &mut self.frame);
        let message = Bytes::copy_from_slice(self.frame.finish());
        self.requests.push(message);
    }

    /// A tag for the next request of an operation. None if there are too many, which the kernel is told.
    fn begin(&mut self, op: Op) -> Option<u16> {
        self.sent += 1;
        let tag = self.free_tags.pop().or_else(|| {
            let next = u16::try_from(self.pending.len()).ok();
            let next = next.filter(|&tag| tag != NO_TAG);
            self.pending.push(None);
            next
        });
        let place = tag.and_then(|tag| self.pending.get_mut(usize::from(tag)));
        let Some(place) = place else {
            self.pending.truncate(NO_TAG.into());
            self.fail(op.unique, Errno::EAGAIN);
            return None;
        };
        let sequence = self.sent;
        let is_kept = self.is_kept;
        *place = Some(Pending {
            op,
            sequence,
            is_kept,
        });
        tag
    }

    /// Ends a fid, which may or may not exist, and frees its number. The kernel is told when `unique` is not 0.
    fn clunk(&mut self, unique: u64, fid: u32) {
        let unlocks = None;
        let step = FuseStep::Clunk { fid, unlocks };
        self.send(unique, step, &Request::Clunk { fid });
    }

    /// For how long the kernel keeps what it is told now.
    fn ttl(&self) -> Duration {
        match (self.options.loose, self.is_kept) {
            (true, _) => LOOSE,
            (false, true) => KERNEL_TTL,
            (false, false) => Duration::ZERO,
        }
    }

    fn answer(&mut self, unique: u64, body: impl FnOnce(&mut ReplyWriter)) {
        if unique != 0 {
            let mut out = ReplyWriter::new(unique, 0);
            body(&mut out);
            let (head, data) = (out.finish(0), Bytes::new());
            self.replies.push(FuseReply { head, data });
        }
    }

    fn answer_data(&mut self, unique: u64, data: Bytes) {
        let head = ReplyWriter::new(unique, 0).finish(data.len());
        self.replies.push(FuseReply { head, data });
    }

    fn fail(&mut self, unique: u64, errno: Errno) {
        if unique != 0 {
            let number = match errno.raw() {
                // With this one the kernel never asks again.
                n if n == Errno::ENOSYS.raw() => Errno::EOPNOTSUPP.raw(),
                // Those of the kernel itself.
                n if n >= 512 => Errno::EIO.raw(),
                n => n,
            };
            self.refuse(unique, number);
        }
    }

    /// Fails with this very number.
    fn refuse(&mut self, unique: u64, errno: u32) {
        let (head, data) = (ReplyWriter::new(unique, errno).finish(0), Bytes::new());
        self.replies.push(FuseReply { head, data });
    }
}

#[cfg(test)]
mod tests;
