//! A session without SSH: a command's input and output go through TCP on loopback and through two programs, unencrypted. This
//! is the most that bulk transfers can reach on this machine.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};

/// What cpu and cpud take at once.
const CHUNK: usize = 256 * 1024;

/// The server: a process of its own, as cpud is. Gone when dropped.
pub(crate) struct PlainServer {
    child: Child,
    pub(crate) port: u16,
}

impl PlainServer {
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("plain-server")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut port = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut port)?;
        let port = port.trim().parse()?;
        Ok(Self { child, port })
    }
}

impl Drop for PlainServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Be the server, or the client for one command, if the arguments say so.
pub(crate) fn role(mut arguments: impl Iterator<Item = String>) -> Option<Result<()>> {
    match arguments.next()?.as_str() {
        "plain-server" => Some(serve()),
        "plain" => Some(run(arguments)),
        _ => None,
    }
}

fn serve() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept()?;
        let mut words = String::new();
        let mut input = BufReader::new(stream.try_clone()?);
        input.read_line(&mut words)?;
        let mut words = words.trim_end().split('\t');
        let mut child = Command::new(words.next().context("no command")?)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let (to, from) = (to.context("no input")?, from.context("no output")?);
        // As cpud does.
        for pipe in [
            fcntl(&to, FcntlArg::F_SETPIPE_SZ(1 << 18)),
            fcntl(&from, FcntlArg::F_SETPIPE_SZ(1 << 18)),
        ] {
            pipe?;
        }
        std::thread::spawn(move || copy(input, to));
        copy(from, &stream)?;
        stream.shutdown(Shutdown::Both)?;
        child.wait()?;
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let port: u16 = arguments.next().context("no port")?.parse()?;
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    let words: Vec<_> = arguments.collect();
    ensure!(!words.is_empty(), "no command");
    writeln!(&stream, "{}", words.join("\t"))?;
    let to = stream.try_clone()?;
    std::thread::spawn(move || {
        let _ = copy(std::io::stdin().lock(), &to);
        to.shutdown(Shutdown::Write)
    });
    copy(
        stream,
        std::fs::File::from(nix::unistd::dup(std::io::stdout())?),
    )
}

/// Not std's, which would leave it to the kernel: nothing that is encrypted can be.
fn copy(mut from: impl Read, mut to: impl Write) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}
