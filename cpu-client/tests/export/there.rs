//! A stand-in of the machine's kernel behind a relay: it walks, opens and reads as Linux does, and may look before what the
//! server has sent is delivered.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use ninep::msg::Header;
use ninep::observe::Counts;
use ninep::relay::{Relay, Upstream};
use ninep::server::Learning;
use ninep::wire::{Frame, HEADER};

use super::*;

/// What lstat(2) says of a file, as far as the contract covers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) ino: u64,
    pub(super) mode: u32,
    pub(super) nlink: u64,
    pub(super) size: u64,
    pub(super) mtime: (u64, u64),
    pub(super) ctime: (u64, u64),
    pub(super) btime: (u64, u64),
}

/// Which file it is: its number, and when it was made.
pub(super) type FileKey = (u64, (u64, u64));

impl Seen {
    pub(super) fn file(&self) -> FileKey {
        (self.ino, self.btime)
    }
}

/// `None` if there is no file.
pub(super) type Answer = Option<Seen>;

/// A kernel behind a relay. It may look before what the server has sent is delivered.
pub(super) struct There {
    pub(super) relay: Relay,
    pub(super) now: Instant,
    pub(super) socket: UnixStream,
    /// Bytes of the server that are still under way.
    pub(super) late: Vec<u8>,
    /// Of a message of which more is to arrive.
    pub(super) arriving: Vec<u8>,
    /// The tags of the relay's own requests that are not answered.
    pub(super) own: HashSet<u16>,
    /// Bytes for the kernel, up to a whole message.
    pub(super) partial: Vec<u8>,
    pub(super) replies: HashMap<u16, Vec<u8>>,
    pub(super) fids: HashSet<u32>,
    pub(super) tag: u16,
    /// Times that a reply had to be waited for.
    pub(super) waits: usize,
}

fn encoded(tag: u16, request: &Request<'_>) -> Vec<u8> {
    let mut frame = Frame::default();
    request.encode(tag, &mut frame);
    frame.finish().to_vec()
}

/// The tags of the relay's own requests begin here.
const OWN_TAGS: u16 = 0xff00;

/// Takes whole messages off the bytes; their tags.
fn tags(bytes: &mut Vec<u8>) -> impl Iterator<Item = u16> {
    std::iter::from_fn(|| {
        let header = bytes.first_chunk::<HEADER>().map(Header::decode)?;
        let size = header.size as usize;
        (bytes.len() >= size).then(|| {
            bytes.drain(..size);
            header.tag
        })
    })
}

impl There {
    /// Attached as fid 0, through a server whose requests `counts` counts.
    pub(super) fn new(export: Arc<Export>, counts: Arc<Counts>) -> Self {
        Self::learning(export, counts, None)
    }

    /// The same through one that learns.
    pub(super) fn learning(
        export: Arc<Export>,
        counts: Arc<Counts>,
        learning: Option<Arc<Learning>>,
    ) -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        std::thread::spawn(move || {
            let observer: &dyn ninep::observe::Observer = &*counts;
            let config = Config {
                observer: Some(observer),
                learning: learning.as_deref(),
                ..Config::default()
            };
            ninep::server::serve(&*export, &theirs, &theirs, &config)
        });
        let mut there = Self {
            relay: Relay::new(Upstream::Any),
            now: Instant::now(),
            socket,
            late: Vec::new(),
            arriving: Vec::new(),
            own: HashSet::new(),
            partial: Vec::new(),
            replies: HashMap::new(),
            fids: HashSet::from([0]),
            tag: 0,
            waits: 0,
        };
        let version = Request::Version {
            msize: 1 << 20,
            version: Str::new(VERSION).unwrap(),
        };
        there.send(NO_TAG, &version);
        there.wait(NO_TAG);
        there.ask(&attach(0)).unwrap();
        there
    }

    pub(super) fn send(&mut self, tag: u16, request: &Request<'_>) {
        let mut out = Vec::new();
        let bytes = Bytes::from(encoded(tag, request));
        self.relay.from_kernel(bytes, self.now, &mut out).unwrap();
        self.write(&out);
        let mut replies = Vec::new();
        self.relay.take_replies(&mut replies);
        self.pass_on(&replies);
    }

    pub(super) fn pass_on(&mut self, bytes: &[Bytes]) {
        self.partial.extend(bytes.concat());
        while let Some(header) = self.partial.first_chunk::<HEADER>().map(Header::decode) {
            let size = header.size as usize;
            if self.partial.len() < size {
                return;
            }
            let message: Vec<u8> = self.partial.drain(..size).collect();
            let twice = self.replies.insert(header.tag, message);
            assert!(twice.is_none(), "two replies to tag {}", header.tag);
        }
    }

    /// Reads what the server has sent.
    pub(super) fn receive(&mut self) {
        self.socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => panic!("the server has gone"),
                Ok(n) => self.arrived(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.socket.set_nonblocking(false).unwrap();
    }

    /// Delivers the first `n` bytes of what is under way.
    pub(super) fn deliver(&mut self, n: usize) {
        let n = n.min(self.late.len());
        let bytes: Vec<u8> = self.late.drain(..n).collect();
        let (mut out, mut requests) = (Vec::new(), Vec::new());
        self.relay
            .from_server(bytes.into(), self.now, &mut out)
            .unwrap();
        self.relay.take_requests(&mut requests);
        self.write(&requests);
        self.pass_on(&out);
        let mut replies = Vec::new();
        self.relay.take_replies(&mut replies);
        self.pass_on(&replies);
    }

    /// Delivers all that is under way, and what the relay has asked for by itself.
    pub(super) fn deliver_all(&mut self) {
        loop {
            self.receive();
            self.deliver(usize::MAX);
            if self.own.is_empty() {
                return;
            }
            self.read();
        }
    }

    pub(super) fn read(&mut self) {
        let mut buffer = [0; 16 * 1024];
        let n = self.socket.read(&mut buffer).unwrap();
        assert!(n > 0, "the server has gone");
        self.arrived(&buffer[..n]);
    }

    /// Messages for the server.
    pub(super) fn write(&mut self, messages: &[Bytes]) {
        let mut all = messages.concat();
        self.socket.write_all(&all).unwrap();
        let own = tags(&mut all).filter(|tag| (OWN_TAGS..NO_TAG).contains(tag));
        self.own.extend(own);
    }

    /// Bytes of the server.
    pub(super) fn arrived(&mut self, bytes: &[u8]) {
        self.late.extend_from_slice(bytes);
        self.arriving.extend_from_slice(bytes);
        for tag in tags(&mut self.arriving) {
            self.own.remove(&tag);
        }
    }

    pub(super) fn wait(&mut self, tag: u16) -> Vec<u8> {
        self.waits += usize::from(!self.replies.contains_key(&tag));
        loop {
            if let Some(reply) = self.replies.remove(&tag) {
                return reply;
            }
            if !self.late.is_empty() {
                self.deliver(usize::MAX);
                continue;
            }
            self.read();
            self.deliver(usize::MAX);
        }
    }

    pub(super) fn new_tag(&mut self) -> u16 {
        self.tag = (self.tag + 1) % 1000;
        self.tag
    }

    pub(super) fn ask(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        let tag = self.new_tag();
        self.send(tag, request);
        let reply = self.wait(tag);
        match Reply::decode(reply[4], &reply[HEADER..]).unwrap() {
            Reply::Error { ecode } => Err(Errno::from_raw(ecode.try_into().unwrap())),
            _ => Ok(reply),
        }
    }

    pub(super) fn new_fid(&mut self) -> u32 {
        let fid = (1..10_000).find(|fid| !self.fids.contains(fid)).unwrap();
        self.fids.insert(fid);
        fid
    }

    pub(super) fn clunk(&mut self, fid: u32) {
        self.fids.remove(&fid);
        self.ask(&Request::Clunk { fid }).unwrap();
    }

    /// Walks name by name, as Linux does.
    pub(super) fn walk(&mut self, path: &str) -> Result<u32, Errno> {
        let mut at = self.new_fid();
        self.ask(&walk_one(0, at, "")).unwrap();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let next = self.new_fid();
            let walked = self.ask(&walk_one(at, next, name));
            self.clunk(at);
            if let Err(errno) = walked {
                self.fids.remove(&next);
                return Err(errno);
            }
            at = next;
        }
        Ok(at)
    }

    pub(super) fn getattr(&mut self, fid: u32) -> Result<Seen, Errno> {
        let mask = Attr::BASIC;
        let reply = self.ask(&Request::Getattr { fid, mask })?;
        match Reply::decode(reply[4], &reply[HEADER..]).unwrap() {
            Reply::Getattr { attr } => Ok(Seen {
                ino: attr.qid.path.wrapping_add(2),
                mode: attr.mode,
                nlink: attr.nlink,
                size: attr.size,
                mtime: (attr.mtime.sec, attr.mtime.nsec),
                ctime: (attr.ctime.sec, attr.ctime.nsec),
                btime: (attr.btime.sec, attr.btime.nsec),
            }),
            other => panic!("{other:?}"),
        }
    }

    /// lstat(2), again if the file has gone in the middle, as Linux does.
    pub(super) fn stat(&mut self, path: &str) -> Answer {
        for _ in 0..5 {
            let fid = match self.walk(path) {
                Ok(fid) => fid,
                Err(Errno::ENOENT | Errno::ENOTDIR) => return None,
                Err(Errno::ESTALE) => continue,
                Err(errno) => panic!("{path}: {errno}"),
            };
            let seen = self.getattr(fid);
            self.clunk(fid);
            match seen {
                Ok(seen) if seen.nlink > 0 => return Some(seen),
                Ok(_) | Err(Errno::ESTALE) => {}
                Err(errno) => panic!("{path}: {errno}"),
            }
        }
        panic!("{path} is never found");
    }

    /// Opens a file to be read, again if it has gone in the middle, as Linux does. `None` if there is none.
    pub(super) fn open(&mut self, path: &str) -> Option<(u32, Seen)> {
        for _ in 0..5 {
            let fid = match self.walk(path) {
                Ok(fid) => fid,
                Err(Errno::ENOENT | Errno::ENOTDIR) => return None,
                Err(Errno::ESTALE) => continue,
                Err(errno) => panic!("{path}: {errno}"),
            };
            match self.getattr(fid) {
                Ok(seen) if seen.mode & 0o170_000 != 0o100_000 => {
                    self.clunk(fid);
                    return None;
                }
                Ok(seen) => match self.ask(&Request::Lopen { fid, flags: RDONLY }) {
                    Ok(_) => return Some((fid, seen)),
                    Err(Errno::ESTALE) => {}
                    Err(errno) => panic!("{path}: {errno}"),
                },
                Err(Errno::ESTALE) => {}
                Err(errno) => panic!("{path}: {errno}"),
            }
            self.clunk(fid);
        }
        panic!("{path} is never found");
    }

    /// pread(2).
    pub(super) fn pread(&mut self, fid: u32, offset: u64, count: u32) -> Vec<u8> {
        let reply = self.ask(&Request::Read { fid, offset, count }).unwrap();
        match Reply::decode(reply[4], &reply[HEADER..]).unwrap() {
            Reply::Read { data } => data.0.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// All that can be read of an open file, in pieces.
    pub(super) fn read_all(&mut self, fid: u32, count: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let piece = self.pread(fid, all.len() as u64, count);
            if piece.is_empty() {
                return all;
            }
            all.extend(piece);
        }
    }

    /// cat(1).
    pub(super) fn cat(&mut self, path: &str) -> Option<Vec<u8>> {
        let (fid, _) = self.open(path)?;
        let all = self.read_all(fid, 20);
        self.clunk(fid);
        Some(all)
    }

    /// The names in a directory, without `.` and `..`.
    pub(super) fn list(&mut self, path: &str) -> Result<Vec<String>, Errno> {
        let fid = self.walk(path)?;
        let flags = OpenFlags::DIRECTORY;
        let opened = self.ask(&Request::Lopen { fid, flags });
        if let Err(errno) = opened {
            self.clunk(fid);
            return Err(errno);
        }
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let count = 200;
            let reply = self.ask(&Request::Readdir { fid, offset, count }).unwrap();
            let data = match Reply::decode(reply[4], &reply[HEADER..]).unwrap() {
                Reply::Readdir { data } => data.0,
                other => panic!("{other:?}"),
            };
            if data.is_empty() {
                break;
            }
            let mut rest = BodyReader::new(data);
            while !rest.is_empty() {
                let entry = DirEntry::get(&mut rest).unwrap();
                offset = entry.offset;
                names.push(String::from_utf8(entry.name.bytes().to_vec()).unwrap());
            }
        }
        self.clunk(fid);
        names.retain(|name| !matches!(&**name, "." | ".."));
        names.sort();
        Ok(names)
    }

    /// A request that concerns a file, which is walked to.
    pub(super) fn on<T>(
        &mut self,
        path: &str,
        work: impl FnOnce(&mut Self, u32) -> T,
    ) -> Option<T> {
        let fid = self.walk(path).ok()?;
        let done = work(self, fid);
        self.clunk(fid);
        Some(done)
    }
}

pub(super) fn walk_one(fid: u32, newfid: u32, name: &str) -> Request<'_> {
    ninep_testing::walk(fid, newfid, name)
}

/// lstat(2) here.
pub(super) fn here(path: &std::path::Path) -> Answer {
    let stat = fs::symlink_metadata(path).ok()?;
    // Not every file system has it.
    let btime = stat.created().unwrap_or(UNIX_EPOCH);
    let btime = btime.duration_since(UNIX_EPOCH).unwrap();
    Some(Seen {
        ino: stat.ino(),
        mode: stat.mode(),
        nlink: stat.nlink(),
        size: stat.size(),
        mtime: (
            stat.mtime().cast_unsigned(),
            stat.mtime_nsec().cast_unsigned(),
        ),
        ctime: (
            stat.ctime().cast_unsigned(),
            stat.ctime_nsec().cast_unsigned(),
        ),
        btime: (btime.as_secs(), btime.subsec_nanos().into()),
    })
}
