//! `mkimage` makes the machine: the keys, the initramfs with cpud in it, the kernel around that, and
//! what it boots from. A library, so that fuzz targets reach its readers of foreign bytes; the program is
//! [`command::main`], and each command is a file of `command/`.

mod arch;
pub mod archive;
mod cache;
mod carried;
pub mod command;
mod disk;
mod distro;
mod epoch;
mod initramfs;
mod inspect;
mod kernel;
mod keys;
mod lock;
mod logins;
mod media;
mod passphrase;
mod plan;
mod program;
mod progress;
mod publish;
mod read;
pub mod rom;
mod tools;
