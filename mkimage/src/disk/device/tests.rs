use std::os::unix::fs::FileExt as _;

use super::*;

/// A stick of 1 GiB with one partition, as the kernel shows it.
struct FakeStick {
    dir: tempfile::TempDir,
}

impl FakeStick {
    fn new() -> Self {
        let stick = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        stick.put("sys/dev/block/8:16/size", "2097152\n");
        stick.put("sys/dev/block/8:16/removable", "1\n");
        stick.put("sys/dev/block/8:16/device/vendor", "Nice    \n");
        stick.put("sys/dev/block/8:16/device/model", "Stick 1000      \n");
        stick.put("sys/dev/block/8:16/uevent", "DEVNAME=sdb\n");
        stick.put("sys/dev/block/8:16/sdb1/dev", "8:17\n");
        stick.put("sys/dev/block/8:16/sdb1/uevent", "DEVNAME=sdb1\n");
        stick.put("sys/dev/block/8:17/partition", "1\n");
        stick.put(
            "proc/self/mountinfo",
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
        );
        stick
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn find(&self, number: &str, need: u64, force: bool) -> Result<Device, Error> {
        let kernel = PseudoFileSystems {
            sys: self.dir.path().join("sys"),
            proc: self.dir.path().join("proc"),
        };
        let path = Path::new("/dev/sdb");
        let (model, size) = kernel.check(path, number, need, force)?;
        Ok(Device {
            disk: tempfile::tempfile().unwrap(),
            path: path.to_owned(),
            model,
            size,
        })
    }
}

#[test]
fn a_stick_is_found_with_its_model_and_size() {
    let device = FakeStick::new().find("8:16", 1 << 26, false).unwrap();
    assert_eq!(device.to_string(), "/dev/sdb (Nice Stick 1000, 1.0 GB)");
}

#[test]
fn candidates_are_the_sticks_that_nobody_uses() {
    let stick = FakeStick::new();
    let kernel = || PseudoFileSystems {
        sys: stick.dir.path().join("sys"),
        proc: stick.dir.path().join("proc"),
    };
    stick.put("sys/dev/block/8:0/size", "2097152\n");
    stick.put("sys/dev/block/8:0/removable", "0\n");
    stick.put("sys/dev/block/8:0/uevent", "DEVNAME=sda\n");
    let found = kernel().candidates(1 << 26);
    assert_eq!(found, ["/dev/sdb (Nice Stick 1000, 1.0 GB) with sdb1"]);
    assert!(kernel().candidates(1 << 40).is_empty());
    stick.put(
        "proc/self/mountinfo",
        "22 1 8:17 / /media/x rw - ext4 /dev/sdb1 rw\n",
    );
    assert!(kernel().candidates(1 << 26).is_empty());
}

#[test]
fn nothing_in_use_is_taken() {
    let uses = [
        (
            "proc/self/mountinfo",
            "9 1 8:17 / /media/me rw - vfat x rw\n",
            "mounted on /media/me",
        ),
        (
            "proc/swaps",
            "Filename Type\n/dev/sdb1 partition 1 0 -2\n",
            "/dev/sdb1 is swap",
        ),
        ("sys/dev/block/8:16/sdb1/holders/dm-0", "", "by dm-0"),
    ];
    for (name, text, expected) in uses {
        let stick = FakeStick::new();
        stick.put(name, text);
        match stick.find("8:16", 1, true) {
            Err(Error::InUse { by, .. }) => assert_eq!(by, expected),
            _ => panic!("taken although {expected}"),
        }
    }
}

#[test]
fn a_fixed_disk_needs_force_and_a_partition_is_none() {
    let stick = FakeStick::new();
    stick.put("sys/dev/block/8:16/removable", "0\n");
    assert!(matches!(
        stick.find("8:16", 1, false),
        Err(Error::Fixed { .. })
    ));
    assert!(stick.find("8:16", 1, true).is_ok());
    assert!(matches!(
        stick.find("8:17", 1, true),
        Err(Error::Partition(_))
    ));
    assert!(matches!(stick.find("9:9", 1, true), Err(Error::NoDisk(_))));
}

#[test]
fn a_small_stick_is_refused() {
    let error = FakeStick::new().find("8:16", (1 << 30) + 1, true);
    assert!(matches!(error, Err(Error::TooSmall { .. })));
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(
        Device::open(file.path(), 1, true),
        Err(Error::NoDisk(_))
    ));
}

#[test]
fn what_is_written_is_compared() {
    let image = tempfile::tempfile().unwrap();
    (&image).write_all(&vec![7; 3 << 20]).unwrap();
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(4 << 20).unwrap();
    let device = Device {
        disk: disk.reopen().unwrap(),
        path: disk.path().to_owned(),
        model: String::new(),
        size: 4 << 20,
    };
    device.write(&image, Progress::silent()).unwrap();
    let bytes = fs::read(disk.path()).unwrap();
    assert!(bytes[..3 << 20].iter().all(|byte| *byte == 7) && bytes.len() == 4 << 20);
    assert!(device.compare(&image, Progress::silent()).is_ok());
    // In the middle of a later chunk.
    let broken = (2 << 20) + 5;
    disk.as_file().write_all_at(&[8], broken).unwrap();
    match device.compare(&image, Progress::silent()) {
        Err(Error::Differs { offset, .. }) => assert_eq!(offset, broken),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_disk_that_was_checked_is_written_whatever_its_name_means_later() {
    let image = tempfile::tempfile().unwrap();
    (&image).write_all(b"image").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("sdb"), dir.path().join("moved"));
    fs::write(&path, "checked").unwrap();
    let device = Device {
        disk: File::options().read(true).write(true).open(&path).unwrap(),
        path: path.clone(),
        model: String::new(),
        size: 7,
    };
    fs::rename(&path, &moved).unwrap();
    fs::write(&path, "another").unwrap();
    device.write(&image, Progress::silent()).unwrap();
    assert_eq!(fs::read(&moved).unwrap(), b"imageed");
    assert_eq!(fs::read(&path).unwrap(), b"another");
}

#[test]
fn what_cannot_be_written_is_told() {
    let image = tempfile::tempfile().unwrap();
    (&image).write_all(b"image").unwrap();
    let full = Device {
        disk: File::options()
            .read(true)
            .write(true)
            .open("/dev/full")
            .unwrap(),
        path: "/dev/full".into(),
        model: String::new(),
        size: 1 << 20,
    };
    match full.write(&image, Progress::silent()) {
        Err(Error::Io {
            what: "write",
            source,
            ..
        }) => {
            assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
}
