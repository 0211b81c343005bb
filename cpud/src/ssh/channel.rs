//! The two halves of an SSH channel, as this server has them.

use russh::server::Msg;

pub(super) type Receiver = cpu_ssh::Receiver<Msg>;
pub(super) type Sender = cpu_ssh::Sender<Msg>;

/// The most bytes taken at once from what the client has sent.
pub(super) const CHUNK: usize = 256 * 1024;
