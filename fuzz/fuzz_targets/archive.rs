//! mkimage's reader of initramfs archives, which also looks into images of others.
#![no_main]
#![allow(dead_code, reason = "three rooms of mkimage, of which one is tried")]

#[path = "../../mkimage/src/arch.rs"]
mod arch;
#[path = "../../mkimage/src/archive.rs"]
mod archive;
#[path = "../../mkimage/src/compress.rs"]
mod compress;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(parts) = archive::read(bytes) {
        for part in &parts {
            for entry in &part.entries {
                let _ = part.contents(entry);
            }
        }
        let _ = archive::list(&parts);
    }
    let _ = archive::first_newc(bytes);
});
