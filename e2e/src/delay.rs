//! A TCP proxy on 127.0.0.1 that delays every byte, in place of a long path.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

/// How much is read at once, and with a rate, when each piece arrives as a whole.
const SIZE: usize = 256 * 1024;
const RATED_SIZE: usize = 4 * 1024;
/// How long the queue before a narrow path may get.
const MAX_QUEUE: Duration = Duration::from_millis(50);

/// What went by: when it arrived at the proxy, whether it came from the client, and how much.
pub type Passed = (Duration, bool, usize);

/// The proxy; its threads end with their connections, the listener with the process.
pub struct Delay {
    /// Where it listens.
    pub port: u16,
    passed: Arc<Mutex<Vec<Passed>>>,
    silent: Arc<AtomicBool>,
}

impl Delay {
    /// To `port` of 127.0.0.1, with `time` each way.
    pub fn start(port: u16, time: Duration) -> Result<Self> {
        Self::with_rate(port, time, None)
    }

    /// The same, with no more than `rate` bytes a second each way.
    pub fn with_rate(port: u16, time: Duration, rate: Option<f64>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let own = listener.local_addr()?.port();
        let passed: Arc<Mutex<Vec<Passed>>> = Arc::default();
        let silent: Arc<AtomicBool> = Arc::default();
        let (shared, lost) = (passed.clone(), silent.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let start = Instant::now();
                for (from, to, is_client) in [(&client, &server, true), (&server, &client, false)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
                        continue;
                    };
                    let _ = from.set_nodelay(true);
                    carry(
                        from,
                        to,
                        (time, rate),
                        move |at, size, log| {
                            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                            log.push((at.duration_since(start), is_client, size));
                        },
                        shared.clone(),
                        lost.clone(),
                    );
                }
            }
        });
        Ok(Self {
            port: own,
            passed,
            silent,
        })
    }

    /// From now on nothing comes through, and nobody is told: as when a cable is pulled.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// What has gone by since the last call.
    pub fn passed(&self) -> Vec<Passed> {
        std::mem::take(&mut *self.passed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How often something went to the client after something came from it.
pub fn waits(passed: &[Passed]) -> usize {
    let came: Vec<_> = passed.iter().map(|(_, is_client, _)| *is_client).collect();
    came.windows(2)
        .filter(|pair| **pair == [true, false])
        .count()
}

/// What has gone by, as text: a line for what passed in both directions until nothing did for most of `hop`.
pub fn steps(passed: &[Passed], hop: Duration) -> String {
    let steps =
        passed.chunk_by(|(before, ..), (after, ..)| after.saturating_sub(*before) <= hop / 2);
    let line = |(number, step): (usize, &[Passed])| {
        let sum = |of_client: bool| -> usize {
            let sizes = step
                .iter()
                .filter(|(_, from_client, _)| *from_client == of_client);
            sizes.map(|(.., size)| size).sum()
        };
        let at = step
            .first()
            .map_or(0.0, |(at, ..)| at.as_secs_f64() * 1000.0);
        let (there, back) = (sum(true), sum(false));
        format!(
            "  {:>3}. {at:>7.1} ms  to the machine {there:>7}  to here {back:>7}\n",
            number + 1
        )
    };
    steps.enumerate().map(line).collect()
}

type Log = Arc<Mutex<Vec<Passed>>>;

fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    (time, rate): (Duration, Option<f64>),
    note: impl Fn(Instant, usize, &Log) + Send + 'static,
    log: Log,
    silent: Arc<AtomicBool>,
) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let size = if rate.is_some() { RATED_SIZE } else { SIZE };
        let mut buffer = vec![0; size];
        let mut is_free = Instant::now();
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let now = Instant::now();
            note(now, n, &log);
            let mut sent = now;
            if let Some(rate) = rate {
                #[expect(clippy::cast_precision_loss, reason = "a buffer is small")]
                let takes = Duration::from_secs_f64(n as f64 / rate);
                is_free = is_free.max(now) + takes;
                sent = is_free;
                // What a router keeps; then its sender waits.
                std::thread::sleep(sent.saturating_duration_since(now + MAX_QUEUE));
            }
            if sender.send((sent + time, buffer[..n].to_vec())).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if silent.load(Ordering::Relaxed) {
                continue;
            }
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
