//! Loads kernel modules, for kernels whose drivers are modules. mkimage puts those that matter into the image, with an
//! index. The *modules* role loads the modules of all devices, then those of devices that appear later. And the kernel
//! runs `/sbin/modprobe`, which is this program, when it needs a module, such as for the first mount of 9P.

mod index;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::console::say;
use index::Index;

/// Modules that nothing asks for in time. Without 8021q, network cards that filter VLANs drop frames that are tagged only
/// with a priority, which the DHCP answers of some networks are.
const ALWAYS_LOADED: [&str; 1] = ["8021q"];

/// The most directories in a path of /sys; devices are never nested so deep.
const MAX_DEPTH: usize = 32;

/// The modules of the running kernel.
pub(crate) struct Modules {
    directory: PathBuf,
    index: Index,
    /// The files that have been tried, and whether they are loaded, so that no file is tried again for every device.
    done: BTreeMap<String, bool>,
}

/// The directory of the running kernel's modules, if the image has any.
pub(crate) fn directory() -> Option<PathBuf> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let directory = Path::new("/lib/modules").join(release.trim());
    directory.join("modules.dep").exists().then_some(directory)
}

impl Modules {
    fn open(directory: PathBuf) -> Self {
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
        let index = Index::parse(
            &read("modules.dep"),
            &read("modules.alias"),
            &read("modules.softdep"),
        );
        Self {
            directory,
            index,
            done: BTreeMap::new(),
        }
    }

    /// Loads the modules with this name or alias, and those that they need. False if there is none, or if one cannot be
    /// loaded, which is logged.
    fn load(&mut self, name: &str) -> bool {
        let mut last = false;
        for file in self.index.files_for(name) {
            if let Some(done) = self.done.get(file) {
                last = *done;
                continue;
            }
            let path = self.directory.join(file);
            let result = File::open(&path)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
                .and_then(|module| finit_module(module, c"", ModuleInitFlags::empty()));
            last = match result {
                // Another process may have loaded it in the meantime.
                Ok(()) | Err(Errno::EEXIST) => true,
                // The machine has no such device.
                Err(Errno::ENODEV) => false,
                Err(errno) => {
                    say(format_args!(
                        "cannot load the module {}: {}",
                        path.display(),
                        errno.desc()
                    ));
                    false
                }
            };
            self.done.insert(file.to_owned(), last);
        }
        // The last file is the module itself; the others are those that it needs.
        last
    }

    /// Makes the device nodes whose modules the kernel loads when they are opened, such as /dev/net/tun.
    fn make_devices(&self) {
        for (name, number) in self.index.devices() {
            let path = Path::new("/dev").join(name);
            let is_plain = path.components().all(|part| part != Component::ParentDir);
            let made = path.parent().filter(|_| is_plain).map(fs::create_dir_all);
            let kind = if number.is_block {
                SFlag::S_IFBLK
            } else {
                SFlag::S_IFCHR
            };
            if let Some(Ok(())) = made {
                // Fails if the kernel has made it already.
                let mode = Mode::S_IRUSR | Mode::S_IWUSR;
                let _ = mknod(&path, kind, mode, makedev(number.major, number.minor));
            }
        }
    }

    /// Loads the modules of all devices beneath a directory of /sys.
    fn load_for_devices(&mut self, directory: &Path, depth: usize) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() && depth < MAX_DEPTH {
                self.load_for_devices(&entry.path(), depth + 1);
            } else if kind.is_file() && entry.file_name() == "modalias" {
                let alias = fs::read_to_string(entry.path()).unwrap_or_default();
                self.load(alias.trim());
            }
        }
    }
}

/// Runs the role. Returns only if it cannot listen for devices.
pub(crate) fn run() -> Result<(), Errno> {
    let Some(directory) = directory() else {
        return Err(Errno::ENOENT);
    };
    let mut modules = Modules::open(directory);
    // Listen first, so that no device is missed that appears while /sys is read.
    let events = listen()?;
    for name in ALWAYS_LOADED {
        modules.load(name);
    }
    modules.make_devices();
    let all = Path::new("/sys/devices");
    modules.load_for_devices(all, 0);
    let mut buffer = [0; 8192];
    loop {
        match recv(events.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                if let Some(alias) = added_alias(&buffer[..length]) {
                    modules.load(alias);
                }
            }
            Err(Errno::EINTR) => {}
            // Messages were lost, so look at all devices.
            Err(Errno::ENOBUFS) => modules.load_for_devices(all, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// A socket for the kernel's messages about devices (netlink(7), NETLINK_KOBJECT_UEVENT).
fn listen() -> nix::Result<OwnedFd> {
    let events = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    // Group 1: messages of the kernel, not of udev.
    bind(events.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
    Ok(events)
}

/// The module alias in a message, if it is about a device that was added. The message is strings separated by NUL.
fn added_alias(message: &[u8]) -> Option<&str> {
    let value = |key: &str| {
        message
            .split(|byte| *byte == 0)
            .filter_map(|text| str::from_utf8(text).ok())
            .find_map(|text| text.strip_prefix(key))
    };
    (value("ACTION=") == Some("add")).then(|| value("MODALIAS="))?
}

/// Runs as `/sbin/modprobe`, which the kernel calls with `-q -- NAME` (kernel/module/kmod.c).
pub(crate) fn modprobe(args: impl Iterator<Item = OsString>) -> ExitCode {
    let names = args.filter_map(|arg| arg.into_string().ok());
    let names: Vec<String> = names.filter(|name| !name.starts_with('-')).collect();
    let Some(directory) = directory() else {
        return ExitCode::FAILURE;
    };
    let mut modules = Modules::open(directory);
    let loaded = names.iter().all(|name| modules.load(name));
    if loaded && !names.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::added_alias;

    #[test]
    fn only_what_was_added_is_loaded_for() {
        let message = |action: &str| {
            format!(
                "{action}@/devices/x\0ACTION={action}\0DEVPATH=/devices/x\0MODALIAS=pci:v1\0SEQNUM=1\0"
            )
        };
        assert_eq!(added_alias(message("add").as_bytes()), Some("pci:v1"));
        assert_eq!(added_alias(message("remove").as_bytes()), None);
        assert_eq!(added_alias(b"add@/devices/x\0ACTION=add\0"), None);
        assert_eq!(added_alias(b"\xff\0\0"), None);
    }
}
