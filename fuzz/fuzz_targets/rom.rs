//! ROM images of UEFI firmware: what is read is written as it was, and an edit reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mkimage::rom;

fuzz_target!(|bytes: &[u8]| {
    assert!(rom::is_kept(bytes), "it would be changed by being written");
    for words in [&["*"][..], &["Ip4Dxe"], &["network", "usb"]] {
        if let Some(edited) = rom::without(bytes, words) {
            assert_eq!(edited.len(), bytes.len());
            assert!(rom::is_kept(&edited), "the result does not read back");
        }
    }
});
