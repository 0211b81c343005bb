//! The SSH foundation that `cpu` and `cpud` share: what stock russh needs around it so that no
//! channel ever waits for another and nothing grows without bound.
//!
//! * [`socket`]: writes that never block the session loop, and a read buffer; its [`Throttle`] stops
//!   reading when a foreign peer floods us.
//! * [`mux`]: one bounded queue per channel, with credit between our own two programs, and windows for foreign
//!   clients that a queue without a reader makes small, its own and not those of others.
//! * [`blocking`]: the same channels as `Read` and `Write` for threads.
//! * [`keepalive`]: whether a silent peer is still there.
//! * [`algorithms`]: which ciphers, key exchanges and MACs, in which order.
//! * [`modes`], [`signals`]: terminal modes and signals by their names on the wire.

pub mod algorithms;
pub mod blocking;
mod callbacks;
pub mod channel;
pub mod modes;
pub mod mux;
mod queue;
pub mod signals;
pub mod socket;
mod throttle;

pub use mux::{CREDIT, Mux, Peer, Receiver, Sender, Stream};
pub use socket::Socket;
pub use throttle::Throttle;
