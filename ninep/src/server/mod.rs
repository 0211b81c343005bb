//! The engine: reads requests, has the [`FileSystem`] perform them, writes the replies.
//!
//! * `session`: requests in order; `workers`: the threads that take turns
//! * `inbox`, `outbox`: messages off the stream, replies onto it
//! * `version`: what is agreed on; `fids`: what each number stands for
//! * `handlers`, `walk`: what each request does; `watched`: what the client may keep;
//!   `contents`: what is read before it is asked for; `learning`: what a program asks for; `replay`: the same when it runs again;
//!   `flock`: locks; `xattr`: extended attributes; `describe`: requests as text

mod closing;
mod contents;
mod create;
mod describe;
mod fids;
mod flock;
mod handlers;
mod inbox;
mod learning;
mod outbox;
mod replay;
mod session;
mod version;
mod walk;
mod watched;
mod workers;
mod xattr;

use std::io::{self, Read, Write};
use std::num::NonZero;

use crate::fs::FileSystem;
use crate::observe::Observer;
pub use learning::Learning;
use session::Session;

/// Smallest message size of a session. Linux refuses less, too.
pub const MIN_MSIZE: u32 = 4096;

/// How to serve.
#[derive(Clone, Copy)]
pub struct Config<'a> {
    /// Largest message in bytes, at least [`MIN_MSIZE`]; the peer may ask for less.
    pub max_msize: u32,
    /// Number of threads, and therefore of requests performed at once; more are added when the file system is
    /// stuck. Each may hold two messages.
    pub workers: NonZero<usize>,
    /// Maximum number of fids; `EMFILE` beyond it.
    pub max_fids: usize,
    /// Told of every request that has been performed.
    pub observer: Option<&'a dyn Observer>,
    /// Learns what is asked for, and knows what was in an earlier session.
    pub learning: Option<&'a Learning>,
}

impl Default for Config<'_> {
    /// 1 MiB, the most that Linux accepts with `trans=fd`; 4 threads; 65,536 fids.
    fn default() -> Self {
        Self {
            max_msize: 1 << 20,
            workers: NonZero::new(4).unwrap_or(NonZero::<usize>::MIN),
            max_fids: 1 << 16,
            observer: None,
            learning: None,
        }
    }
}

/// Why a session ended before its stream did.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transport failed.
    #[error("cannot read the next 9P request")]
    Read(#[source] io::Error),
    /// The transport failed, or the peer closed it.
    #[error("cannot write a 9P reply")]
    Write(#[source] io::Error),
    /// The stream ended within a message.
    #[error("the 9P stream ended within a message")]
    Truncated,
    /// An impossible size, after which the next message cannot be found.
    #[error(
        "the header of a 9P message gives its size as {size} bytes; it must be from 7 to {limit}"
    )]
    Size {
        /// The size in its header.
        size: u32,
        /// The largest message of the session.
        limit: u32,
    },
    /// Two requests in flight with one tag: their replies could not be told apart.
    #[error("9P tag {0} is used by two requests at once")]
    DuplicateTag(u16),
    /// The system does not allow even one thread.
    #[error("cannot start a thread for the 9P server")]
    Thread(#[source] io::Error),
}

/// Serves `fs` to one peer until the stream ends between two messages, the transport fails, or the peer breaks the
/// framing. Blocks until all requests in flight have finished and all fids are clunked.
///
/// When `writer` fails, the session ends as soon as `reader` returns, so they should fail together.
pub fn serve<F, R, W>(fs: &F, reader: R, writer: W, config: &Config<'_>) -> Result<(), Error>
where
    F: FileSystem,
    R: Read + Send,
    W: Write + Send,
{
    let session = Session::new(fs, reader, writer, config);
    workers::run(&session, config.workers);
    session.end()
}
