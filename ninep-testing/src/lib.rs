//! A 9P client for tests: it sends exactly what it is told to, well-formed or not.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ninep::errno::Errno;
use ninep::fs::FileSystem;
use ninep::msg::{Header, NO_FID, NO_ID, NO_TAG, Reply, Request};
use ninep::server::{Config, Error, serve};
use ninep::wire::{Data, Frame, HEADER, Name, Str, WalkVec};

/// The client's end of a connection to a server that runs in a thread.
pub struct RawClient {
    stream: UnixStream,
    frame: Frame,
}

/// A reply, with its bytes.
pub struct RawReply {
    /// Tag of the request.
    pub tag: u16,
    /// Type byte.
    pub number: u8,
    body: Vec<u8>,
}

impl RawReply {
    /// The decoded reply.
    pub fn reply(&self) -> Reply<'_> {
        Reply::decode(self.number, &self.body).expect("a reply")
    }

    /// The errno, if the reply is an Rlerror.
    pub fn errno(&self) -> Option<Errno> {
        match self.reply() {
            Reply::Error { ecode } => Some(Errno::from_raw(ecode.try_into().unwrap())),
            _ => None,
        }
    }

    /// The bytes of an Rread or Rreaddir.
    pub fn data(&self) -> &[u8] {
        match self.reply() {
            Reply::Read { data } | Reply::Readdir { data } => data.0,
            other => panic!("no data: {other:?}"),
        }
    }
}

impl RawClient {
    /// Starts a server; no version has been agreed yet.
    pub fn start<F>(fs: Arc<F>, config: Config<'static>) -> (Self, JoinHandle<Result<(), Error>>)
    where
        F: FileSystem + Send + Sync + 'static,
    {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let server = std::thread::spawn(move || serve(&*fs, &theirs, &theirs, &config));
        let frame = Frame::default();
        (
            Self {
                stream: ours,
                frame,
            },
            server,
        )
    }

    /// Starts a server, agrees on 9P2000.L and attaches fid 0 to the root. The server's thread is detached.
    pub fn attached<F>(fs: Arc<F>, config: Config<'static>) -> Self
    where
        F: FileSystem + Send + Sync + 'static,
    {
        let (mut raw, _) = Self::start(fs, config);
        raw.version(1 << 20);
        raw.ask(&attach(0)).unwrap();
        raw
    }

    /// Agrees on 9P2000.L; returns the msize.
    pub fn version(&mut self, msize: u32) -> u32 {
        self.dialect(msize, b"9P2000.L")
    }

    /// Agrees on a dialect; returns the msize.
    pub fn dialect(&mut self, msize: u32, dialect: &[u8]) -> u32 {
        self.send(NO_TAG, &version(msize, dialect));
        match self.receive().reply() {
            Reply::Version { msize, version } => {
                assert_eq!(version.bytes(), dialect);
                msize
            }
            other => panic!("{other:?}"),
        }
    }

    /// Sends a request.
    pub fn send(&mut self, tag: u16, request: &Request<'_>) {
        request.encode(tag, &mut self.frame);
        self.stream.write_all(self.frame.finish()).unwrap();
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next reply, whatever its tag.
    pub fn receive(&mut self) -> RawReply {
        self.try_receive().expect("a reply before the end")
    }

    /// The next reply; `None` at the end of the stream.
    pub fn try_receive(&mut self) -> Option<RawReply> {
        let mut header = [0; HEADER];
        let n = self.stream.read(&mut header).ok()?;
        if n == 0 {
            return None;
        }
        self.stream.read_exact(&mut header[n..]).ok()?;
        let header = Header::decode(&header);
        let mut body = vec![0; header.size as usize - HEADER];
        self.stream.read_exact(&mut body).ok()?;
        Some(RawReply {
            tag: header.tag,
            number: header.kind,
            body,
        })
    }

    /// Sends a request with tag 1 and waits for its reply.
    pub fn ask(&mut self, request: &Request<'_>) -> Result<RawReply, Errno> {
        self.send(1, request);
        let message = self.receive();
        assert_eq!(message.tag, 1);
        match message.errno() {
            Some(errno) => Err(errno),
            None => Ok(message),
        }
    }

    /// Shuts down the sending direction.
    pub fn hang_up(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Walks to `path`; returns how many of its names exist.
    pub fn walk(&mut self, fid: u32, newfid: u32, path: &str) -> Result<usize, Errno> {
        match self.ask(&walk(fid, newfid, path))?.reply() {
            Reply::Walk { qids } => Ok(qids.len()),
            other => panic!("{other:?}"),
        }
    }

    /// Walks to `path` with `newfid` and opens it.
    pub fn open(&mut self, newfid: u32, path: &str, flags: u32) -> Result<RawReply, Errno> {
        let wanted = path.split('/').filter(|name| !name.is_empty()).count();
        if self.walk(0, newfid, path)? < wanted {
            return Err(Errno::ENOENT);
        }
        let fid = newfid;
        let opened = self.ask(&Request::Lopen { fid, flags });
        if opened.is_err() {
            self.clunk(fid).unwrap();
        }
        opened
    }

    /// Clunks a fid.
    pub fn clunk(&mut self, fid: u32) -> Result<RawReply, Errno> {
        self.ask(&Request::Clunk { fid })
    }

    /// Reads from an open fid.
    pub fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let message = self.ask(&Request::Read { fid, offset, count })?;
        Ok(message.data().to_vec())
    }

    /// Writes to an open fid; returns the bytes written.
    pub fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let data = Data(data);
        match self.ask(&Request::Write { fid, offset, data })?.reply() {
            Reply::Write { count } => Ok(count),
            other => panic!("{other:?}"),
        }
    }
}

/// A name in a directory.
pub fn name(name: &str) -> Name<'_> {
    Name::new(name.as_bytes()).expect("a name")
}

/// A string of the protocol.
pub fn text(text: &str) -> Str<'_> {
    Str::new(text.as_bytes()).expect("short enough")
}

/// A Tversion.
pub fn version(msize: u32, version: &[u8]) -> Request<'_> {
    let version = Str::new(version).unwrap();
    Request::Version { msize, version }
}

/// A Tattach to the root.
pub fn attach(fid: u32) -> Request<'static> {
    Request::Attach {
        fid,
        afid: NO_FID,
        uname: Str::default(),
        aname: Str::default(),
        n_uname: NO_ID,
    }
}

/// A Twalk to a path, one element a name.
pub fn walk(fid: u32, newfid: u32, path: &str) -> Request<'_> {
    let mut names = WalkVec::default();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        assert!(names.push(name(part)));
    }
    Request::Walk { fid, newfid, names }
}
