//! Kernel modules, for kernels that have their drivers so: mkimage puts those that matter into the image,
//! with an index. Two ways lead here. The *modules* role loads what the devices that there are ask for,
//! and then what devices ask for that come later; and the kernel runs `/sbin/modprobe`, which is this
//! program, when something in it wants a module, such as the first mount of 9P.

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

/// What nothing asks for in time. While 8021q is not there, cards that filter VLANs drop frames that are tagged
/// with a priority only, such as some networks' DHCP answers.
const ALWAYS_LOADED: [&str; 1] = ["8021q"];

/// As deep as devices are ever nested, and more.
const MAX_DEPTH: usize = 32;

/// The modules of the running kernel.
pub(crate) struct Modules {
    directory: PathBuf,
    index: Index,
    /// What was loaded, or failed to (false), so that it is not tried with every device of its kind.
    done: BTreeMap<String, bool>,
}

/// Where the modules of the running kernel are, if the image has any.
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

    /// Load what is known by this name, with all that it needs. False when nothing is, or when it
    /// cannot be loaded, which is said on the console.
    fn load(&mut self, wanted: &str) -> bool {
        let mut last = false;
        for file in self.index.files_for(wanted) {
            if let Some(done) = self.done.get(file) {
                last = *done;
                continue;
            }
            let path = self.directory.join(file);
            let result = File::open(&path)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
                .and_then(|module| finit_module(module, c"", ModuleInitFlags::empty()));
            last = match result {
                // Somebody else may have been faster.
                Ok(()) | Err(Errno::EEXIST) => true,
                // The machine does not have what the driver is for.
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
        // The last one is what was wanted; the others it needs.
        last
    }

    /// Make the devices whose modules the kernel loads when somebody opens them, such as /dev/net/tun.
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
                // One that is there already is the kernel's own.
                let mode = Mode::S_IRUSR | Mode::S_IWUSR;
                let _ = mknod(&path, kind, mode, makedev(number.major, number.minor));
            }
        }
    }

    /// Load what every device beneath a directory of /sys asks for.
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

/// The role: never returns unless it cannot listen.
pub(crate) fn run() -> Result<(), Errno> {
    let Some(directory) = directory() else {
        return Err(Errno::ENOENT);
    };
    let mut modules = Modules::open(directory);
    // Listen first: what comes while /sys is read is then heard.
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
                if let Some(alias) = added(&buffer[..length]) {
                    modules.load(alias);
                }
            }
            Err(Errno::EINTR) => {}
            // More happened than fits: some of it was not heard, so look at everything.
            Err(Errno::ENOBUFS) => modules.load_for_devices(all, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// The kernel's messages about devices, netlink(7), NETLINK_KOBJECT_UEVENT.
fn listen() -> nix::Result<OwnedFd> {
    let events = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    // Group 1 is the kernel's own.
    bind(events.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
    Ok(events)
}

/// The alias of a device that was added, from texts with zeros between them.
fn added(message: &[u8]) -> Option<&str> {
    let value = |key: &str| {
        message
            .split(|byte| *byte == 0)
            .filter_map(|text| str::from_utf8(text).ok())
            .find_map(|text| text.strip_prefix(key))
    };
    (value("ACTION=") == Some("add")).then(|| value("MODALIAS="))?
}

/// `/sbin/modprobe`, as the kernel runs it: `-q -- NAME` (kernel/module/kmod.c).
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
    use super::added;

    #[test]
    fn only_what_was_added_is_loaded_for() {
        let message = |action: &str| {
            format!(
                "{action}@/devices/x\0ACTION={action}\0DEVPATH=/devices/x\0MODALIAS=pci:v1\0SEQNUM=1\0"
            )
        };
        assert_eq!(added(message("add").as_bytes()), Some("pci:v1"));
        assert_eq!(added(message("remove").as_bytes()), None);
        assert_eq!(added(b"add@/devices/x\0ACTION=add\0"), None);
        assert_eq!(added(b"\xff\0\0"), None);
    }
}
