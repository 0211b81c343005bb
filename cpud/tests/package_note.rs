//! The note in the program, which `mkimage inspect` reads.

#[test]
fn the_program_has_a_note_with_its_version() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_cpud")).unwrap();
    let at = program
        .windows(4)
        .enumerate()
        .filter(|(_, bytes)| *bytes == b"FDO\0")
        .map(|(at, _)| at + 4)
        .find(|at| program[*at..].starts_with(b"{\"type\":\"cpu\""))
        .expect("no note");
    let version = cpu_proto::package_note::version(&program[at..at + 64], "cpud");
    assert_eq!(version, Some(env!("CARGO_PKG_VERSION")));
}
