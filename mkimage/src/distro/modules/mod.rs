//! Kernel modules: which ones an appliance needs, what these need in turn, and the tree that cpud loads
//! them from. What a module says of itself is in its section `.modinfo` (include/linux/module.h), so no
//! index of a depmod that ran before is needed; ours is in its format (modules.dep(5)).

mod groups;
mod index;
mod modinfo;
mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use self::modinfo::{Module, module_name};
use super::store::Store;
use crate::archive::decompress::{self, Sum};
use crate::archive::newc::FileTree;
use crate::read::{MAX_FILE, MAX_TEXT};

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
    #[error("cannot unpack the module {path}")]
    Packed {
        path: PathBuf,
        source: decompress::Error,
    },
    #[error("the modules of {path} are too much for memory: choose fewer with --modules")]
    Memory {
        path: PathBuf,
        source: decompress::Error,
    },
    #[error("the module {path} is of kernel {got}, and the kernel is {wanted}")]
    OtherKernel {
        path: PathBuf,
        got: String,
        wanted: String,
    },
}

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
        let built_in = format!("{prefix}modules.builtin");
        let built_in = match store.read(&built_in, MAX_TEXT) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Read {
                    path: origin.join(built_in),
                    source: error,
                });
            }
            read => read.unwrap_or_default(),
        };
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

    /// Whether a module is not here. Of a kernel that does not say what is built in, nothing is known.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        !self.paths.contains_key(name) && !self.built_in.is_empty() && !self.built_in.contains(name)
    }

    /// One module; `sum` counts all that are read.
    fn read(&self, name: &str, sum: &mut Sum) -> Result<Module, Error> {
        let path = self.origin.join(&self.paths[name]);
        let packed = self
            .store
            .read(&self.paths[name], MAX_FILE)
            .map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })?;
        let length = packed.len();
        let bytes = match decompress::unpack_first(&packed, MAX_FILE) {
            Ok(Some(unpacked)) => unpacked.bytes,
            Ok(None) => packed,
            Err(source) => return Err(Error::Packed { path, source }),
        };
        sum.add(length, bytes.len())
            .map_err(|source| Error::Memory {
                path: self.origin.to_owned(),
                source,
            })?;
        Module::parse(bytes).map_err(|reason| Error::Damaged { path, reason })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::arch::Arch;
    use crate::archive::compress::Compression;
    use crate::archive::newc::EntryBody;

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
    fn an_algorithm_that_is_asked_for_by_its_name_comes_along() {
        let fake = FakeModules::new();
        let magic = "vermagic=6.1-x SMP";
        let (disk, sum) = ([magic, "softdep=pre: sum32"], [magic, "alias=crypto-sum32"]);
        fake.put("kernel/fs/disk.ko", &module(&disk));
        fake.put("kernel/crypto/sum32_generic.ko", &module(&sum));
        let chosen = fake.choose(&["disk"]).unwrap();
        assert_eq!(
            text(&chosen, "modules.dep"),
            "disk.ko:\nsum32_generic.ko:\n"
        );
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
