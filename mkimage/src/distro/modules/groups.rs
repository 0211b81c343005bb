//! The list of modules that a user asks for: groups, names, patterns of names, and paths.

use std::collections::BTreeSet;

use super::modinfo::normal;
use super::{Error, ModuleSet};

/// Groups by name, as the beginnings of paths beneath `kernel/`, or names of modules.
const GROUPS: [(&str, &[&str]); 3] = [
    (
        "auto",
        &[
            "drivers/net/ethernet/",
            "drivers/net/phy/",
            "drivers/net/mdio/",
            "drivers/net/pcs/",
            "drivers/virtio/",
            "virtio_net",
            "virtio_console",
            "virtio_rng",
            "fs/9p/",
            "9pnet_fd",
            "9pnet_virtio",
            "fuse",
            "virtiofs",
            "overlay",
            "af_packet",
            "unix",
            "ipv6",
            "vsock",
            "vsock_loopback",
            "vmw_vsock_virtio_transport",
            "efivarfs",
            "msr",
            "cpuid",
            // What users of such machines need; the kernels that mkimage builds have some of it.
            "8021q",
            "bridge",
            "tun",
            "veth",
            "binfmt_misc",
            "loop",
            "nvme",
            "ext4",
            "vfat",
            "nls_cp437",
            "nls_ascii",
            "nls_utf8",
            "nfs",
            "nfsv3",
            "nfsv4",
        ],
    ),
    (
        "usb",
        &[
            "drivers/usb/host/",
            "drivers/net/usb/",
            "ftdi_sio",
            "pl2303",
            "cp210x",
        ],
    ),
    (
        "storage",
        &[
            "ahci",
            "ata_piix",
            "nvme",
            "sd_mod",
            "sr_mod",
            "virtio_blk",
            "virtio_scsi",
            "usb_storage",
            "uas",
            "mmc_block",
            "sdhci_pci",
            "ext4",
            "vfat",
            "nls_cp437",
            "nls_ascii",
            "nls_utf8",
            "xfs",
            "btrfs",
            "loop",
            "dm_mod",
        ],
    ),
];

/// What every session needs: 9P over a connection, or else FUSE, and the sockets of DHCP.
const ALWAYS: [&str; 5] = ["9p", "9pnet_fd", "fuse", "af_packet", "unix"];

impl ModuleSet<'_> {
    /// The names of a list: groups, `all`, modules, patterns of their names, or paths beneath `kernel/`.
    pub(super) fn names(&self, list: &[String]) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeSet::new();
        // Always included: without these there is no session.
        names.extend(ALWAYS.iter().flat_map(|member| self.members(member)));
        // The other groups are added to what every machine needs.
        let only_groups = list
            .iter()
            .all(|name| GROUPS.iter().any(|(group, _)| group == name));
        let auto = [GROUPS[0].0.to_owned()];
        let more = if only_groups { &auto[..] } else { &[] };
        for wanted in list.iter().chain(more) {
            if wanted == "all" {
                names.extend(self.paths.keys().cloned());
            } else if let Some((_, members)) = GROUPS.iter().find(|(group, _)| group == wanted) {
                for member in *members {
                    names.extend(self.members(member));
                }
            } else {
                let found = self.members(wanted);
                let built_in = || match pattern(wanted) {
                    Some(matches) => self.built_in.iter().any(|name| matches(&name)),
                    None => self.built_in.contains(&normal(wanted)),
                };
                if found.is_empty() && !built_in() {
                    return Err(Error::NoModule(wanted.clone()));
                }
                names.extend(found);
            }
        }
        Ok(names)
    }

    /// A module by name, all that a pattern of glob(7) names, or all beneath a path.
    fn members(&self, member: &str) -> Vec<String> {
        if let Some(matches) = pattern(member) {
            return self.paths.keys().filter(matches).cloned().collect();
        }
        if member.contains('/') {
            let beneath = format!("kernel/{}/", member.trim_end_matches('/'));
            let found = self
                .paths
                .iter()
                .filter(|(_, path)| path.contains(&beneath));
            return found.map(|(name, _)| name.clone()).collect();
        }
        let name = normal(member);
        self.paths
            .contains_key(&name)
            .then_some(name)
            .into_iter()
            .collect()
    }
}

/// Whether a name is one of a pattern's, which may be written with `-` as file names are.
fn pattern(text: &str) -> Option<impl Fn(&&String) -> bool + use<>> {
    let pattern = glob::Pattern::new(text).ok()?;
    text.contains(['*', '?', '['])
        .then_some(move |name: &&String| {
            pattern.matches(name) || pattern.matches(&name.replace('_', "-"))
        })
}
