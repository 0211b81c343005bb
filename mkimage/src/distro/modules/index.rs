//! The tree that cpud loads modules from, with the index files of depmod (modules.dep(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Selection;
use super::modinfo::Module;
use crate::archive::newc::{EntryBody, FileTree};

/// The files that cpud finds its modules by: `modules.dep`, `modules.softdep` and `modules.alias`.
pub(super) fn pack(chosen: BTreeMap<String, Module>, release: &str) -> Selection {
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
