//! What is mounted in the tree when cpu is started, as `/proc/self/mountinfo` says (proc(5)). Nothing is asked of the file systems: one
//! of a network may not answer.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use cpu_proto::fstab;

/// File systems without a device of their own in which people keep files, beside those of FUSE.
const KEPT: [&[u8]; 10] = [
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

/// The devices of disks and networks that are mounted beneath `root`: the places of each, those first
/// whose shortest place is. What is mounted deep, as sticks and snaps are, comes and goes without changing the others' order.
/// Empty where there is no proc(5).
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

/// What makes a device one: its number and, since btrfs has one for each subvolume, which of them.
type DeviceId<'a> = (&'a [u8], &'a [u8]);

/// Of a line such as `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue` the device and
/// where it is mounted, if people keep files in it.
fn parse(line: &[u8]) -> Option<(DeviceId<'_>, PathBuf)> {
    let mut fields = line.split(|&b| b == b' ');
    let device = fields.nth(2)?;
    let place = fields.nth(1)?;
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    let is_kept = !device.starts_with(b"0:") || KEPT.contains(&kind) || kind.starts_with(b"fuse");
    let subvolume = options
        .split(|&b| b == b',')
        .find(|o| o.starts_with(b"subvolid="));
    let place = fstab::unescape(place).ok()?;
    let device = (device, subvolume.unwrap_or_default());
    is_kept.then(|| (device, OsStr::new(&place).into()))
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
    fn disks_and_networks_are_found_by_their_places() {
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
    fn this_machines_own_table_is_read() {
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        // Each has a place, in whatever it is.
        assert!(lines.into_iter().all(|line| {
            let with_disk: Vec<_> = line.splitn(4, |&b| b == b' ').collect();
            let line = [with_disk[0], with_disk[1], b"8:1", with_disk[3]].join(&b' ');
            parse(&line).is_some()
        }));
    }
}
