//! What machines boot from: USB sticks and the network, and the files on them.

pub(crate) mod boot_files;
pub(crate) mod inputs;
pub(crate) mod netboot;
pub(crate) mod stick;
pub(crate) mod syslinux;
pub(crate) mod uki;
