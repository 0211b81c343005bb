//! mkimage's reader of initramfs archives, which also reads images that it has not made.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mkimage::archive;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(parts) = archive::read(bytes) {
        for part in &parts {
            for entry in &part.entries {
                let _ = (part.name(entry), part.contents(entry));
            }
        }
        let _ = archive::list(&parts, std::io::sink());
    }
    let _ = archive::first_newc(bytes);
});
