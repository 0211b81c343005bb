//! Kernel modules: which ones an appliance needs, what these need in turn, and the tree that cpud loads
//! them from. What a module says of itself is in its section `.modinfo` (include/linux/module.h), so no
//! index of a depmod that ran before is needed; ours is in its format (modules.dep(5)).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};

use super::store::Store;
use crate::archive::compress;
use crate::archive::newc::{EntryBody, FileTree};

/// Why there are no modules.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{0} has no kernel modules")]
    NoModules(PathBuf),
    #[error("there is no module {0:?}, nor a group of that name (auto, usb, storage, all)")]
    NoModule(String),
    #[error("the module {0} needs {1}, which is not there")]
    Needs(String, String),
    #[error("the module {path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("the module {path} is of kernel {got}, and the kernel is {wanted}")]
    OtherKernel {
        path: PathBuf,
        got: String,
        wanted: String,
    },
}

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

/// What every session needs: 9P over a connection, and the sockets of DHCP.
const ALWAYS: [&str; 4] = ["9p", "9pnet_fd", "af_packet", "unix"];

/// The modules of a kernel, by name: those of modprobe, where `-` is `_`.
pub(crate) struct ModuleSet<'a> {
    store: &'a Store,
    /// Where they came from, for messages.
    origin: &'a Path,
    /// Names of their files.
    paths: BTreeMap<String, String>,
    /// Names that are part of the kernel itself.
    built_in: BTreeSet<String>,
}

/// A module that has been read.
struct Module {
    bytes: Vec<u8>,
    /// What `.modinfo` says, such as `("depends", "mii,crc32")`.
    info: Vec<(String, String)>,
}

/// What goes into an initramfs.
pub(crate) struct Selection {
    /// With `/lib/modules/RELEASE` and `/sbin/modprobe`.
    pub(crate) tree: FileTree,
    /// How many modules.
    pub(crate) count: usize,
    /// Names of firmware files that the modules may ask for.
    pub(crate) firmware: BTreeSet<String>,
}

impl<'a> ModuleSet<'a> {
    /// Those whose files are in `/lib/modules/RELEASE`, or a directory like it, named `prefix`.
    pub(crate) fn find(store: &'a Store, prefix: &str, origin: &'a Path) -> Result<Self, Error> {
        let paths: BTreeMap<String, String> = store
            .names()
            .filter(|name| name.starts_with(prefix))
            .filter_map(|name| Some((module_name(Path::new(name))?, name.to_owned())))
            .collect();
        if paths.is_empty() {
            return Err(Error::NoModules(origin.to_owned()));
        }
        let built_in = store
            .read(&format!("{prefix}modules.builtin"))
            .unwrap_or_default();
        let built_in = String::from_utf8_lossy(&built_in)
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        Ok(Self {
            store,
            origin,
            paths,
            built_in,
        })
    }

    /// The names of a list: groups, `all`, modules, patterns of their names, or paths beneath `kernel/`.
    fn names(&self, list: &[String]) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeSet::new();
        // Whatever else is asked for: without these there is no session.
        names.extend(ALWAYS.iter().flat_map(|member| self.members(member)));
        // The other groups come on top of what every machine has.
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

    fn read(&self, name: &str) -> Result<Module, Error> {
        let path = self.origin.join(&self.paths[name]);
        let packed = self
            .store
            .read(&self.paths[name])
            .map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })?;
        let damaged = |reason: String| Error::Damaged {
            path: path.clone(),
            reason,
        };
        let bytes = match compress::unpack_first(&packed) {
            Ok(Some(unpacked)) => unpacked.bytes,
            Ok(None) => packed,
            Err(error) => return Err(damaged(error.to_string())),
        };
        let info = info(&bytes).map_err(|error| damaged(error.to_string()))?;
        Ok(Module { bytes, info })
    }

    /// The modules of a list with all that they need, for the kernel of this release.
    pub(crate) fn choose(
        &self,
        list: &[String],
        release: &str,
        mut step: impl FnMut(),
    ) -> Result<Selection, Error> {
        let mut pending: VecDeque<String> = self.names(list)?.into_iter().collect();
        let mut chosen: BTreeMap<String, Module> = BTreeMap::new();
        while let Some(name) = pending.pop_front() {
            if chosen.contains_key(&name) {
                continue;
            }
            let module = self.read(&name)?;
            if let Some(magic) = module.values("vermagic").next()
                && magic.split(' ').next() != Some(release)
            {
                return Err(Error::OtherKernel {
                    path: self.origin.join(&self.paths[&name]),
                    got: magic.split(' ').next().unwrap_or_default().to_owned(),
                    wanted: release.to_owned(),
                });
            }
            for needed in module.needs() {
                if self.paths.contains_key(&needed) {
                    pending.push_back(needed);
                } else if !self.built_in.contains(&needed) {
                    return Err(Error::Needs(name, needed));
                }
            }
            // What should be loaded around it may be missing.
            let soft = module.soft_needs();
            pending.extend(
                soft.into_iter()
                    .filter(|name| self.paths.contains_key(name)),
            );
            chosen.insert(name, module);
            step();
        }
        Ok(pack(chosen, release))
    }
}

impl Module {
    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let all = self.info.iter().filter(move |(found, _)| found == key);
        all.map(|(_, value)| value.as_str())
    }

    fn needs(&self) -> Vec<String> {
        let names = self.values("depends").flat_map(|names| names.split(','));
        names.filter(|name| !name.is_empty()).map(normal).collect()
    }

    /// `softdep=pre: a b post: c`
    fn soft_needs(&self) -> Vec<String> {
        let words = self.values("softdep").flat_map(str::split_whitespace);
        words
            .filter(|word| !word.ends_with(':'))
            .map(normal)
            .collect()
    }
}

/// The files that cpud finds its modules by: `modules.dep`, `modules.softdep` and `modules.alias`.
fn pack(chosen: BTreeMap<String, Module>, release: &str) -> Selection {
    let directory = format!("lib/modules/{release}");
    let mut tree: FileTree = ["lib", "lib/modules", &directory, "sbin"]
        .map(|name| (name.to_owned(), (0o755, EntryBody::Directory)))
        .into();
    let (mut dep, mut alias, mut softdep) = (String::new(), String::new(), String::new());
    let mut firmware = BTreeSet::new();
    let count = chosen.len();
    for (name, module) in chosen {
        let _ = write!(dep, "{name}.ko:");
        for needed in module.needs() {
            let _ = write!(dep, " {needed}.ko");
        }
        dep.push('\n');
        for pattern in module.values("alias") {
            let _ = writeln!(alias, "alias {pattern} {name}");
        }
        for words in module.values("softdep") {
            let _ = writeln!(softdep, "softdep {name} {words}");
        }
        firmware.extend(module.values("firmware").map(str::to_owned));
        tree.insert(
            format!("{directory}/{name}.ko"),
            (0o644, EntryBody::File(module.bytes)),
        );
    }
    for (name, text) in [
        ("modules.dep", dep),
        ("modules.alias", alias),
        ("modules.softdep", softdep),
    ] {
        tree.insert(
            format!("{directory}/{name}"),
            (0o644, EntryBody::File(text.into_bytes())),
        );
    }
    // The kernel runs this when it wants a module (CONFIG_MODPROBE_PATH).
    tree.insert(
        "sbin/modprobe".to_owned(),
        (0o777, EntryBody::Symlink("/init".to_owned())),
    );
    Selection {
        tree,
        count,
        firmware,
    }
}

/// The pairs of `.modinfo`.
fn info(module: &[u8]) -> Result<Vec<(String, String)>, object::Error> {
    let file = object::File::parse(module)?;
    let Some(section) = file.section_by_name(".modinfo") else {
        return Ok(Vec::new());
    };
    let data = section.data()?;
    Ok(data
        .split(|byte| *byte == 0)
        .filter_map(|pair| str::from_utf8(pair).ok()?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.replace('\n', " ")))
        .collect())
}

/// `kernel/fs/9p/9p.ko.xz` is `9p`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, suffix) = file.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| normal(name))
}

/// Whether a name is one of a pattern's, which may be written with `-` as file names are.
fn pattern(text: &str) -> Option<impl Fn(&&String) -> bool + use<>> {
    let pattern = glob::Pattern::new(text).ok()?;
    text.contains(['*', '?', '['])
        .then_some(move |name: &&String| {
            pattern.matches(name) || pattern.matches(&name.replace('_', "-"))
        })
}

fn normal(name: impl AsRef<str>) -> String {
    name.as_ref().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::arch::Arch;
    use crate::archive::compress::Compression;

    /// A module of nothing but `.modinfo`: an ELF object with two sections and their names.
    pub(crate) fn module(info: &[&str]) -> Vec<u8> {
        let mut text = Vec::new();
        for pair in info {
            text.extend(pair.as_bytes());
            text.push(0);
        }
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        bytes[16..18].copy_from_slice(&1_u16.to_le_bytes());
        bytes[18..20].copy_from_slice(&62_u16.to_le_bytes());
        bytes[20..24].copy_from_slice(&1_u32.to_le_bytes());
        bytes[52..54].copy_from_slice(&64_u16.to_le_bytes());
        bytes[58..64].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        let text_at = bytes.len();
        bytes.extend(&text);
        let names_at = bytes.len();
        bytes.extend(names);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let table = bytes.len() as u64;
        bytes[40..48].copy_from_slice(&table.to_le_bytes());
        for (name, kind, at, length) in [
            (0_u32, 0_u32, 0, 0),
            (1, 1, text_at, text.len()),
            (10, 3, names_at, names.len()),
        ] {
            bytes.extend(name.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            for word in [0, 0, at as u64, length as u64, 0, 1, 0] {
                bytes.extend(u64::to_le_bytes(word));
            }
        }
        bytes
    }

    struct FakeModules(tempfile::TempDir);

    impl FakeModules {
        fn new() -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            let magic = "vermagic=6.1-x SMP mod_unload";
            fake.put(
                "kernel/drivers/net/ethernet/card/my-card.ko.xz",
                &Compression::Xz
                    .apply(
                        module(&[
                            magic,
                            "depends=mii,core",
                            "alias=pci:v1d2*",
                            "firmware=card/fw.bin",
                            "softdep=pre: helper other-lib",
                        ]),
                        Arch::X86_64,
                    )
                    .unwrap(),
            );
            fake.put("kernel/drivers/net/mii.ko", &module(&[magic, "depends="]));
            fake.put("kernel/lib/helper.ko", &module(&[magic]));
            fake.put("kernel/sound/loud.ko", &module(&[magic, "depends=absent"]));
            fake.put("kernel/sound/old.ko", &module(&["vermagic=5.0 SMP"]));
            fake.put("modules.builtin", b"kernel/lib/core.ko\n");
            fake
        }

        fn put(&self, name: &str, bytes: &[u8]) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }

        fn choose(&self, list: &[&str]) -> Result<Selection, Error> {
            let list: Vec<String> = list.iter().map(|name| (*name).to_owned()).collect();
            let store = Store::directory(self.0.path()).unwrap();
            ModuleSet::find(&store, "", self.0.path())?.choose(&list, "6.1-x", || ())
        }
    }

    fn text(chosen: &Selection, name: &str) -> String {
        match &chosen.tree[&format!("lib/modules/6.1-x/{name}")].1 {
            EntryBody::File(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            body => panic!("{body:?}"),
        }
    }

    #[test]
    fn a_module_brings_what_it_needs() {
        let chosen = FakeModules::new().choose(&["auto"]).unwrap();
        assert_eq!(chosen.count, 3);
        assert_eq!(
            text(&chosen, "modules.dep"),
            "helper.ko:\nmii.ko:\nmy_card.ko: mii.ko core.ko\n"
        );
        assert_eq!(text(&chosen, "modules.alias"), "alias pci:v1d2* my_card\n");
        assert!(chosen.firmware.contains("card/fw.bin"));
        assert!(matches!(&chosen.tree["sbin/modprobe"].1, EntryBody::Symlink(to) if to == "/init"));
    }

    #[test]
    fn lists_are_of_names_paths_and_groups() {
        let fake = FakeModules::new();
        assert_eq!(fake.choose(&["mii", "core"]).unwrap().count, 1);
        assert_eq!(fake.choose(&["drivers/net"]).unwrap().count, 3);
        assert_eq!(fake.choose(&["mi*", "cor?"]).unwrap().count, 1);
        for (list, expected) in [
            ("q[x-z]*", "there is no module \"q[x-z]*\""),
            ("nothing", "there is no module \"nothing\""),
            ("loud", "the module loud needs absent"),
            ("old", "is of kernel 5.0, and the kernel is 6.1-x"),
        ] {
            let Err(error) = fake.choose(&[list]) else {
                panic!("{list} was taken");
            };
            assert!(error.to_string().contains(expected), "{error}");
        }
        fake.put("kernel/bad.ko", b"no module");
        assert!(matches!(fake.choose(&["bad"]), Err(Error::Damaged { .. })));
        let empty = tempfile::tempdir().unwrap();
        let store = Store::directory(empty.path()).unwrap();
        assert!(matches!(
            ModuleSet::find(&store, "", empty.path()),
            Err(Error::NoModules(_))
        ));
    }
}
