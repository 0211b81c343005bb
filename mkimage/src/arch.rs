//! The architectures that machines are made for, and one table for each of what differs between them.

use object::elf;

use crate::tools::Tool;

/// An architecture that machines are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// 64-bit PCs
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit ARM
    #[value(name = "aarch64")]
    Aarch64,
}

/// A file that is compiled into mkimage: its name and its text.
pub(crate) struct BuiltInFile {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

/// What is particular to an architecture.
pub(crate) struct ArchFacts {
    /// As Rust, QEMU and `uname -m` call it.
    pub(crate) name: &'static str,
    /// As Debian's packages call it.
    pub(crate) debian_name: &'static str,
    /// As the kernel's make calls it (`ARCH=`).
    pub(crate) kernel_name: &'static str,
    /// The kernel's make target.
    pub(crate) kernel_target: &'static str,
    /// Where that target puts the image, from the directory of objects.
    pub(crate) kernel_image: &'static str,
    /// Whether the image that make leaves is not compressed.
    pub(crate) is_image_plain: bool,
    /// Options that `CONFIG_CMDLINE` depends on.
    pub(crate) command_line_options: &'static [&'static str],
    /// The configuration that every kernel for it has.
    pub(crate) config: BuiltInFile,
    /// What `--hardened` adds to the configuration here.
    pub(crate) hardened_config: Option<BuiltInFile>,
    /// Prefix of the names of a cross compiler and its binutils.
    cross_prefix: &'static str,
    /// That compiler.
    pub(crate) cross_compiler: Tool,
    /// The default command line. The messages of the kernel and of cpud go to a serial line and to a screen,
    /// whichever there is; after a crash the machine reboots, since nobody sits beside it. The command line
    /// of a boot loader is appended.
    pub(crate) command_line: &'static str,
    /// `e_machine` of its programs (elf(5)).
    pub(crate) elf_machine: elf::Machine,
    /// Whether xz's filter for its instructions is in every kernel for it (`CONFIG_XZ_DEC_X86`).
    pub(crate) has_bcj_filter: bool,
    /// Whether its machines may have a BIOS.
    pub(crate) has_bios: bool,
    /// The program that UEFI firmware starts from a removable medium (UEFI specification, 3.5.1.1).
    pub(crate) efi_program: &'static str,
    /// systemd's stub for unified kernel images.
    pub(crate) efi_stub: &'static str,
    /// The boot menu of SYSLINUX or U-Boot, by the name under which it is looked for.
    pub(crate) boot_menu: BuiltInFile,
}

const X86_64: ArchFacts = ArchFacts {
    name: "x86_64",
    debian_name: "amd64",
    kernel_name: "x86_64",
    kernel_target: "bzImage",
    kernel_image: "arch/x86/boot/bzImage",
    is_image_plain: false,
    command_line_options: &["CONFIG_CMDLINE_BOOL"],
    config: BuiltInFile {
        name: "x86_64.config",
        text: include_str!("../../kernel-configs/x86_64.config"),
    },
    hardened_config: Some(BuiltInFile {
        name: "hardened-x86_64.config",
        text: include_str!("../../kernel-configs/hardened-x86_64.config"),
    }),
    cross_prefix: "x86_64-linux-gnu-",
    cross_compiler: Tool {
        program: "x86_64-linux-gnu-gcc",
        package: "gcc-x86-64-linux-gnu",
    },
    command_line: "console=tty0 console=ttyS0,115200 quiet panic=10",
    elf_machine: elf::EM_X86_64,
    has_bcj_filter: true,
    has_bios: true,
    efi_program: "EFI/BOOT/BOOTX64.EFI",
    efi_stub: "linuxx64.efi.stub",
    boot_menu: BuiltInFile {
        name: "extlinux.conf",
        text: include_str!("../../extlinux/extlinux.conf"),
    },
};

const AARCH64: ArchFacts = ArchFacts {
    name: "aarch64",
    debian_name: "arm64",
    kernel_name: "arm64",
    kernel_target: "Image",
    kernel_image: "arch/arm64/boot/Image",
    is_image_plain: true,
    command_line_options: &[],
    config: BuiltInFile {
        name: "aarch64.config",
        text: include_str!("../../kernel-configs/aarch64.config"),
    },
    hardened_config: None,
    cross_prefix: "aarch64-linux-gnu-",
    cross_compiler: Tool {
        program: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
    },
    // The serial ports of most boards and servers; one that a machine does not have does no harm.
    command_line: "console=tty0 console=ttyS0,115200 console=ttyAMA0,115200 quiet panic=10",
    elf_machine: elf::EM_AARCH64,
    has_bcj_filter: false,
    has_bios: false,
    efi_program: "EFI/BOOT/BOOTAA64.EFI",
    efi_stub: "linuxaa64.efi.stub",
    boot_menu: BuiltInFile {
        name: "extlinux/extlinux.conf",
        text: include_str!("../../extlinux/u-boot.conf"),
    },
};

impl Arch {
    /// The one that this program was compiled for.
    pub(crate) const HERE: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    /// Its table.
    pub(crate) fn facts(self) -> &'static ArchFacts {
        match self {
            Self::X86_64 => &X86_64,
            Self::Aarch64 => &AARCH64,
        }
    }

    /// Prefix of the names of the compiler and binutils for it; none where they run on their own machine.
    pub(crate) fn cross_prefix(self) -> &'static str {
        if self == Self::HERE {
            ""
        } else {
            self.facts().cross_prefix
        }
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.facts().name)
    }
}
