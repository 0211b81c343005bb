//! The small grammars of cpu-proto: commands, namespaces and fstab lines.
#![no_main]

use cpu_proto::{CacheMode, fstab, namespace, quote};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(argv) = quote::split(bytes) {
        assert_eq!(quote::split(&quote::join(&argv)), Ok(argv));
    }
    for entry in fstab::parse(bytes) {
        match entry {
            Ok(entry) => assert!(entry.target.is_absolute()),
            Err(error) => drop(error.to_string()),
        }
    }
    // Neither an argument nor a variable can contain NUL.
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains('\0')
        && let Ok(binds) = namespace::parse(text)
    {
        let fstab = namespace::to_fstab(&binds, CacheMode::Mmap);
        let entries: Result<Vec<_>, _> = fstab::parse(fstab.as_bytes()).collect();
        assert_eq!(
            entries.expect("what cpu writes, cpud reads").len(),
            binds.len()
        );
    }
});
