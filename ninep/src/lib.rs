//! 9P2000.L, the dialect of 9P that the Linux kernel's `v9fs` speaks, as a server needs it.
//!
//! | room | what for |
//! |---|---|
//! | [`wire`] | the little-endian primitives of a message |
//! | [`msg`] | the table of all messages, and what is made from it: decode, encode, names |
//! | [`errno`] | error numbers as the wire has them |
//! | [`fs`] | the contract between the engine and whatever it serves |
//! | [`server`] | the engine: versions, tags, flushes, fids, threads |
//! | [`relay`] | between a kernel and a server that is far away: fewer waits |
//! | [`observe`] | a person's view of the requests: trace and counts |
//!
//! Synchronous, without `unsafe`, and apart from [`server::serve`] without I/O. The bytes of the
//! peer are hostile: nothing they say makes this crate panic or hold more than a few messages'
//! worth of memory beside the table of fids.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

pub mod errno;
pub mod fs;
pub mod msg;
pub mod observe;
pub mod relay;
pub mod server;
pub mod wire;

pub use errno::Errno;
pub use fs::FileSystem;
