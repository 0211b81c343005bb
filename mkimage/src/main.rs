//! The program `mkimage`; all of it is in the library.

fn main() -> std::process::ExitCode {
    mkimage::command::main()
}
