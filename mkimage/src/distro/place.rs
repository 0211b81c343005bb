//! Where distributions put a kernel and its modules.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::numbers;
use super::store::Store;

/// The newest kernel: the name of its file, and its release. Debian, Ubuntu and older openSUSE have it in /boot under its release,
/// Fedora, openSUSE and Arch beside its modules, and Alpine in /boot under the name of a flavour, such as `lts`.
pub(super) fn find(store: &Store) -> Option<(String, String)> {
    let beneath = |directory| {
        store
            .names()
            .filter_map(move |name| name.strip_prefix(directory))
    };
    let modules = beneath("lib/modules/").filter_map(|name| name.split_once('/'));
    let mut releases: BTreeSet<&str> = modules.map(|(release, _)| release).collect();
    if releases.is_empty() {
        releases = beneath("boot/vmlinuz-").collect();
    }
    let mut releases: Vec<&str> = releases.into_iter().collect();
    releases.sort_by_key(|release| Reverse(numbers(release)));
    for release in &releases {
        let places = [
            format!("boot/vmlinuz-{release}"),
            format!("lib/modules/{release}/vmlinuz"),
            format!("boot/Image-{release}"),
            format!("lib/modules/{release}/Image"),
        ];
        let mut places = places.into_iter();
        if let Some(found) = places.find(|place| store.names().any(|name| name == place)) {
            return Some((found, (*release).to_owned()));
        }
    }
    let flavours = || beneath("boot/vmlinuz-");
    let is_of = |release: &str, flavour: &str| {
        let before = release.strip_suffix(flavour);
        before.is_some_and(|before| before.ends_with('-'))
    };
    let pairs = releases.iter().flat_map(|release| {
        let mine = flavours().filter(|flavour| is_of(release, flavour));
        mine.map(|flavour| (flavour, *release))
    });
    let any = || flavours().next().zip(releases.first().copied());
    let (flavour, release) = { pairs }.next().or_else(any)?;
    Some((format!("boot/vmlinuz-{flavour}"), release.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> Option<(String, String)> {
        let mut store = Store::unnamed().unwrap();
        for name in names {
            store.add((*name).to_owned(), &mut &b"x"[..]).unwrap();
        }
        find(&store)
    }

    #[test]
    fn kernels_are_found_where_each_distribution_has_them() {
        for (names, image, release) in [
            (
                &[
                    "boot/vmlinuz-6.9",
                    "lib/modules/6.9/a.ko",
                    "boot/vmlinuz-6.12",
                    "lib/modules/6.12/a.ko",
                ][..],
                "boot/vmlinuz-6.12",
                "6.12",
            ),
            (
                &["lib/modules/6.1.fc/vmlinuz", "lib/modules/6.1.fc/a.ko"],
                "lib/modules/6.1.fc/vmlinuz",
                "6.1.fc",
            ),
            (
                &["boot/vmlinuz-virt", "lib/modules/6.1-0-virt/a.ko"],
                "boot/vmlinuz-virt",
                "6.1-0-virt",
            ),
            (
                &["boot/Image-6.4-1-default", "lib/modules/6.4-1-default/a.ko"],
                "boot/Image-6.4-1-default",
                "6.4-1-default",
            ),
            // The names of its files say which kernel the newer modules belong to.
            (
                &[
                    "boot/vmlinuz-lts",
                    "boot/vmlinuz-virt",
                    "lib/modules/6.1-0-lts/a.ko",
                    "lib/modules/6.2-0-virt/a.ko",
                ],
                "boot/vmlinuz-virt",
                "6.2-0-virt",
            ),
            // Without its modules.
            (
                &["boot/vmlinuz-6.8-generic"],
                "boot/vmlinuz-6.8-generic",
                "6.8-generic",
            ),
        ] {
            let expected = (image.to_owned(), release.to_owned());
            assert_eq!(found(names), Some(expected), "{names:?}");
        }
        assert_eq!(found(&["lib/modules/6.1/a.ko"]), None);
        assert_eq!(found(&["lib/firmware/a"]), None);
    }
}
