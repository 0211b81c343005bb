//! Trees of several devices.

use super::confined::child;
use super::*;

/// The inode number that Linux's client shows for a file, from its attributes and from its directory's entry.
fn shown(raw: &mut RawClient, path: &std::path::Path) -> u64 {
    let inside = path;
    raw.walk(0, 1, inside.to_str().unwrap()).unwrap();
    let number = getattr(raw, 1).qid.path.wrapping_add(2);
    raw.clunk(1).unwrap();
    let directory = inside.parent().unwrap().to_str().unwrap();
    raw.open(1, directory, RDONLY).unwrap();
    let name = inside.file_name().unwrap().as_encoded_bytes();
    let mut offset = 0;
    let entry = loop {
        let entries = readdir(raw, 1, offset, 8192).unwrap();
        offset = entries.last().unwrap().offset;
        if let Some(entry) = entries.into_iter().find(|entry| entry.name == name) {
            break entry;
        }
    };
    assert_eq!(entry.qid.path.wrapping_add(2), number);
    raw.clunk(1).unwrap();
    number
}

#[test]
fn the_homes_device_keeps_its_numbers_and_others_have_their_own_in_32_bits() {
    let (served, _) = served();
    served.mkdir("there");
    served.mkdir("here");
    let script = "mount -t tmpfs none \"$EXPORT/here\" && exec \"$@\"";
    let through = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
    ];
    child("devices::child_with_two_devices", &served, &through);
}

#[test]
#[ignore = "run by the_homes_device_keeps_its_numbers_and_others_have_their_own_in_32_bits, in a process of its own"]
fn child_with_two_devices() {
    let root = PathBuf::from(std::env::var_os("EXPORT").unwrap());
    let homes = ["there", "here"].map(PathBuf::from);
    let files = homes.each_ref().map(|home| home.join("file"));
    let own = files.each_ref().map(|file| {
        fs::write(root.join(file), "").unwrap();
        root.join(file).metadata().unwrap()
    });
    assert_ne!(own[0].dev(), own[1].dev());
    let own = own.map(|meta| meta.ino());
    let mut of_others = Vec::new();
    for home in [&homes[0], &homes[1], &homes[1]] {
        let export = Arc::new(Export::with_home(&root, home).unwrap());
        let mut raw = RawClient::attached(export, Config::default());
        for (file, own) in files.iter().zip(own) {
            let number = shown(&mut raw, file);
            if file.starts_with(home) {
                assert_eq!(number, own);
            } else {
                assert!(
                    (1 << 31..1 << 32).contains(&number),
                    "{number:#x} for {own:#x}"
                );
                of_others.push(number);
            }
        }
    }
    let distinct: HashSet<u64> = of_others.iter().copied().collect();
    assert_eq!(
        distinct.len(),
        2,
        "each file has one in every session: {of_others:#x?}"
    );
}

#[test]
fn a_home_that_is_not_there_is_the_roots_device() {
    let (served, _) = served();
    served.write("f", "");
    let export = Export::with_home(&served.path(""), "/no/such".as_ref()).unwrap();
    let mut raw = RawClient::attached(Arc::new(export), Config::default());
    raw.walk(0, 1, "f").unwrap();
    let number = getattr(&mut raw, 1).qid.path + 2;
    assert_eq!(number, served.path("f").metadata().unwrap().ino());
}
