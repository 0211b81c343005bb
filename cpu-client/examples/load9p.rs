//! Measures the throughput of the file server without a kernel: `load9p [SECONDS [PORT]]`.
//!
//! One session over a pipe in memory, one over a socket pair, and one over TCP. Each does sequential reads of a cached file
//! in messages of 1 MiB, then getattrs, with several requests outstanding and with one. With PORT, our server over TCP and
//! the server on that port of 127.0.0.1, which must serve `/`, are measured in turn with the msize of the latter:
//! `diod -f -n -e / -l 127.0.0.1:PORT`.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cpu_client::export::Export;
use ninep::msg::{Attr, Header, NO_FID, NO_ID, NO_TAG, Reply, Request, VERSION};
use ninep::server::{Config, serve};
use ninep::wire::{Frame, HEADER, Name, Str, WalkVec};

const MSIZE: u32 = 1 << 20;
/// What Linux reserves for the header of a message with data.
const IO_HEADER: u32 = 24;
const FILE: u64 = 256 << 20;

fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |arg| arg.parse())?;
    let time = Duration::from_secs(seconds);
    let port = std::env::args().nth(2).map(|arg| arg.parse()).transpose()?;
    let dir = std::env::temp_dir().join(format!("load9p-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let result = run(&dir, time, port);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn run(dir: &Path, time: Duration, other: Option<u16>) -> Result<()> {
    let mut file = std::fs::File::create(dir.join("file"))?;
    let mib = vec![7; 1 << 20];
    for _ in 0..FILE >> 20 {
        file.write_all(&mib)?;
    }
    drop(file);

    let Some(port) = other else {
        let (ours, theirs) = pipe();
        session("memory", dir, MSIZE, &ours, &theirs, time)?;
        let (ours, theirs) = UnixStream::pair()?;
        session("socket", dir, MSIZE, &ours, &theirs, time)?;
        let (ours, theirs) = tcp()?;
        session("tcp", dir, MSIZE, &ours, &theirs, time)?;
        return Ok(());
    };
    let connect = || -> io::Result<_> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let msize = LoadClient::new(&connect()?, dir, MSIZE)?.msize;
    println!("messages of {msize} bytes");
    for _ in 0..3 {
        let (ours, theirs) = tcp()?;
        session("ours", dir, msize, &ours, &theirs, time)?;
        load("theirs", &connect()?, dir, msize, time)?;
    }
    Ok(())
}

/// The two ends of a connection.
fn tcp() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (theirs, _) = listener.accept()?;
    ours.set_nodelay(true)?;
    theirs.set_nodelay(true)?;
    Ok((ours, theirs))
}

/// Serves `/` on `theirs`, and measures from `ours`.
fn session<S>(
    server: &str,
    dir: &Path,
    msize: u32,
    ours: &S,
    theirs: &S,
    time: Duration,
) -> Result<()>
where
    S: HangUp,
    for<'a> &'a S: Read + Write,
{
    let export = Export::new(Path::new("/"))?;
    std::thread::scope(|scope| {
        let served = scope.spawn(|| serve(&export, theirs, theirs, &Config::default()));
        let result = load(server, ours, dir, msize, time);
        ours.hang_up();
        match served.join() {
            Ok(ended) => result.and(ended.context("the server failed")),
            Err(_) => bail!("the server panicked"),
        }
    })
}

fn load<S>(server: &str, stream: &S, dir: &Path, msize: u32, time: Duration) -> Result<()>
where
    for<'a> &'a S: Read + Write,
{
    let mut client = LoadClient::new(stream, dir, msize)?;
    let count = client.msize - IO_HEADER;
    for depth in [4, 1] {
        let mut offset = 0;
        let (n, elapsed) = client.keep(depth, time, || {
            let at = offset;
            offset = (offset + u64::from(count)) % (FILE - u64::from(count));
            Request::Read {
                fid: 1,
                offset: at,
                count,
            }
        })?;
        let mib = n * f64::from(count) / f64::from(1 << 20) / elapsed;
        println!("{server:8} read     {depth:2} outstanding {mib:9.0} MiB/s");
    }
    for depth in [32, 1] {
        let (n, elapsed) = client.keep(depth, time, || Request::Getattr {
            fid: 1,
            mask: Attr::BASIC,
        })?;
        println!(
            "{server:8} getattr  {depth:2} outstanding {:9.0} /s",
            n / elapsed
        );
    }
    Ok(())
}

struct LoadClient<'a, S> {
    stream: &'a S,
    msize: u32,
    frame: Frame,
    sink: Vec<u8>,
}

impl<'a, S> LoadClient<'a, S>
where
    for<'b> &'b S: Read + Write,
{
    /// Opens `file` in `dir` as fid 1.
    fn new(stream: &'a S, dir: &Path, msize: u32) -> Result<Self> {
        let mut client = Self {
            stream,
            msize,
            frame: Frame::default(),
            sink: vec![0; msize as usize],
        };
        let version = Str::new(VERSION).unwrap_or_default();
        client.send(NO_TAG, &Request::Version { msize, version })?;
        client.receive()?;
        match Reply::decode(
            101,
            client.sink.get(..4 + 2 + VERSION.len()).context("short")?,
        ) {
            Ok(Reply::Version { msize, .. }) => client.msize = msize,
            other => bail!("no version: {other:?}"),
        }
        let dir = dir.to_str().context("a path in UTF-8")?;
        let mut names = WalkVec::default();
        names.push(Name::new(b"file").context("a name")?);
        for request in [
            Request::Attach {
                fid: 0,
                afid: NO_FID,
                uname: Str::new(b"root").unwrap_or_default(),
                aname: Str::new(dir.as_bytes()).unwrap_or_default(),
                n_uname: NO_ID,
            },
            Request::Walk {
                fid: 0,
                newfid: 1,
                names,
            },
            Request::Lopen { fid: 1, flags: 0 },
        ] {
            client.send(1, &request)?;
            client.receive()?;
        }
        Ok(client)
    }

    fn send(&mut self, tag: u16, request: &Request<'_>) -> Result<()> {
        request.encode(tag, &mut self.frame);
        Ok(self.stream.write_all(self.frame.finish())?)
    }

    /// Receives a reply, which must not be an error, and returns its tag.
    fn receive(&mut self) -> Result<u16> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header)?;
        let header = Header::decode(&header);
        let body = usize::try_from(header.size)? - HEADER;
        self.stream
            .read_exact(self.sink.get_mut(..body).context("a message too large")?)?;
        if header.kind == 7 {
            bail!("the server refused a request");
        }
        Ok(header.tag)
    }

    /// Keeps `depth` requests outstanding for `time`. Returns the number of replies and the seconds.
    fn keep<'r>(
        &mut self,
        depth: u16,
        time: Duration,
        mut next: impl FnMut() -> Request<'r>,
    ) -> Result<(f64, f64)> {
        for tag in 0..depth {
            self.send(tag, &next())?;
        }
        let start = Instant::now();
        let mut answered = 0_u32;
        while start.elapsed() < time {
            let tag = self.receive()?;
            answered += 1;
            self.send(tag, &next())?;
        }
        let elapsed = start.elapsed().as_secs_f64();
        for _ in 0..depth {
            self.receive()?;
        }
        Ok((answered.into(), elapsed))
    }
}

trait HangUp: Sync {
    fn hang_up(&self);
}

impl HangUp for TcpStream {
    fn hang_up(&self) {
        // As below.
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

impl HangUp for UnixStream {
    fn hang_up(&self) {
        // Fails only if the connection has ended already.
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

/// One direction of a pipe in memory, with bounded capacity.
#[derive(Default)]
struct Half {
    state: Mutex<(VecDeque<u8>, bool)>,
    changed: Condvar,
}

struct PipeEnd {
    from: Arc<Half>,
    to: Arc<Half>,
}

const CAPACITY: usize = 2 << 20;

fn pipe() -> (PipeEnd, PipeEnd) {
    let (a, b) = (Arc::new(Half::default()), Arc::new(Half::default()));
    let other = PipeEnd {
        from: b.clone(),
        to: a.clone(),
    };
    (PipeEnd { from: a, to: b }, other)
}

fn poisoned<T>(_: T) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl Read for &PipeEnd {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let state = self.from.state.lock().map_err(poisoned)?;
        let mut state = self
            .from
            .changed
            .wait_while(state, |(queue, closed)| queue.is_empty() && !*closed)
            .map_err(poisoned)?;
        let n = state.0.read(buf)?;
        self.from.changed.notify_all();
        Ok(n)
    }
}

impl Write for &PipeEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = self.to.state.lock().map_err(poisoned)?;
        let mut state = self
            .to
            .changed
            .wait_while(state, |(queue, closed)| queue.len() >= CAPACITY && !*closed)
            .map_err(poisoned)?;
        if state.1 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(CAPACITY - state.0.len());
        state.0.extend(bytes.get(..n).unwrap_or_default());
        self.to.changed.notify_all();
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HangUp for PipeEnd {
    fn hang_up(&self) {
        for half in [&self.from, &self.to] {
            if let Ok(mut state) = half.state.lock() {
                state.1 = true;
            }
            half.changed.notify_all();
        }
    }
}
