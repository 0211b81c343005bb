//! cpud: the only program on a machine with no disk and no users. One binary, five roles; see
//! ARCHITECTURE.md. As PID 1 or with `-init` it is the init; `network`, `connection` and
//! `session` are started by it and by each other; else it is the server.

mod cmdline;
mod console;
mod init;
mod netup;
mod session;
mod ssh;
mod sys;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// musl's own allocator maps and unmaps memory for every packet: seven times slower.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

const USAGE: &str = "\
usage: cpud [-net KIND] [-port PORT] [-pk FILE] [-hk FILE] [-d]    serve
       cpud -init [...]                             be the init of a machine; so is PID 1

  -net KIND   tcp, unix or vsock (tcp)
  -port PORT  port to listen on (17010), or address:port, or the path of a unix socket
  -pk FILE    public keys that may log in, authorized_keys format (/key.pub)
  -hk FILE    private host key, OpenSSH format (/host_key)
  -d          say what happens on standard error
  -V          print the version";

fn main() -> ExitCode {
    // The words of a session may be any bytes, so it reads its arguments itself.
    let mut args = std::env::args_os().skip(1);
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
            eprintln!("cpud: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    match args.first().map(String::as_str) {
        Some("network") => {
            args.remove(0);
            let options = options(&args)?;
            let ssh::Place::Tcp(_, port) = options.place else {
                bail!("the network role announces TCP only");
            };
            match netup::run(port, &options.host_key)? {}
        }
        Some("connection") => {
            args.remove(0);
            ssh::run_connection(&options(&args)?)
        }
        Some("-h" | "-help" | "--help") => {
            println!("{USAGE}");
            Ok(())
        }
        Some("-V" | "-version" | "--version") => {
            println!("cpud {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => ssh::serve(&options(&args)?),
    }
}

/// The flags of the server, with one dash or two.
fn options(args: &[String]) -> Result<ssh::Options> {
    let mut options = ssh::Options {
        place: ssh::Place::Tcp(None, cpu_proto::DEFAULT_PORT),
        public_keys: PathBuf::from("/key.pub"),
        host_key: PathBuf::from("/host_key"),
        debug: false,
    };
    let (mut network, mut port) = (None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, mut inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let mut value = || {
            inline
                .take()
                .or_else(|| args.next().cloned())
                .with_context(|| format!("{name} needs a value\n{USAGE}"))
        };
        match name.strip_prefix("--").or(name.strip_prefix('-')) {
            Some("net") => network = Some(value()?),
            Some("port") => port = Some(value()?),
            Some("pk") => options.public_keys = value()?.into(),
            Some("hk") => options.host_key = value()?.into(),
            Some("d") => options.debug = true,
            _ => bail!("unknown argument {arg}\n{USAGE}"),
        }
    }
    options.place = ssh::Place::parse(network.as_deref(), port.as_deref())?;
    Ok(options)
}
