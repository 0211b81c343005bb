//! What differs from one architecture to another.

use object::elf;

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

impl Arch {
    /// The one that this program was compiled for.
    pub(crate) const HERE: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    /// As Rust, QEMU and `uname -m` call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As the kernel's make calls it.
    pub(crate) fn kernel_name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The goal of the kernel's make.
    pub(crate) fn kernel_goal(self) -> &'static str {
        match self {
            Self::X86_64 => "bzImage",
            Self::Aarch64 => "Image",
        }
    }

    /// Where the image then lies among the objects.
    pub(crate) fn kernel_image(self) -> &'static str {
        match self {
            Self::X86_64 => "arch/x86/boot/bzImage",
            Self::Aarch64 => "arch/arm64/boot/Image",
        }
    }

    /// What the names of the compiler and its kin begin with.
    pub(crate) fn cross_prefix(self) -> &'static str {
        match self {
            _ if self == Self::HERE => "",
            Self::X86_64 => "x86_64-linux-gnu-",
            Self::Aarch64 => "aarch64-linux-gnu-",
        }
    }

    /// The kernel's messages and cpud's go to a serial line and to a screen, whichever there is; a crash
    /// ends in a reboot, since nobody sits beside the machine. A boot loader's own command line follows.
    pub(crate) fn command_line(self) -> &'static str {
        match self {
            Self::X86_64 => "console=tty0 console=ttyS0,115200 quiet panic=10",
            // The lines that most boards and servers have; one that is not there does no harm.
            Self::Aarch64 => {
                "console=tty0 console=ttyS0,115200 console=ttyAMA0,115200 quiet panic=10"
            }
        }
    }

    /// `e_machine` of its programs (elf(5)).
    pub(crate) fn elf_machine(self) -> elf::Machine {
        match self {
            Self::X86_64 => elf::EM_X86_64,
            Self::Aarch64 => elf::EM_AARCH64,
        }
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
