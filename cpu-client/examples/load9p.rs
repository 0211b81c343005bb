//! Loads the file server without a kernel in between, and prints what it does per second:
//! `load9p [SECONDS]`. One session over a pipe in memory, and the same over a socket pair;
//! sequential reads of a cached file in 1 MiB messages, and getattrs, 32 and 1 outstanding.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cpu_client::export::Export;
use ninep::msg::{Attr, Header, NO_FID, NO_ID, NO_TAG, Request, VERSION};
use ninep::server::{Config, serve};
use ninep::wire::{Few, Frame, HEADER, Name, Str};

const MSIZE: u32 = 1 << 20;
/// What Linux asks for at most.
const COUNT: u32 = MSIZE - 24;
const FILE: u64 = 256 << 20;

fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |arg| arg.parse())?;
    let time = Duration::from_secs(seconds);
    let dir = std::env::temp_dir().join(format!("load9p-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let result = run(&dir, time);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn run(dir: &Path, time: Duration) -> Result<()> {
    let mut file = std::fs::File::create(dir.join("file"))?;
    let mib = vec![7; 1 << 20];
    for _ in 0..FILE >> 20 {
        file.write_all(&mib)?;
    }
    drop(file);

    let (ours, theirs) = pipe();
    session("memory", dir, &ours, &theirs, time)?;
    let (ours, theirs) = UnixStream::pair()?;
    session("socket", dir, &ours, &theirs, time)
}

/// Serves `dir` on `theirs`, and loads it from `ours`.
fn session<S>(transport: &str, dir: &Path, ours: &S, theirs: &S, time: Duration) -> Result<()>
where
    S: Stream,
    for<'a> &'a S: Read + Write,
{
    let export = Export::new(dir)?;
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(&export, theirs, theirs, &Config::default()));
        let result = load(transport, ours, time);
        ours.hang_up();
        match server.join() {
            Ok(ended) => result.and(ended.context("the server failed")),
            Err(_) => bail!("the server panicked"),
        }
    })
}

fn load<S>(transport: &str, stream: &S, time: Duration) -> Result<()>
where
    for<'a> &'a S: Read + Write,
{
    let mut client = Client {
        stream,
        frame: Frame::default(),
        sink: vec![0; MSIZE as usize],
    };
    let version = Str::new(VERSION).unwrap_or_default();
    let empty = Str::default();
    let mut names = Few::default();
    names.push(Name::new(b"file").context("a name")?);
    for (tag, request) in [
        (
            NO_TAG,
            Request::Version {
                msize: MSIZE,
                version,
            },
        ),
        (
            1,
            Request::Attach {
                fid: 0,
                afid: NO_FID,
                uname: empty,
                aname: empty,
                n_uname: NO_ID,
            },
        ),
        (
            1,
            Request::Walk {
                fid: 0,
                newfid: 1,
                names,
            },
        ),
        (1, Request::Lopen { fid: 1, flags: 0 }),
    ] {
        client.send(tag, &request)?;
        client.receive()?;
    }

    for depth in [4, 1] {
        let mut offset = 0;
        let (n, elapsed) = client.keep(depth, time, || {
            let at = offset;
            offset = (offset + u64::from(COUNT)) % (FILE - u64::from(COUNT));
            Request::Read {
                fid: 1,
                offset: at,
                count: COUNT,
            }
        })?;
        let mib = n * f64::from(COUNT) / f64::from(1 << 20) / elapsed;
        println!("{transport:8} read     {depth:2} outstanding {mib:9.0} MiB/s");
    }
    for depth in [32, 1] {
        let (n, elapsed) = client.keep(depth, time, || Request::Getattr {
            fid: 1,
            mask: Attr::BASIC,
        })?;
        println!(
            "{transport:8} getattr  {depth:2} outstanding {:9.0} /s",
            n / elapsed
        );
    }
    Ok(())
}

struct Client<'a, S> {
    stream: &'a S,
    frame: Frame,
    sink: Vec<u8>,
}

impl<S> Client<'_, S>
where
    for<'a> &'a S: Read + Write,
{
    fn send(&mut self, tag: u16, request: &Request<'_>) -> Result<()> {
        request.encode(tag, &mut self.frame);
        Ok(self.stream.write_all(self.frame.finish())?)
    }

    /// The tag of the next reply, which must be no error.
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

    /// Keeps `depth` requests outstanding for `time`; how many were answered in how many seconds.
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

trait Stream: Sync {
    fn hang_up(&self);
}

impl Stream for UnixStream {
    fn hang_up(&self) {
        // A socket that is gone already has hung up.
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

/// One direction of a pipe in memory; bounded.
#[derive(Default)]
struct Half {
    state: Mutex<(VecDeque<u8>, bool)>,
    changed: Condvar,
}

struct End {
    from: Arc<Half>,
    to: Arc<Half>,
}

const CAPACITY: usize = 2 << 20;

fn pipe() -> (End, End) {
    let (a, b) = (Arc::new(Half::default()), Arc::new(Half::default()));
    let other = End {
        from: b.clone(),
        to: a.clone(),
    };
    (End { from: a, to: b }, other)
}

fn poisoned<T>(_: T) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl Read for &End {
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

impl Write for &End {
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

impl Stream for End {
    fn hang_up(&self) {
        for half in [&self.from, &self.to] {
            if let Ok(mut state) = half.state.lock() {
                state.1 = true;
            }
            half.changed.notify_all();
        }
    }
}
