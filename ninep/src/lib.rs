//! The server side of 9P2000.L, the dialect of 9P that Linux's `v9fs` speaks.
//!
//! | module | contents |
//! |---|---|
//! | [`wire`] | the little-endian primitives of a message |
//! | [`msg`] | the table of all messages, and what is generated from it: decoding, encoding, names |
//! | [`errno`] | error numbers as they are on the wire |
//! | [`fs`] | the contract between the engine and the file system that it serves |
//! | [`fuse`] | a front for kernels that have FUSE, and no 9P |
//! | [`server`] | the engine: versions, tags, flushes, fids, threads |
//! | [`relay`] | sits between a kernel and a distant server, and saves round trips |
//! | [`observe`] | requests as people see them: trace and counts |
//!
//! Synchronous and without `unsafe`; only [`server::serve`] does I/O. The peer's bytes are hostile: whatever
//! they are, this crate does not panic, and holds no more memory than a few messages and the table of fids.
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
pub mod fuse;
pub mod learned;
pub mod msg;
pub mod observe;
pub mod relay;
pub mod server;
pub mod wire;

pub use errno::Errno;
pub use fs::FileSystem;
