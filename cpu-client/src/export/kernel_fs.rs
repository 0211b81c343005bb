//! File systems that show this machine's kernel, devices and processes. The machine has its own, and nothing of these is
//! served: through proc(5) a peer could read the memory of every process of the user.

use std::collections::HashSet;

/// `f_type` of statfs(2), from Linux's `magic.h`; some are defined where the file system is.
const KERNELS: [i64; 21] = [
    0x9fa0, // proc
    SYSFS,
    CONFIGFS,
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x0765_5821, // resctrl
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x6573_5543, // fusectl
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x4249_4e4d, // binfmt_misc
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0xabba_1974, // xenfs
    0x6759_6969, // rpc_pipefs
    0x6e73_6673, // namespaces
];

const SYSFS: i64 = 0x6265_6572;
const CONFIGFS: i64 = 0x6265_6570;

/// Whether this is the type of such a file system.
pub(super) fn is_kernels(f_type: i64) -> bool {
    // The type is signed on some systems.
    KERNELS.contains(&(f_type & 0xffff_ffff))
}

/// Whether its files report one page as their size, though they are shorter.
pub(super) fn has_page_sizes(f_type: i64) -> bool {
    matches!(f_type, SYSFS | CONFIGFS)
}

/// The devices of devtmpfs, which has the type of tmpfs.
#[derive(Default)]
pub(super) struct DevtmpfsDevices(HashSet<u64>);

impl DevtmpfsDevices {
    /// Those that are mounted when cpu starts: there is one for the whole kernel.
    pub(super) fn mounted() -> Self {
        Self::parse(&std::fs::read("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(mountinfo: &[u8]) -> Self {
        let device = |line: &[u8]| {
            let line = str::from_utf8(line).ok()?;
            let (mount, kind) = line.split_once(" - ")?;
            if kind.split(' ').next() != Some("devtmpfs") {
                return None;
            }
            let (major, minor) = mount.split(' ').nth(2)?.split_once(':')?;
            Some(major.parse::<u64>().ok()? << 32 | minor.parse::<u64>().ok()?)
        };
        Self(
            mountinfo
                .split(|&b| b == b'\n')
                .filter_map(device)
                .collect(),
        )
    }

    pub(super) fn contains(&self, device: u64) -> bool {
        self.0.contains(&device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devtmpfs_is_known_by_its_device() {
        let table = b"22 1 259:2 / / rw shared:1 - ext4 /dev/sda rw\n\
            24 22 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw,size=8G\n\
            25 22 0:22 / /run rw - tmpfs tmpfs rw\nbroken\n";
        let devices = DevtmpfsDevices::parse(table);
        assert!(devices.contains(5) && !devices.contains(22));
        assert!(!devices.contains(259 << 32 | 2));
    }

    #[test]
    fn the_kernels_file_systems_are_known_by_their_types() {
        for path in [c"/proc", c"/sys", c"/dev/pts"] {
            let kind = rustix::fs::statfs(path).unwrap().f_type;
            assert!(is_kernels(kind), "{path:?}");
        }
        assert!(!is_kernels(rustix::fs::statfs(c"/usr").unwrap().f_type));
    }
}
