//! Says what it runs on and what it was built for: for tests with a machine of another architecture,
//! where nothing of this one's can run.

use std::fs::read_to_string;

fn main() -> std::io::Result<()> {
    let runs_on = read_to_string("/proc/sys/kernel/arch")?;
    let built_for = std::env::consts::ARCH;
    println!("{} {built_for}", runs_on.trim());
    Ok(())
}
