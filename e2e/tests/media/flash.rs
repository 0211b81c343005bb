//! A machine that is nothing but a flash chip, with the ordinary kernel. Debian's ROM is half a megabyte too small for
//! that one, so its main volume is made larger; `--test kernels` has the kernel that fits.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use e2e::image::{boot_rom, flash, runs_date};
use e2e::out;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[(
    "a_machine_boots_from_nothing_but_its_flash_chip",
    from_flash,
)];

/// Not more: the firmware would look for its variables inside.
const LARGER: usize = 512 << 10;

fn from_flash() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name| directory.path().join(name);
    let firmware = fs::read("/usr/share/OVMF/OVMF_CODE_4M.fd").context("no package ovmf")?;
    let firmware = enlarged(&firmware)?;
    fs::write(path("rom"), &firmware)?;
    flash(&path("rom"), &out().join("cpukernel"), &path("new"))?;
    let new = fs::read(path("new"))?;
    // Behind the main volume is what the processor starts.
    let reset = firmware.len() - 0x3_4000;
    ensure!(new.len() == firmware.len());
    ensure!(new[reset..] == firmware[reset..]);
    runs_date(&boot_rom(&path("new"))?)
}

/// The ROM with more free space at the end of its first volume. Its firmware looks for that volume downwards from the top,
/// so its beginning may move.
fn enlarged(rom: &[u8]) -> Result<Vec<u8>> {
    let field = |at: usize, size: usize| {
        let bytes = rom.get(at..at + size).context("a short ROM")?;
        let number = bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        Ok::<_, anyhow::Error>(number)
    };
    let (length, header) = (field(32, 8)?, field(48, 2)?);
    let (blocks, block) = (field(56, 4)?, field(60, 4)?);
    ensure!(blocks * block == length, "{blocks} blocks of {block} bytes");
    let mut new = rom.get(..length).context("a short ROM")?.to_vec();
    new.resize(length + LARGER, 0xff);
    new.extend(&rom[length..]);
    new[32..40].copy_from_slice(&(length + LARGER).to_le_bytes());
    let blocks = u32::try_from(blocks + LARGER / block)?;
    new[56..60].copy_from_slice(&blocks.to_le_bytes());
    new[50..52].fill(0);
    let sum = new[..header].chunks_exact(2).fold(0_u16, |sum, word| {
        sum.wrapping_add(u16::from_le_bytes([word[0], word[1]]))
    });
    new[50..52].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    Ok(new)
}
