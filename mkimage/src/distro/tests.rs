//! Kernels of distributions: from small packages of each format, laid out as each distribution does it, and from files.

use super::*;
use crate::archive::package::tests::{apk, deb, pacman, rpm};

fn kernel(config: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmlinuz-6.12.1");
    fs::write(&path, image::tests::kernel(Arch::X86_64)).unwrap();
    fs::write(dir.path().join("config-6.12.1"), config).unwrap();
    (dir, path)
}

fn good() -> String {
    config::NEEDED
        .map(|option| format!("{option}=m\n"))
        .concat()
        + V9FS
        + FUSE
}

const V9FS: &str = "CONFIG_NET_9P=m\nCONFIG_NET_9P_FD=m\nCONFIG_9P_FS=m\n";
const FUSE: &str = "CONFIG_FUSE_FS=m\n";

#[test]
fn a_kernel_says_its_release_and_how_its_initramfs_may_be_packed() {
    let (dir, path) = kernel(&(good() + "CONFIG_RD_ZSTD=y\n"));
    let found = PrebuiltKernel::from_files(&path, dir.path(), Arch::X86_64).unwrap();
    assert_eq!(found.release, "6.12.1");
    assert!(matches!(found.compression(), Ok(Compression::Zstd)));
}

#[test]
fn a_kernel_without_9p_is_taken_if_it_has_fuse() {
    let compression = |without: &[&str]| {
        let config = without
            .iter()
            .fold(good(), |all, lines| all.replace(lines, ""));
        let (dir, path) = kernel(&config);
        let found = PrebuiltKernel::from_files(&path, dir.path(), Arch::X86_64).unwrap();
        found.compression().map_err(|error| error.to_string())
    };
    for lines in [&[V9FS][..], &[FUSE]] {
        assert!(compression(lines).is_ok(), "{lines:?}");
    }
    let error = compression(&[V9FS, FUSE]).unwrap_err();
    assert!(
        error.contains("was built without CONFIG_FUSE_FS (or CONFIG_9P_FS with "),
        "{error}"
    );
    let (dir, path) = kernel(&good());
    let other = PrebuiltKernel::from_files(&path, dir.path(), Arch::Aarch64);
    assert!(matches!(other, Err(Error::Image { .. })));
}

#[test]
fn the_newest_is_by_numbers() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["vmlinuz-6.9.1", "vmlinuz-6.12.0", "vmlinuz.old", "zzz"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let found = newest_of(dir.path(), "vmlinuz-", "").unwrap();
    assert!(found.ends_with("vmlinuz-6.12.0"), "{found:?}");
    let found = newest_of(dir.path(), "vmlinuz-", ".1").unwrap();
    assert!(found.ends_with("vmlinuz-6.9.1"), "{found:?}");
}

/// The kernel's release in the packages here.
const RELEASE: &str = "6.12.1";

/// The module that every machine needs, compressed.
fn module_9p(by: Compression) -> Vec<u8> {
    let module = modules::tests::module(&["vermagic=6.12.1 SMP", "depends=netfs"]);
    by.apply(module, Arch::X86_64).unwrap()
}

/// What `mkimage kernel --modules 9p` does with packages of these names: the files in its initramfs, and how that is compressed.
fn taken(packages: &[(&str, Vec<u8>)], given: usize) -> Result<(Vec<String>, Compression), Error> {
    taken_with(packages, given, "9p")
}

fn taken_with(
    packages: &[(&str, Vec<u8>)],
    given: usize,
    module: &str,
) -> Result<(Vec<String>, Compression), Error> {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = packages
        .iter()
        .map(|(name, _)| dir.path().join(name))
        .collect();
    for (path, (_, bytes)) in paths.iter().zip(packages) {
        fs::write(path, bytes).unwrap();
    }
    let silent = Progress::silent();
    let kernel = PrebuiltKernel::from_packages(&paths[..given], Arch::X86_64, silent)?;
    assert_eq!(kernel.release, RELEASE);
    assert!(kernel.image == image::tests::kernel(Arch::X86_64));
    let compression = kernel.compression()?;
    let chosen = kernel.modules(&[module.to_owned()], silent)?;
    Ok((chosen.tree.into_keys().collect(), compression))
}

fn has_9p(taken: Result<(Vec<String>, Compression), Error>) -> Compression {
    let (names, compression) = taken.unwrap();
    assert!(
        names.iter().any(|name| name == "lib/modules/6.12.1/9p.ko"),
        "{names:?}"
    );
    compression
}

const BUILT_IN: (&str, &[u8]) = (
    "./lib/modules/6.12.1/modules.builtin",
    b"kernel/fs/netfs/netfs.ko\n",
);

#[test]
fn of_debian_one_package_is_enough_and_of_ubuntu_the_one_beside_it_is_taken() {
    let (kernel, config) = (
        image::tests::kernel(Arch::X86_64),
        good() + "CONFIG_RD_ZSTD=y\n",
    );
    let module = module_9p(Compression::Zstd);
    let kernel: (&str, &[u8]) = ("./boot/vmlinuz-6.12.1", &kernel);
    let others: [(&str, &[u8]); 3] = [
        ("./boot/config-6.12.1", config.as_bytes()),
        ("./usr/lib/modules/6.12.1/kernel/fs/9p/9p.ko.zst", &module),
        ("./usr/lib/modules/6.12.1/modules.builtin", BUILT_IN.1),
    ];
    let all = [&[kernel][..], &others].concat();
    let debian = [(
        "linux-image-6.12.1-amd64_6.12.1-1_amd64.deb",
        deb("amd64", &all),
    )];
    assert!(matches!(has_9p(taken(&debian, 1)), Compression::Zstd));

    let image = (
        "linux-image-6.12.1-generic_6.12.1-1_amd64.deb",
        deb("amd64", &[kernel]),
    );
    let modules = (
        "linux-modules-6.12.1-generic_6.12.1-1_amd64.deb",
        deb("amd64", &others),
    );
    assert!(matches!(
        has_9p(taken(&[image.clone(), modules.clone()], 1)),
        Compression::Zstd
    ));
    let renamed = [
        ("image.deb", image.1.clone()),
        ("modules.deb", modules.1.clone()),
    ];
    has_9p(taken(&renamed, 2));
    let alone = taken(&[image], 1).unwrap_err().to_string();
    assert!(
        alone.contains("not its modules") && alone.contains("linux-modules-"),
        "{alone}"
    );
    let other = taken(&[modules], 1).unwrap_err().to_string();
    assert!(other.contains("has no kernel"), "{other}");
}

#[test]
fn of_fedora_the_packages_beside_the_kernel_are_taken() {
    let (kernel, config) = (
        image::tests::kernel(Arch::X86_64),
        good() + "CONFIG_RD_XZ=y\n",
    );
    let core: [(&str, &[u8]); 3] = [
        ("./lib/modules/6.12.1/vmlinuz", &kernel),
        ("./lib/modules/6.12.1/config", config.as_bytes()),
        BUILT_IN,
    ];
    let module = module_9p(Compression::Xz);
    let core = ("kernel-core-6.12.1.x86_64.rpm", rpm("x86_64", &core));
    let modules = rpm(
        "x86_64",
        &[("./lib/modules/6.12.1/kernel/fs/9p/9p.ko.xz", &module)],
    );
    let modules = ("kernel-modules-core-6.12.1.x86_64.rpm", modules);
    assert!(matches!(
        has_9p(taken(&[core.clone(), modules], 1)),
        Compression::Xz
    ));
    let alone = taken(&[core], 1).unwrap_err().to_string();
    assert!(alone.contains("not its modules"), "{alone}");
}

#[test]
fn of_opensuse_alpine_and_arch_one_package_is_enough() {
    let (kernel, config) = (
        image::tests::kernel(Arch::X86_64),
        good() + "CONFIG_RD_GZIP=y\n",
    );
    let [zstd, gzip] = [Compression::Zstd, Compression::Gzip].map(module_9p);
    let suse = rpm(
        "x86_64",
        &[
            ("./usr/lib/modules/6.12.1/vmlinuz", &kernel),
            ("./usr/lib/modules/6.12.1/config", config.as_bytes()),
            ("./usr/lib/modules/6.12.1/kernel/fs/9p/9p.ko.zst", &zstd),
            ("./usr/lib/modules/6.12.1/modules.builtin", BUILT_IN.1),
        ],
    );
    let alpine = apk(
        "x86_64",
        &[
            ("boot/vmlinuz-lts", &kernel),
            ("boot/config-6.12.1", config.as_bytes()),
            ("lib/modules/6.12.1/kernel/fs/9p/9p.ko.gz", &gzip),
            ("lib/modules/6.12.1/modules.builtin", BUILT_IN.1),
        ],
    );
    // Arch's package has no configuration; gzip is what every kernel reads.
    let arch = pacman(
        "x86_64",
        &[
            ("usr/lib/modules/6.12.1/vmlinuz", &kernel),
            ("usr/lib/modules/6.12.1/kernel/fs/9p/9p.ko.zst", &zstd),
            ("usr/lib/modules/6.12.1/modules.builtin", BUILT_IN.1),
        ],
    );
    for (name, package) in [
        ("kernel-default-6.12.1.x86_64.rpm", suse),
        ("linux-lts-6.12.1-r0.apk", alpine),
        ("linux-6.12.1-x86_64.pkg.tar.zst", arch),
    ] {
        assert!(
            matches!(has_9p(taken(&[(name, package)], 1)), Compression::Gzip),
            "{name}"
        );
    }
}

#[test]
fn a_package_with_neither_9p_nor_fuse_is_refused_with_what_to_take() {
    let kernel = image::tests::kernel(Arch::X86_64);
    let other = modules::tests::module(&["vermagic=6.12.1 SMP"]);
    let files: [(&str, &[u8]); 3] = [
        ("lib/modules/6.12.1/vmlinuz", &kernel),
        ("lib/modules/6.12.1/kernel/other.ko", &other),
        BUILT_IN,
    ];
    let name = "linux-6.12.1-x86_64.pkg.tar.zst";
    let package = |files: &[(&str, &[u8])]| [(name, pacman("x86_64", files))];
    let error = taken(&package(&files), 1).unwrap_err().to_string();
    for word in ["9p and fuse", "kernel-modules-core", "linux-image-amd64"] {
        assert!(error.contains(word), "{error}");
    }
    for mount in ["kernel/fs/9p/9p.ko\n", "kernel/fs/fuse/fuse.ko\n"] {
        let built_in = (BUILT_IN.0, mount.as_bytes());
        let files = [files[0], files[1], built_in];
        let taken = taken_with(&package(&files), 1, "other");
        assert!(taken.is_ok(), "{mount}");
    }
    // As with 9P, nobody has to ask for the module.
    let fuse = ("lib/modules/6.12.1/kernel/fs/fuse/fuse.ko", &other[..]);
    let files = [files[0], files[1], fuse, BUILT_IN];
    let (names, _) = taken_with(&package(&files), 1, "other").unwrap();
    assert!(
        names.contains(&"lib/modules/6.12.1/fuse.ko".to_owned()),
        "{names:?}"
    );
}

#[test]
fn a_kernel_with_the_modules_of_another_is_refused() {
    let kernel = image::tests::kernel(Arch::X86_64);
    let other = modules::tests::module(&["vermagic=6.12.2 SMP"]);
    let package = pacman(
        "x86_64",
        &[
            ("boot/vmlinuz-lts", &kernel),
            ("lib/modules/6.12.2/kernel/fs/9p/9p.ko", &other),
        ],
    );
    let error = taken(&[("linux.pkg.tar.zst", package)], 1).unwrap_err();
    let expected = "linux.pkg.tar.zst is 6.12.1, and the modules with it are of 6.12.2";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn texts_that_are_too_long_for_memory_are_refused() {
    let kernel = image::tests::kernel(Arch::X86_64);
    let module = module_9p(Compression::None);
    let long = vec![b'#'; usize::try_from(MAX_TEXT).unwrap() + 1];
    let info = format!("x={}", "x".repeat(long.len()));
    let info = modules::tests::module(&["vermagic=6.12.1 SMP", &info]);
    for (name, module, text) in [
        ("config", &module, &long),
        ("modules.builtin", &module, &long),
        ("other", &info, &long),
    ] {
        let text_name = format!("lib/modules/6.12.1/{name}");
        let files: [(&str, &[u8]); 3] = [
            ("boot/vmlinuz-6.12.1", &kernel),
            ("lib/modules/6.12.1/9p.ko", module),
            (&text_name, text),
        ];
        let package = pacman("x86_64", &files);
        let error = taken(&[("linux.pkg.tar.zst", package)], 1).unwrap_err();
        let refused = matches!(
            error,
            Error::Read { .. }
                | Error::Modules(modules::Error::Read { .. } | modules::Error::Damaged { .. })
        );
        assert!(refused, "{name}: {error}");
    }
}

#[test]
fn of_a_package_only_what_belongs_to_a_kernel_is_kept() {
    let files: [(&str, &[u8]); 3] = [
        ("./boot/vmlinuz-6.1", b"kernel"),
        ("./usr/lib/modules/6.1/a.ko", b"module"),
        ("./usr/share/doc/x", b"text"),
    ];
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), deb("amd64", &files)).unwrap();
    let mut store = Store::unnamed().unwrap();
    unpack(file.path(), Arch::X86_64, &mut store).unwrap();
    let names: Vec<&str> = store.names().collect();
    assert_eq!(names, ["boot/vmlinuz-6.1", "lib/modules/6.1/a.ko"]);
    assert_eq!(store.read("boot/vmlinuz-6.1", MAX_FILE).unwrap(), b"kernel");
    assert_eq!(
        store.read("lib/modules/6.1/a.ko", MAX_FILE).unwrap(),
        b"module"
    );
}
