//! Reads the inputs of a boot medium: the kernel with the files that `mkimage kernel` has put beside it, the client, and the
//! keys.

use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::arch::Arch;
use crate::archive::decompress::MAX_UNPACKED;
use crate::archive::package;
use crate::cache::CacheDirectory;
use crate::distro::apt;
use crate::media::uki;
use crate::progress::Progress;
use crate::{logins, program, read};

/// What the machine boots with.
pub(crate) struct Boot {
    /// The kernel's image.
    pub(crate) kernel: Vec<u8>,
    /// An initramfs that is not inside the kernel.
    pub(crate) initrd: Option<Vec<u8>>,
    /// A command line that is not inside the kernel.
    pub(crate) command_line: Option<String>,
    /// systemd's EFI stub, if the two are not inside the kernel and the stub can be had.
    pub(crate) efi_stub: Option<Vec<u8>>,
    /// The kernel's configuration, when it is known.
    pub(crate) config: Option<Vec<u8>>,
}

/// What goes with it.
pub(crate) struct ClientFiles {
    /// The client.
    pub(crate) cpu: Vec<u8>,
    /// File name of the private key, `cpu_rsa`; those of the public ones begin with it.
    pub(crate) key_name: String,
    /// The key that may log in.
    pub(crate) public_key: Vec<u8>,
    /// The machine's own public key.
    pub(crate) host_key: Option<Vec<u8>>,
    /// Whoever has it can log in.
    pub(crate) private_key: Option<Vec<u8>>,
}

/// Read the client and the keys. `key` is the public one; the others lie beside it.
pub(crate) fn read_client_files(
    arch: Arch,
    cpu: &Path,
    key: &Path,
    private_key: bool,
) -> Result<ClientFiles> {
    let client = read("the client (make programs)", cpu)?;
    program::check(&client, Arch::HERE)
        .or_else(|_| program::check(&client, arch))
        .with_context(|| format!("{} cannot run on every Linux", cpu.display()))?;
    let (public_key, _) = logins::public_key(key)?;
    let private = key.with_extension("");
    let key_name = private.file_name().unwrap_or_default();
    Ok(ClientFiles {
        cpu: client,
        key_name: key_name.to_string_lossy().into_owned(),
        public_key,
        host_key: optional(&private.with_added_extension("hostkey"))?,
        private_key: private_key
            .then(|| read("the private key", &private))
            .transpose()?,
    })
}

/// A kernel with what `mkimage kernel` has put beside it.
pub(crate) fn read_boot(kernel: &Path, arch: Arch, progress: Progress) -> Result<Boot> {
    let beside = |name: &str| optional(&kernel.with_file_name(name));
    let command_line = beside("cpukernel.cmdline")?
        .map(|line| String::from_utf8_lossy(&line).trim_end().to_owned());
    let initrd = beside("cpuinitrd")?;
    let is_whole = initrd.is_none() && command_line.is_none();
    Ok(Boot {
        efi_stub: if is_whole {
            None
        } else {
            efi_stub(arch, progress)?
        },
        initrd,
        command_line,
        config: beside("cpu.config")?,
        kernel: read("the kernel (mkimage kernel)", kernel)?,
    })
}

/// systemd's stub: the one that is installed here, else that of Debian's package.
fn efi_stub(arch: Arch, progress: Progress) -> Result<Option<Vec<u8>>> {
    if let Some(stub) = optional(&uki::installed_stub(arch))? {
        return Ok(Some(stub));
    }
    if !apt::is_here() {
        return Ok(None);
    }
    let cache = CacheDirectory::from_environment()?;
    let path = apt::efi_stub(arch, &cache, progress)?;
    let mut stub = None;
    let mut keep = |name: String, reader: &mut dyn io::Read| {
        if name.ends_with(arch.facts().efi_stub) {
            stub = Some(read::to_end(reader, MAX_UNPACKED).map_err(package::unread)?);
        }
        Ok(())
    };
    package::unpack(&path, arch, &mut keep)
        .with_context(|| format!("cannot use the package {}", path.display()))?;
    Ok(stub)
}

/// Read a file that must be there; `what` says what it is, and which command makes it.
pub(crate) fn read(what: &str, path: &Path) -> Result<Vec<u8>> {
    read::whole(path, MAX_UNPACKED)
        .with_context(|| format!("cannot read {what} {}", path.display()))
}

fn optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match read::whole(path, MAX_UNPACKED) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result
            .map(Some)
            .with_context(|| format!("cannot read {}", path.display())),
    }
}
