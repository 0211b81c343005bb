//! What `cpu` and `cpud` must agree on: names, ports, defaults, and the small grammars that
//! travel between them. No I/O lives here.

pub mod authorized_keys;
mod cache_mode;
mod credentials;
mod fingerprint;
pub mod fstab;
pub mod namespace;
pub mod package_note;
mod printable;
pub mod quote;
mod wait;

pub use authorized_keys::AuthorizedKeys;
pub use cache_mode::CacheMode;
pub use credentials::{Credentials, InvalidCredentials};
pub use fingerprint::fingerprint;
pub use printable::printable;
pub use wait::{ENV_WAIT, Wait};

/// TCP port of cpud, the same as u-root's.
pub const DEFAULT_PORT: u16 = 17010;

/// The directories that come from the client when `-namespace` is not given.
pub const DEFAULT_NAMESPACE: &str = "/lib:/lib64:/usr:/bin:/etc:/home";

/// SSH identification of our server, up to the version: what follows is `CARGO_PKG_VERSION`.
/// A client that reads it may use the `9p` subsystem, credit and environment without replies.
pub const SERVER_ID_PREFIX: &str = "SSH-2.0-cpud_";

/// SSH identification of our client, up to the version.
pub const CLIENT_ID_PREFIX: &str = "SSH-2.0-cpu_";

/// Where the client's files are mounted in a session.
pub const MOUNT_POINT: &str = "/tmp/cpu";

/// Where the machine's own root is visible in a session.
pub const LOCAL_POINT: &str = "/tmp/local";

/// Environment variable of the client that means the same as `-namespace`, which wins.
pub const ENV_NAMESPACE: &str = "CPU_NAMESPACE";

/// Environment variable that carries the session's mounts, fstab(5) lines separated by newlines.
pub const ENV_FSTAB: &str = "CPU_FSTAB";

/// The same text again for sshd-like servers that let only `LC_*` through.
pub const ENV_FSTAB_LC: &str = "LC_GLENDA_CPU_FSTAB";

/// Environment variable in which a client whose user is not root names the places of sudo(8) in its namespace, with
/// colons between them: cpud has its own there, since the client's can't read its configuration. Another server
/// leaves it to the command, which has no use for it.
pub const ENV_SUDO: &str = "CPU_SUDO";

/// Environment variable with the umask of the client's user, in octal: what his commands make there is as private as
/// what they make here. Without it, it is 022.
pub const ENV_UMASK: &str = "CPU_UMASK";

/// Largest 9P message: the cap of the kernel's `trans=fd` (`net/9p/trans_fd.c`, `MAX_SOCK_BUF`).
pub const MAX_MSIZE: u32 = 1024 * 1024;
