//! The SSH foundation that `cpu` and `cpud` share: what russh needs around it so that no channel ever waits for
//! another, and nothing grows without bound.
//!
//! * [`socket`]: writes that never block the session loop, and a read buffer. Its [`Throttle`] stops reading when a
//!   foreign peer sends too much.
//! * [`mux`]: a bounded queue for each channel. Between our own two programs there is a credit; the window of a
//!   foreign client is made small on those channels only whose queue is not read.
//! * [`blocking`]: channels as `Read` and `Write`, for threads.
//! * [`keepalive`]: whether a silent peer is still there.
//! * [`algorithms`]: ciphers, key exchanges and MACs in order of preference.
//! * [`modes`], [`signals`]: terminal modes and signals by their names on the wire.

pub mod algorithms;
pub mod blocking;
mod callbacks;
pub mod keepalive;
pub mod modes;
pub mod mux;
mod queue;
pub mod signals;
pub mod socket;
mod throttle;

pub use mux::{CREDIT, Mux, Peer, Receiver, Sender, Stream};
pub use socket::Socket;
pub use throttle::Throttle;
