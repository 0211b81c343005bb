//! The inode numbers that stat(2) shows on the machine.
//!
//! The tree may consist of several devices here, but is one device there, so the numbers must be distinct over all of them.
//! (9P's qid.path is the number minus 2, which Linux's client adds, `QID2INO`.) Programs require more: git keeps 32 bits in
//! its index and reads a file again when they change, in the next session or here; JavaScript keeps 53 bits; and programs
//! of 32 bits get `EOVERFLOW` for a number that has more. So each device has a range below 2^32 for its small numbers:
//!
//! | range | device |
//! |---|---|
//! | `0x0000_0000` to `0x7fff_ffff` | that of the user's home; the numbers are unchanged |
//! | `0x8000_0000` to `0xbfff_ffff` | that of the root, if it is another |
//! | `0xc000_0000` to `0xf7ff_ffff` | seven that are mounted in the tree, 2^27 numbers each ([`super::mounts`]) |
//! | `0xf800_0000` to `0xffff_ffff` | 128 others, 2^20 numbers each, assigned by the path of the mount point |
//!
//! Numbers that do not fit have more than 32 bits. Those of the home's device are unchanged; others consist of bit 52, the
//! device's share, and 42 bits. For file systems with even larger numbers (gluster and mergerfs use hashes of names), 51 bits
//! of a hash are taken. Two of these may collide: for a million such files the probability is 1 in 4,000.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use super::stat::{FileId, mix};

/// The share of the home's device.
const HOME: u64 = 0;
/// The share of the root's device.
const ROOT: u64 = 1;
/// The first share of a device that was mounted when cpu started.
const MOUNTED: u64 = 2;
/// The number of such shares.
pub(super) const MOUNTS: usize = 7;
/// The first share of any other device.
const OTHER: u64 = 9;
const OTHER_SHARES: u64 = 128;
/// The number of shares. Devices beyond them only get hashes.
const SHARES: u64 = OTHER + OTHER_SHARES;

/// Numbers with at most this many bits are not hashed.
const OWN_BITS: u32 = 52;
/// The bits below the share in a number with more than 32 bits.
const WIDE_BITS: u32 = 42;

/// The share of each device. It is the same in all sessions of this process and, as far as possible, in later ones.
pub(super) struct Devices {
    known: RwLock<HashMap<u64, u64>>,
    /// The shares by mount point.
    mounted: HashMap<Vec<u8>, u64>,
}

impl Devices {
    /// `root` and `home` are devices; `mounted` has the mount points of others, one list for each device.
    pub(super) fn new(root: u64, home: u64, mounted: Vec<Vec<Vec<u8>>>) -> Self {
        let shares = (MOUNTED..).zip(mounted);
        let mounted = shares.take(MOUNTS).flat_map(|(share, places)| {
            let with_share = move |place| (place, share);
            places.into_iter().map(with_share)
        });
        Self {
            // The home comes last, since it may be the root too.
            known: RwLock::new(HashMap::from([(root, ROOT), (home, HOME)])),
            mounted: mounted.collect(),
        }
    }

    /// The share of a device; `place` is the path of its mount point.
    pub(super) fn share(&self, device: u64, place: impl FnOnce() -> Vec<u8>) -> u64 {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(&share) = known.get(&device) {
            return share;
        }
        drop(known);
        let place = place();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let taken: HashSet<u64> = known.values().copied().collect();
        let hash = hash(&place);
        let mounted = self.mounted.get(&place).copied();
        // The next free one, if the hashes of two places are the same.
        let other = (0..OTHER_SHARES).map(|n| OTHER + hash.wrapping_add(n) % OTHER_SHARES);
        // Not a share: `number` will hash the inode numbers.
        let beyond = (0..).map(|n| hash.wrapping_add(n) | 1 << 63);
        let mut wanted = mounted.into_iter().chain(other).chain(beyond);
        let share = wanted.find(|share| !taken.contains(share));
        let share = share.unwrap_or(hash);
        *known.entry(device).or_insert(share)
    }

    /// The inode number of a file.
    pub(super) fn number(&self, id: FileId, place: impl FnOnce() -> Vec<u8>) -> u64 {
        number(self.share(id.device, place), id.inode)
    }
}

/// The inode number there of the file with number `inode` on a device with this share.
pub(super) fn number(share: u64, inode: u64) -> u64 {
    if let Some((base, bits)) = narrow(share)
        && inode < 1 << bits
    {
        return base | inode;
    }
    if share == HOME && (1 << 32..1 << OWN_BITS).contains(&inode) {
        return inode;
    }
    if share < SHARES && inode < 1 << WIDE_BITS {
        return 1 << OWN_BITS | share << WIDE_BITS | inode;
    }
    3 << (OWN_BITS - 1) | mix(inode ^ mix(share + 1)) >> (65 - OWN_BITS)
}

/// The range of a share below 2^32: its first number, and the number of bits.
fn narrow(share: u64) -> Option<(u64, u32)> {
    match share {
        HOME => Some((0, 31)),
        ROOT => Some((1 << 31, 30)),
        MOUNTED..OTHER => Some(((24 + share - MOUNTED) << 27, 27)),
        OTHER..SHARES => Some(((31 << 27) + ((share - OTHER) << 20), 20)),
        _ => None,
    }
}

/// A hash that is the same in every process.
fn hash(place: &[u8]) -> u64 {
    place
        .iter()
        .fold(0, |sum, &b| mix(sum ^ (u64::from(b) + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Both ends of each size.
    const INODES: [u64; 16] = [
        1,
        2,
        (1 << 20) - 1,
        1 << 20,
        (1 << 27) - 1,
        1 << 27,
        (1 << 30) - 1,
        1 << 30,
        (1 << 31) - 1,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        (1 << 42) - 1,
        1 << 42,
        (1 << 52) - 1,
        1 << 52,
    ];

    #[test]
    fn no_two_files_have_the_same_number_and_none_is_too_large() {
        let mut all = HashSet::new();
        for share in 0..SHARES {
            for inode in INODES {
                let number = number(share, inode);
                assert!(number < 1 << 53, "{share} {inode:#x}: {number:#x}");
                assert!(all.insert(number), "{share} {inode:#x}: {number:#x}");
                let fits = narrow(share).is_some_and(|(_, bits)| inode < 1 << bits);
                assert_eq!(number < 1 << 32, fits, "{share} {inode:#x}: {number:#x}");
            }
        }
    }

    #[test]
    fn a_home_keeps_its_numbers() {
        for inode in INODES {
            let is_kept = !(1 << 31..1 << 32).contains(&inode) && inode < 1 << 52;
            assert_eq!(number(HOME, inode) == inode, is_kept, "{inode:#x}");
        }
    }

    proptest! {
        #[test]
        fn numbers_lead_back_to_the_file(
            (one, other) in (0..SHARES, 0..SHARES),
            (a, b) in (0..42_u32, 0..42_u32),
            (x, y) in any::<(u64, u64)>(),
        ) {
            let (x, y) = (x >> (63 - a), y >> (63 - b));
            prop_assert_eq!(number(one, x) == number(other, y), (one, x) == (other, y));
        }

        #[test]
        fn whatever_a_device_has_fits_in_53_bits(share: u64, inode: u64) {
            let share = if share < 1 << 63 { share % SHARES } else { share };
            prop_assert!(number(share, inode) < 1 << 53);
        }
    }

    fn place(name: &str) -> impl FnOnce() -> Vec<u8> {
        let name = name.into();
        move || name
    }

    #[test]
    fn shares_do_not_depend_on_what_is_met_first() {
        let devices = || {
            let mounted = [&["/data", "/srv/data"][..], &["/var"]];
            let mounted = mounted.map(|places| places.iter().map(|&p| p.into()).collect());
            Devices::new(10, 11, mounted.into())
        };
        let all = [
            (10, "/"),
            (11, "/home"),
            (12, "/data"),
            (13, "/var"),
            (14, "/tmp"),
            (15, "/run"),
        ];
        let shares = |devices: &Devices, order: &[usize]| {
            let mut shares = order
                .iter()
                .map(|&n| (n, devices.share(all[n].0, place(all[n].1))));
            let mut found = [0; 6];
            for (n, share) in &mut shares {
                found[n] = share;
            }
            found
        };
        let forward = shares(&devices(), &[0, 1, 2, 3, 4, 5]);
        assert_eq!(forward[..4], [ROOT, HOME, MOUNTED, MOUNTED + 1]);
        assert_eq!(shares(&devices(), &[5, 4, 3, 2, 1, 0]), forward);
        // After a reboot the devices have other numbers, and are met at other paths.
        let devices = devices();
        assert_eq!(devices.share(99, place("/srv/data")), MOUNTED);
        assert_eq!(devices.share(98, place("/tmp")), forward[4]);
        // A home on the root's device gets the home's share.
        assert_eq!(Devices::new(10, 10, Vec::new()).share(10, place("/")), HOME);
    }

    #[test]
    fn devices_without_end_have_shares_while_there_are_any() {
        let devices = Devices::new(0, 0, Vec::new());
        let mut all = HashSet::new();
        for device in 1..1000 {
            // All at the same path, as with the layers of an overlay.
            let share = devices.share(device, place("/"));
            assert_eq!(share, devices.share(device, || unreachable!("it is known")));
            assert!(all.insert(share));
            assert_eq!((OTHER..SHARES).contains(&share), device <= OTHER_SHARES);
        }
    }
}
