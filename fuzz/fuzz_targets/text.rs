//! The small grammars of cpu-proto: commands, namespaces, fstab lines, and messages of multicast DNS; and the files of
//! learned traces.
#![no_main]

use cpu_proto::dns::Message;
use cpu_proto::{CacheMode, discovery, fstab, namespace, quote};
use libfuzzer_sys::fuzz_target;
use ninep::learned::LearnedTrace;

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
    if let Some(message) = Message::read(bytes) {
        assert_eq!(Message::read(&message.write()), Some(message));
    }
    discovery::read_text(bytes);
    if let Some(trace) = LearnedTrace::decode(bytes) {
        assert_eq!(LearnedTrace::decode(&trace.encode()).map(|it| it.encode()), Some(trace.encode()));
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
