//! The files on a stick and in the bundle: the kernel under the names that each firmware looks for, the
//! client, the keys, scripts and texts. No I/O.

use super::inputs::{Boot, ClientFiles};
use super::uki;
use crate::arch::Arch;
use crate::disk::FileList;
use crate::kernel::image;

/// Why there are no files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error("the kernel cannot be started by UEFI firmware: it was built without CONFIG_EFI_STUB")]
    NoEfi,
    #[error(transparent)]
    Uki(#[from] uki::Error),
}

/// Everything on a stick, the kernel's two copies next to one another, so that compression finds it.
pub(crate) fn files(
    arch: Arch,
    mut boot: Boot,
    client_files: ClientFiles,
) -> Result<FileList, Error> {
    let efi = efi_program(arch, &boot)?;
    let menu = menu(arch, &boot);
    let kernel = ("cpukernel".to_owned(), std::mem::take(&mut boot.kernel));
    let mut files = vec![kernel, (arch.facts().efi_program.to_owned(), efi), menu];
    files.extend(support_files(arch, boot, client_files));
    Ok(files)
}

/// The boot menu, by the name under which it is looked for.
pub(crate) fn menu(arch: Arch, boot: &Boot) -> (String, Vec<u8>) {
    let menu = &arch.facts().boot_menu;
    (
        menu.name.to_owned(),
        with_boot(menu.text, boot).into_bytes(),
    )
}

/// What UEFI firmware starts: the kernel by itself, or with what is not inside it.
pub(crate) fn efi_program(arch: Arch, boot: &Boot) -> Result<Vec<u8>, Error> {
    if !image::header_for(&boot.kernel, arch)?.efi {
        return Err(Error::NoEfi);
    }
    Ok(match (&boot.initrd, &boot.command_line) {
        (None, None) => boot.kernel.clone(),
        (initrd, line) => uki::build(
            arch,
            boot.efi_stub.clone(),
            &boot.kernel,
            initrd.as_deref().unwrap_or_default(),
            line.as_deref().unwrap_or_default(),
        )?,
    })
}

/// What a directory has of it: all but the kernel and its menus.
pub(crate) fn support_files(arch: Arch, boot: Boot, client_files: ClientFiles) -> FileList {
    let key = client_files.key_name.as_str();
    // The scripts boot this architecture by default.
    let machine = format!("ARCH:-{arch}");
    let text = |text: &str| {
        let text = text.replace("ARCH:-x86_64", &machine);
        text.replace("cpu_rsa", key).into_bytes()
    };
    let mut readme = text(include_str!("../../../extlinux/README"));
    if client_files.private_key.is_some() {
        readme.extend(text(include_str!("../../../extlinux/README.private-key")));
    }
    readme.extend(text(include_str!("../../../extlinux/README.licences")));
    let named = |name: &str| name.replace("cpu_rsa", key);
    let command_line = boot.command_line.as_deref();
    let all = [
        ("cpuinitrd", boot.initrd),
        (
            "cpukernel.cmdline",
            command_line.map(|line| format!("{line}\n").into_bytes()),
        ),
        ("cpu.config", boot.config),
        ("cpu", Some(client_files.cpu)),
        ("cpu_rsa.pub", Some(client_files.public_key)),
        ("cpu_rsa.hostkey", client_files.host_key),
        ("cpu_rsa", client_files.private_key),
        ("QEMU", Some(text(include_str!("../../../qemu/QEMU")))),
        (
            "TESTQEMU",
            Some(text(include_str!("../../../qemu/TESTQEMU"))),
        ),
        ("EXAMPLE", Some(text(include_str!("../../../qemu/EXAMPLE")))),
        ("README", Some(readme)),
        ("LICENSE", Some(text(include_str!("../../../LICENSE")))),
    ];
    all.into_iter()
        .filter_map(|(name, bytes)| bytes.map(|bytes| (named(name), bytes)))
        .collect()
}

/// The boot menu, whose last entry is the machine's.
fn with_boot(menu: &str, boot: &Boot) -> String {
    let mut menu = menu.to_owned();
    if boot.initrd.is_some() {
        menu.push_str("  INITRD /cpuinitrd\n");
    }
    if let Some(line) = &boot.command_line {
        menu.push_str("  APPEND ");
        menu.push_str(line);
        menu.push('\n');
    }
    menu
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(arch: Arch) -> Boot {
        Boot {
            kernel: image::tests::kernel(arch),
            initrd: None,
            command_line: None,
            efi_stub: None,
            config: Some(b"CONFIG_X=y\n".to_vec()),
        }
    }

    fn client_files() -> ClientFiles {
        ClientFiles {
            cpu: b"client".to_vec(),
            key_name: "cpu_rsa".to_owned(),
            public_key: b"public".to_vec(),
            host_key: Some(b"host".to_vec()),
            private_key: None,
        }
    }

    fn find<'a>(files: &'a FileList, name: &str) -> Option<&'a [u8]> {
        let file = files.iter().find(|(found, _)| found == name);
        file.map(|(_, bytes)| bytes.as_slice())
    }

    #[test]
    fn every_firmware_finds_the_kernel() {
        let files = files(Arch::X86_64, boot(Arch::X86_64), client_files()).unwrap();
        assert_eq!(
            find(&files, "EFI/BOOT/BOOTX64.EFI"),
            find(&files, "cpukernel")
        );
        let menu = String::from_utf8_lossy(find(&files, "extlinux.conf").unwrap());
        assert!(menu.contains("\nPROMPT 1\n") && menu.ends_with("  KERNEL /cpukernel\n"));
        let files = super::files(Arch::Aarch64, boot(Arch::Aarch64), client_files()).unwrap();
        assert!(find(&files, "EFI/BOOT/BOOTAA64.EFI").is_some());
        let menu = find(&files, "extlinux/extlinux.conf").unwrap();
        assert!(String::from_utf8_lossy(menu).contains("FDTDIR /dtbs"));
        for script in ["QEMU", "TESTQEMU"] {
            let text = String::from_utf8_lossy(find(&files, script).unwrap());
            assert!(text.contains("=${ARCH:-aarch64}\n"), "{script}");
        }
    }

    #[test]
    fn a_distribution_kernel_gets_its_initrd_and_command_line() {
        let menu = with_boot(
            "LABEL x\n",
            &Boot {
                initrd: Some(Vec::new()),
                command_line: Some("quiet".to_owned()),
                ..boot(Arch::X86_64)
            },
        );
        assert_eq!(menu, "LABEL x\n  INITRD /cpuinitrd\n  APPEND quiet\n");
    }

    #[test]
    fn the_private_key_comes_only_with_its_warning() {
        let without = files(Arch::X86_64, boot(Arch::X86_64), client_files()).unwrap();
        assert_eq!(find(&without, "cpu_rsa"), None);
        let readme =
            |files: &FileList| String::from_utf8_lossy(find(files, "README").unwrap()).into_owned();
        assert!(!readme(&without).contains("WARNING"));
        let client_files = ClientFiles {
            private_key: Some(b"secret".to_vec()),
            ..client_files()
        };
        let with = files(Arch::X86_64, boot(Arch::X86_64), client_files).unwrap();
        assert_eq!(find(&with, "cpu_rsa"), Some(&b"secret"[..]));
        assert!(readme(&with).contains("WARNING"));
    }

    #[test]
    fn a_kernel_that_uefi_cannot_start_is_refused() {
        let mut boot = boot(Arch::X86_64);
        boot.kernel[0] = 0;
        let error = files(Arch::X86_64, boot, client_files()).unwrap_err();
        assert!(matches!(error, Error::NoEfi));
    }
}
