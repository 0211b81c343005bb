//! The file systems that are mounted in the tree when cpu starts, from `/proc/self/mountinfo` (proc(5)). The file systems
//! themselves are not asked, since one on a network may not answer.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use cpu_proto::fstab;

/// File systems without a block device in which people keep files, besides those of FUSE.
const NO_DEVICE: [&[u8]; 10] = [
    b"btrfs",
    b"zfs",
    b"bcachefs",
    b"nfs",
    b"nfs4",
    b"cifs",
    b"smb3",
    b"ceph",
    b"overlay",
    b"virtiofs",
];

/// The disks and network file systems that are mounted beneath `root`: for each, its mount points. They are sorted by
/// depth, so that USB sticks and snaps, which are mounted deep and come and go, do not change the order of the others.
/// Empty if there is no proc(5).
pub(super) fn mounted(root: &Path) -> Vec<Vec<Vec<u8>>> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    sorted(&text, &root)
}

fn sorted(text: &[u8], root: &Path) -> Vec<Vec<Vec<u8>>> {
    let mut devices: HashMap<_, Vec<Vec<u8>>> = HashMap::new();
    for line in text.split(|&b| b == b'\n') {
        if let Some((device, place)) = parse(line)
            && let Ok(inside) = place.strip_prefix(root)
            && inside != Path::new("")
        {
            let place = Path::new("/").join(inside).into_os_string();
            devices
                .entry(device)
                .or_default()
                .push(place.as_bytes().into());
        }
    }
    let key = |place: &Vec<u8>| (place.split(|&b| b == b'/').count(), place.clone());
    let mut devices: Vec<_> = devices.into_values().collect();
    for places in &mut devices {
        places.sort_by_cached_key(key);
    }
    devices.sort_by_cached_key(|places| places.first().map(key));
    devices
}

/// What identifies a device: its number, and for btrfs the subvolume too, since stat(2) shows a device for each.
type DeviceId<'a> = (&'a [u8], &'a [u8]);

/// Parses a line such as `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue` into the device
/// and its mount point. None if people keep no files in this kind of file system.
fn parse(line: &[u8]) -> Option<(DeviceId<'_>, PathBuf)> {
    let mut fields = line.split(|&b| b == b' ');
    let device = fields.nth(2)?;
    let place = fields.nth(1)?;
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    let has_files =
        !device.starts_with(b"0:") || NO_DEVICE.contains(&kind) || kind.starts_with(b"fuse");
    let subvolume = options
        .split(|&b| b == b',')
        .find(|o| o.starts_with(b"subvolid="));
    let place = fstab::unescape(place).ok()?;
    let device = (device, subvolume.unwrap_or_default());
    has_files.then(|| (device, OsStr::new(&place).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] =
        br"22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
23 22 0:21 / /proc rw,nosuid shared:12 - proc proc rw
24 22 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw,size=8G
25 22 0:22 / /run rw,nosuid,noexec shared:5 - tmpfs tmpfs rw,size=1G
30 22 259:3 / /srv/a\040b rw - xfs /dev/nvme0n1p3 rw
31 22 259:1 / /boot/efi rw,relatime shared:29 - vfat /dev/nvme0n1p1 rw
32 22 0:40 /@home /home rw shared:30 - btrfs /dev/sda rw,subvolid=257,subvol=/@home
33 22 0:40 /@data /data rw shared:31 - btrfs /dev/sda rw,subvolid=258,subvol=/@data
34 22 0:40 /@data/x /mnt rw shared:31 master:4 - btrfs /dev/sda rw,subvolid=258,subvol=/@data
35 22 0:41 / /net/home rw - nfs4 server:/home rw,vers=4.2
36 22 0:42 / /media/me/PHONE rw - fuse.jmtpfs jmtpfs rw
broken
";

    fn places(root: &str) -> Vec<String> {
        let sorted = sorted(TABLE, Path::new(root));
        let names = sorted.iter().map(|places| places.join(&b' '));
        names
            .map(|names| String::from_utf8(names).unwrap())
            .collect()
    }

    #[test]
    fn disks_and_network_file_systems_are_found() {
        let all = [
            "/data /mnt",
            "/home",
            "/boot/efi",
            "/net/home",
            "/srv/a b",
            "/media/me/PHONE",
        ];
        assert_eq!(places("/"), all);
        assert_eq!(places("/srv"), ["/a b"]);
        assert_eq!(places("/srv/a b"), [""; 0]);
        assert_eq!(places("/home"), [""; 0]);
    }

    #[test]
    fn this_machines_table_can_be_parsed() {
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        // Every line has a mount point.
        assert!(lines.into_iter().all(|line| {
            let with_disk: Vec<_> = line.splitn(4, |&b| b == b' ').collect();
            let line = [with_disk[0], with_disk[1], b"8:1", with_disk[3]].join(&b' ');
            parse(&line).is_some()
        }));
    }
}
