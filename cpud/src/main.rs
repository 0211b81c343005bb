//! cpud: the only program on a machine with no disk and no users. One binary, several roles; see
//! ARCHITECTURE.md. As PID 1 or with `-init` it is the init; `console`, `network`, `connection`
//! and `session` are started by it and by each other; else it is the server. Called `modprobe` or
//! `sudo`, it is that.

mod cmdline;
mod console;
mod flags;
mod init;
mod modules;
mod netup;
mod session;
mod ssh;
mod sudo;
mod sys;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use console::say;

/// musl's own allocator maps and unmaps memory for every packet: seven times slower.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // The words of a session may be any bytes, so it reads its arguments itself.
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    match Path::new(&program)
        .file_name()
        .and_then(|name| name.to_str())
    {
        Some("modprobe") => return modules::modprobe(args),
        Some("sudo") => return sudo::main(args),
        _ => {}
    }
    let role = args.next();
    if role.as_ref().is_some_and(|role| role == "session") {
        return session::main(args);
    }
    if std::process::id() == 1 {
        return init::main(&role.into_iter().chain(args).collect::<Vec<_>>());
    }
    if role.is_some_and(|role| role == "-init" || role == "--init") {
        return init::main(&args.collect::<Vec<_>>());
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    #[cfg(feature = "docs")]
    if let Some(directory) = manual::requested_directory() {
        return manual::write(flags::page(), &directory);
    }
    match args.first().map(String::as_str) {
        Some("network") => {
            args.remove(0);
            let options = flags::parse(&args)?;
            match netup::run(&options.place, &options.host_key)? {}
        }
        Some("console") => {
            args.remove(0);
            match console::run(flags::parse(&args)?)? {}
        }
        Some("modules") => Ok(modules::run()?),
        Some("connection") => {
            args.remove(0);
            ssh::run_connection(&flags::parse(&args)?)
        }
        Some("-h" | "-help" | "--help") => {
            print!("{}", flags::help());
            Ok(())
        }
        Some("-V" | "-version" | "--version") => {
            println!("cpud {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => ssh::serve(&flags::parse(&args)?),
    }
}
