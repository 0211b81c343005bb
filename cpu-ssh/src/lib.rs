//! The SSH foundation that `cpu` and `cpud` share: what stock russh needs around it so that no
//! channel ever waits for another and nothing grows without bound.
//!
//! * [`socket`]: writes that never block the session loop, a read buffer, and a gate that stops
//!   reading when a foreign peer floods us.
//! * [`channel`]: one bounded queue per channel, with credit between our own two programs.
//! * [`blocking`]: the same channels as `Read` and `Write` for threads.
//! * [`alive`]: whether a silent peer is still there.
//! * [`algorithms`]: which ciphers, key exchanges and MACs, in which order.
//! * [`modes`], [`signals`]: terminal modes and signals by their names on the wire.

pub mod algorithms;
pub mod alive;
pub mod blocking;
pub mod channel;
pub mod modes;
mod queue;
pub mod signals;
pub mod socket;

pub use channel::{CREDIT, Mux, Peer, Receiver, Sender, Stream};
pub use socket::{Gate, Socket};
