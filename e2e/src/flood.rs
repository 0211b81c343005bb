//! Strangers: many connections from one address of this machine that never log in. Gone when dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};

/// What they say when they are connected.
pub const NOTHING: &[u8] = b"";
/// A client's identification.
pub const NAME: &[u8] = b"SSH-2.0-stranger\r\n";
/// The same, and the beginning of a key exchange.
pub const KEY_EXCHANGE: &[u8] = b"SSH-2.0-stranger\r\n\0\0\x05\xdc\x0a\x14";

/// The connections.
pub struct Flood {
    runtime: Option<Runtime>,
    ended: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
}

impl Flood {
    /// So many at a time to `port` of 127.0.0.1; whenever one is closed, there is another.
    pub fn again(port: u16, from: Ipv4Addr, hello: &'static [u8], count: usize) -> Result<Self> {
        let flood = Self::new()?;
        for _ in 0..count {
            let (ended, made) = (flood.ended.clone(), flood.made.clone());
            flood.spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    let _ = connect(port, from, hello, &made).await;
                }
            });
        }
        Ok(flood)
    }

    /// So many in a second, whatever becomes of the others.
    pub fn each_second(
        port: u16,
        from: Ipv4Addr,
        hello: &'static [u8],
        count: u32,
    ) -> Result<Self> {
        let flood = Self::new()?;
        let (ended, made) = (flood.ended.clone(), flood.made.clone());
        let runtime = flood
            .runtime
            .as_ref()
            .map(|runtime| runtime.handle().clone());
        std::thread::spawn(move || {
            let (start, pause) = (Instant::now(), Duration::from_secs(1) / count);
            for number in 0.. {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                if let Some(runtime) = &runtime {
                    let made = made.clone();
                    runtime.spawn(async move { connect(port, from, hello, &made).await });
                }
                std::thread::sleep((pause * number).saturating_sub(start.elapsed()));
            }
        });
        Ok(flood)
    }

    fn new() -> Result<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most.min(1 << 16), most)?;
        Ok(Self {
            runtime: Some(
                Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_io()
                    .build()?,
            ),
            ended: Arc::default(),
            made: Arc::default(),
        })
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(task);
        }
    }

    /// How many connections there have been.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Connects, says hello, and listens until the server closes the connection.
async fn connect(port: u16, from: Ipv4Addr, hello: &[u8], made: &AtomicUsize) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = socket.connect(to).await?;
    made.fetch_add(1, Ordering::Relaxed);
    stream.write_all(hello).await?;
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}
