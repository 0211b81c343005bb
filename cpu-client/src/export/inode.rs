//! Inode numbers: what stat(2) there says of files that lie on several devices here.
//!
//! The machine has the tree as one device, so two files must not have one number; 9P's qid.path is that
//! number less the 2 that Linux's client adds (`QID2INO`). Programs want more of it: git keeps 32 bits of it in its index and reads a
//! file again when they differ, in the next session or here; JavaScript keeps 53; and a program of 32 bits gets
//! `EOVERFLOW` for more. So each device has a share of the numbers, small ones if they are small here:
//!
//! | numbers below 2^32 | whose |
//! |---|---|
//! | `0x0000_0000` to `0x7fff_ffff` | the user's home's: as they are |
//! | `0x8000_0000` to `0xbfff_ffff` | the root's, if it is another |
//! | `0xc000_0000` to `0xf7ff_ffff` | seven devices that are mounted in the tree, 2^27 each ([`super::mounts`]) |
//! | `0xf800_0000` to `0xffff_ffff` | 128 others, 2^20 each, by the path of the place where they are met |
//!
//! What does not fit has more than 32 bits: a home's number as it is, another as bit 52, the share and 42 bits. File systems with
//! numbers beyond that (hashes of names, of a gluster or mergerfs) get 51 bits of a hash, of which two may be the same: one chance
//! in 4,000 for a million such files.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use super::stat::{FileId, mix};

/// The home's device.
const HOME: u64 = 0;
/// The root's.
const ROOT: u64 = 1;
/// The first of those that were mounted when cpu was started.
const MOUNTED: u64 = 2;
/// How many of them there may be.
pub(super) const MOUNTS: usize = 7;
/// The first of those that are met.
const MET: u64 = 9;
const MET_SHARES: u64 = 128;
/// All shares that are one.
const SHARES: u64 = MET + MET_SHARES;

/// Of a number, what the largest one with bits of its own has.
const OWN_BITS: u32 = 52;
/// Of a number with more than 32 bits, the bits beside the share.
const WIDE_BITS: u32 = 42;

/// Which share each device has: for all sessions of this process the same, and in the next process again.
pub(super) struct Devices {
    known: RwLock<HashMap<u64, u64>>,
    /// By the places where they are mounted, in an order of their own.
    mounted: HashMap<Vec<u8>, u64>,
}

impl Devices {
    /// The devices of the root and of the home, and the places of others: each group of places is one device.
    pub(super) fn new(root: u64, home: u64, mounted: Vec<Vec<Vec<u8>>>) -> Self {
        let shares = (MOUNTED..).zip(mounted);
        let mounted = shares.take(MOUNTS).flat_map(|(share, places)| {
            let with_share = move |place| (place, share);
            places.into_iter().map(with_share)
        });
        Self {
            // The home last: it may be the root.
            known: RwLock::new(HashMap::from([(root, ROOT), (home, HOME)])),
            mounted: mounted.collect(),
        }
    }

    /// The share of a device; `place` is the path of its highest directory, as it was walked to.
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
        // The next one if two places have the same.
        let met = (0..MET_SHARES).map(|n| MET + hash.wrapping_add(n) % MET_SHARES);
        // Without numbers of their own: `number` makes hashes of theirs.
        let beyond = (0..).map(|n| hash.wrapping_add(n) | 1 << 63);
        let mut wanted = mounted.into_iter().chain(met).chain(beyond);
        let share = wanted.find(|share| !taken.contains(share));
        let share = share.unwrap_or(hash);
        *known.entry(device).or_insert(share)
    }

    /// The number of a file.
    pub(super) fn number(&self, id: FileId, place: impl FnOnce() -> Vec<u8>) -> u64 {
        number(self.share(id.device, place), id.inode)
    }
}

/// The number there of the file with this number on the device of this share.
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

/// What a share has of the numbers below 2^32: the first, and how many bits may follow.
fn narrow(share: u64) -> Option<(u64, u32)> {
    match share {
        HOME => Some((0, 31)),
        ROOT => Some((1 << 31, 30)),
        MOUNTED..MET => Some(((24 + share - MOUNTED) << 27, 27)),
        MET..SHARES => Some(((31 << 27) + ((share - MET) << 20), 20)),
        _ => None,
    }
}

/// The same in every process.
fn hash(place: &[u8]) -> u64 {
    place
        .iter()
        .fold(0, |sum, &b| mix(sum ^ (u64::from(b) + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of each size, and at each end of it.
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
        // After the next boot the devices have other numbers, and are met elsewhere.
        let devices = devices();
        assert_eq!(devices.share(99, place("/srv/data")), MOUNTED);
        assert_eq!(devices.share(98, place("/tmp")), forward[4]);
        // Who is at home on the root's device has its numbers.
        assert_eq!(Devices::new(10, 10, Vec::new()).share(10, place("/")), HOME);
    }

    #[test]
    fn devices_without_end_have_shares_while_there_are_any() {
        let devices = Devices::new(0, 0, Vec::new());
        let mut all = HashSet::new();
        for device in 1..1000 {
            // All at the same place, as an overlay's layers are.
            let share = devices.share(device, place("/"));
            assert_eq!(share, devices.share(device, || unreachable!("it is known")));
            assert!(all.insert(share));
            assert_eq!((MET..SHARES).contains(&share), device <= MET_SHARES);
        }
    }
}
