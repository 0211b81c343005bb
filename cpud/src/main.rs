//! cpud: the only program on a machine that has no disk and no users. One binary with several roles
//! ([`role`], ARCHITECTURE.md). As PID 1 or with `-init` it is the init and starts the other roles; without
//! arguments it is the server. When it is called `modprobe` or `sudo`, it does what they do.

mod cmdline;
mod console;
mod dnssd;
mod flags;
mod init;
mod isolation;
mod listen_addr;
mod memory;
mod modules;
mod netup;
mod poll;
mod role;
mod rootfs;
mod session;
mod ssh;
mod sudo;
mod sys;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use console::say;
use role::Role;

/// musl's own allocator maps and unmaps memory for every packet, which is seven times slower.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // A session's arguments may be any bytes, so it reads them itself.
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
    // What ps(1), top(1) and the kernel's messages show; without it, the name of the file that was executed, which is `exe`.
    let _ = nix::sys::prctl::set_name(c"cpud");
    let first = args.next();
    let role = first.as_deref().and_then(Role::from_name);
    if role == Some(Role::Session) {
        return session::main(args);
    }
    if role == Some(Role::Isolation) {
        return isolation::hold(args);
    }
    if std::process::id() == 1 {
        return init::main(&first.into_iter().chain(args).collect::<Vec<_>>());
    }
    if first.is_some_and(|first| first == "-init" || first == "--init") {
        return init::main(&args.collect::<Vec<_>>());
    }
    match run(role) {
        Ok(status) => status,
        Err(error) => {
            say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(role: Option<Role>) -> Result<ExitCode> {
    // A connection is also told who its peer is, for ps(1).
    let words = match role {
        None => 1,
        Some(Role::Connection) => 3,
        Some(_) => 2,
    };
    let args: Vec<String> = std::env::args_os()
        .skip(words)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    #[cfg(feature = "docs")]
    if let Some(directory) = manual::requested_directory() {
        manual::write(flags::page(), &directory)?;
        return Ok(ExitCode::SUCCESS);
    }
    match (role, args.first().map(String::as_str)) {
        (Some(Role::Network), _) => match netup::run()? {},
        (Some(Role::Console), _) => match console::run(flags::parse(&args)?)? {},
        (Some(Role::Modules), _) => modules::run()?,
        (Some(Role::Dnssd), _) => dnssd::run(&flags::parse(&args)?)?,
        (Some(Role::Connection), _) => {
            let offence = ssh::run_connection(&flags::parse(&args)?)?;
            return Ok(offence.map_or(ExitCode::SUCCESS, |offence| offence.exit_status().into()));
        }
        (_, Some("-h" | "-help" | "--help")) => {
            print!("{}", flags::help());
        }
        (_, Some("-V" | "-version" | "--version")) => {
            println!("cpud {}", env!("CARGO_PKG_VERSION"));
        }
        (role, _) => ssh::serve(&flags::parse(&args)?, role == Some(Role::Server))?,
    }
    Ok(ExitCode::SUCCESS)
}
