//! What `cpu` and `cpud` must agree on: names, ports, defaults, and the formats of what they send each other. No I/O.

mod authorization;
pub mod authorized_keys;
mod cache_mode;
pub mod certificate;
mod credentials;
pub mod discovery;
pub mod dns;
mod fingerprint;
pub mod fstab;
pub mod glob;
mod key_options;
mod key_type;
pub mod namespace;
pub mod package_note;
mod peer_patterns;
mod printable;
pub mod quote;
mod wait;

pub use authorized_keys::{AuthorizedKey, AuthorizedKeys};
pub use cache_mode::{CacheMode, ENV_FILES};
pub use certificate::CertificateFault;
pub use credentials::{Credentials, InvalidCredentials};
pub use fingerprint::fingerprint;
pub use key_options::{Denial, KeyOptions};
pub use key_type::KeyTypeFault;
pub use printable::printable;
pub use wait::{ENV_WAIT, Wait};

/// TCP port of cpud, the same as u-root's.
pub const DEFAULT_PORT: u16 = 17010;

/// The namespace when `-namespace` is not given: directories that come from the client.
pub const DEFAULT_NAMESPACE: &str = "/lib:/lib64:/usr:/bin:/etc:/home";

/// SSH identification of our server, up to the version, which is `CARGO_PKG_VERSION`. To such a server a client may
/// use the `9p` subsystem and credit, and send environment variables without waiting for replies.
pub const SERVER_ID_PREFIX: &str = "SSH-2.0-cpud_";

/// SSH identification of our client, up to the version.
pub const CLIENT_ID_PREFIX: &str = "SSH-2.0-cpu_";

/// Where the client's files are mounted in a session.
pub const MOUNT_POINT: &str = "/tmp/cpu";

/// Where the machine's own root is visible in a session.
pub const LOCAL_POINT: &str = "/tmp/local";

/// Environment variable of the client with the meaning of `-namespace`, which takes precedence.
pub const ENV_NAMESPACE: &str = "CPU_NAMESPACE";

/// Environment variable that carries the session's mounts as lines of fstab(5).
pub const ENV_FSTAB: &str = "CPU_FSTAB";

/// The same text again, for servers like sshd that accept only `LC_*`.
pub const ENV_FSTAB_LC: &str = "LC_GLENDA_CPU_FSTAB";

/// Environment variable in which a client whose user is not root lists the paths of sudo(8) in its namespace, separated
/// by colons. cpud binds itself over them, since the client's sudo cannot read its configuration. Other servers pass
/// the variable to the command, where it has no effect.
pub const ENV_SUDO: &str = "CPU_SUDO";

/// Environment variable with the umask of the client's user, in octal, so that files created by a command are as
/// private as on the client. The default is 022.
pub const ENV_UMASK: &str = "CPU_UMASK";

/// Environment variable with the client's time, in seconds since 1970. A machine whose clock has not been set uses it.
pub const ENV_CLOCK: &str = "CPU_CLOCK";

/// In place of a machine's host key in its initramfs: the machine makes one each time that it boots.
pub const HOST_KEY_AT_BOOT: &str = "first-boot\n";

/// Largest 9P message: the limit of the kernel's `trans=fd` (`net/9p/trans_fd.c`, `MAX_SOCK_BUF`).
pub const MAX_MSIZE: u32 = 1024 * 1024;
