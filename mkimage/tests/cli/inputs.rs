//! A directory with everything that mkimage wants, in small: keys that are real, programs and a kernel
//! that are only headers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Machine numbers of elf(5).
pub(crate) const X86_64: u16 = 62;
pub(crate) const AARCH64: u16 = 183;

/// The program under test, with an environment that says nothing about time.
pub(crate) fn mkimage(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mkimage"));
    command.args(arguments).env_remove("SOURCE_DATE_EPOCH");
    command
}

/// A directory of inputs, removed when dropped.
pub(crate) struct Inputs(tempfile::TempDir);

impl Inputs {
    pub(crate) fn new() -> Self {
        let inputs = Self(tempfile::tempdir().expect("a temporary directory"));
        let output = inputs.run(&["keys", "--no-passphrase"]);
        assert!(output.status.success(), "{output:?}");
        inputs.write("cpud", &elf(X86_64, false));
        inputs.write("cpu", &elf(X86_64, false));
        inputs.write("cpukernel", &kernel());
        inputs.write("cpu.config", b"CONFIG_X=y\n");
        inputs
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a temporary file");
    }

    /// What mkimage says to a command with `-o` this directory.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("mkimage runs")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = mkimage(arguments);
        command.arg("-o").arg(self.dir());
        command
    }

    /// All names in the directory.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir()).expect("the directory");
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

/// The header of a program (elf(5)); a dynamic one names its interpreter.
pub(crate) fn elf(machine: u16, dynamic: bool) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(64, 0);
    bytes[16..18].copy_from_slice(&2_u16.to_le_bytes());
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes[20..24].copy_from_slice(&1_u32.to_le_bytes());
    bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
    bytes[52..56].copy_from_slice(&[64, 0, 56, 0]);
    if dynamic {
        bytes[56] = 1;
        let words = [3_u64 | 4 << 32, 120, 120, 120, 9, 9, 1];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(b"/lib/ld.\0");
    }
    bytes
}

/// The header of a bzImage that UEFI can start, and enough behind it to take a moment.
pub(crate) fn kernel() -> Vec<u8> {
    // Marsaglia's xorshift: like a real kernel, it cannot be compressed.
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..1 << 18).flat_map(|_| next()).collect();
    bytes[..0x400].fill(0);
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c] = 0x80;
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes
}
