//! How cpud is linked for flash ROMs: without what it never reads there. 61 KB of an initramfs of 840.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=small.ld");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_ENV", "musl") {
        return;
    }
    // A compiler that links, or the linker itself.
    let linker = env::var("RUSTC_LINKER").unwrap_or_default();
    let prefix = if linker.ends_with("ld") { "" } else { "-Wl," };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/small.ld");
    let joined = |words: &[&str]| match prefix {
        "" => words.iter().map(ToString::to_string).collect(),
        _ => vec![format!("{prefix}{}", words.join(","))],
    };
    // An eighth of the room for the places that a static program moves itself by (musl 1.2.4, ELF's DT_RELR).
    for words in [
        &["-z", "pack-relative-relocs"][..],
        &["--no-eh-frame-hdr"],
        &["-T", script],
    ] {
        for argument in joined(words) {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
