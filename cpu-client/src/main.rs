//! `cpu`: log in to a machine over SSH, and serve this machine's files to it through the same
//! connection.

/// Prints a line on standard error, in one write, without what a terminal would act on: the text may be the server's. A
/// failure is ignored: then nobody reads it.
macro_rules! say {
    ($($text:tt)*) => {{
        let line = format!("cpu: {}\n", cpu_proto::printable(&format!($($text)*)));
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }};
}

/// Whether `-q` was given.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Prints a warning, unless `-q` was given.
macro_rules! warn {
    ($($text:tt)*) => {
        if !crate::QUIET.load(std::sync::atomic::Ordering::Relaxed) {
            say!($($text)*);
        }
    };
}

mod as_root;
mod binds;
mod clock;
mod cwd;
mod discovery;
mod environment;
mod events;
mod files;
mod flags;
mod learned;
mod programs;
mod remote;
mod session;
mod spinner;
mod ssh;
mod stats;
mod sys;
mod terminal;
mod trace;
mod user;
mod withheld;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use binds::Mounts;
use clap::error::ErrorKind;
use discovery::MachineQuery;
use environment::{environment, home};
use events::Steps;
use flags::Flags;
use learned::TraceStore;
use ninep::observe::Observer;
use spinner::Spinner;
use stats::Stats;
use terminal::Tty;
use trace::StartedTrace;
use tracing::level_filters::LevelFilter;
use user::CommandUser;
use withheld::FileLimits;

/// musl's own allocator maps and unmaps memory for every packet: seven times slower.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// The exit status when cpu itself fails, as with ssh.
const FAILURE: u8 = 255;

fn main() -> ExitCode {
    #[cfg(feature = "docs")]
    if let Some(directory) = manual::requested_directory() {
        return match manual::write(flags::page(), &directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say!("{error:#}");
                ExitCode::from(FAILURE)
            }
        };
    }
    let flags = match flags::parse(std::env::args_os().skip(1)) {
        Ok(flags) => flags,
        Err(error) => {
            return match error.kind() {
                ErrorKind::DisplayHelp => print(&flags::help()),
                ErrorKind::DisplayVersion => print(&error.to_string()),
                _ => {
                    say!("{}", flags::complaint(&error));
                    ExitCode::from(FAILURE)
                }
            };
        }
    };
    match run(&flags) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            say!("{error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

/// Prints the help or the version. A failure is ignored: whoever closed the pipe wants no more.
fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// The name of the user who runs cpu. A container may have no passwd(5) that says it.
fn local_user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid());
    let name = user.ok().flatten().map(|user| user.name);
    name.or_else(|| std::env::var("USER").ok())
        .unwrap_or_else(|| "root".into())
}

/// The homes of others, if this user may read all files.
fn other_homes(own: &Path) -> Vec<PathBuf> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    withheld::homes_but(&String::from_utf8_lossy(&passwd), own)
}

fn run(flags: &Flags) -> Result<u8> {
    if flags.debug.0 {
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::DEBUG)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
    }
    QUIET.store(flags.quiet.0, Ordering::Relaxed);
    if flags.hosts.0 {
        let query = match flags.host.as_deref().map(MachineQuery::parse).transpose()? {
            None => MachineQuery::all(),
            Some(Some((_, query))) => query,
            Some(None) => {
                bail!("-hosts takes no host, but perhaps a query: cpu -hosts 'dnssd://?arch=arm64'")
            }
        };
        discovery::list(&query)?;
        return Ok(0);
    }
    // -hidden makes no session.
    let trace = if flags.hidden.0 {
        None
    } else {
        flags.dbg9p.start()?
    };
    let events = match &trace {
        Some(StartedTrace::Events(events)) => Some(events.clone()),
        _ => None,
    };
    let steps = Steps(events.clone());
    let home = home();
    let mounts = Mounts {
        namespace: flags.namespace.as_deref(),
        fstab: flags.fstab.as_deref(),
        ninep: flags.ninep.0,
        root: &flags.root,
        cache: flags.cache,
    };
    let user = CommandUser::of_process(flags.user)?;
    // Only -hidden needs no host.
    let host = flags.host.as_deref().unwrap_or("localhost");
    let found = match MachineQuery::parse(host)? {
        Some((user, query)) => {
            steps.begin("find the machine");
            Some((user, discovery::find(&query)?))
        }
        None => None,
    };
    let addresses = found.as_ref().map(|(_, machine)| &machine.addresses[..]);
    let found_host = found.as_ref().map(|(user, machine)| match user {
        Some(user) => format!("{user}@{}", machine.host),
        None => machine.host.clone(),
    });
    let host = found_host.as_deref().unwrap_or(host);
    let local_user = local_user();
    let options = ssh::ConnectOptions {
        socket: flags.net,
        host,
        port: flags.sp.as_deref(),
        found: addresses,
        keys: &flags.key,
        host_key: flags.hk.as_deref(),
        home: &home,
        local_user: &local_user,
        forward_agent: flags.forward_agent.map(|flag| flag.0),
    };
    let target = ssh::Target::new(&options, |query| ssh::config::read(query, &flags.settings))?;
    let sent: Vec<String> = target.env.iter().cloned().chain(flags.env()).collect();
    let is_sent = |name: &str| withheld::is_sent(&sent, name) || target.sends(name);
    let environment = environment(&mounts, &user, &home, is_sent)?;
    let mut paths = target.withheld.clone();
    paths.extend(flags.withheld());
    let rules = withheld::rules(&FileLimits {
        paths,
        read_only: flags.read_only.map_or(target.read_only, |flag| flag.0),
        only: flags.only.map_or(target.only, |flag| flag.0),
        keys: target.identities.files(),
        other_keys: target.other_keys.clone(),
        other_homes: other_homes(&home),
        binds: &environment.binds,
        root: &flags.root,
        home: &home,
    })?;
    for path in &flags.hide {
        if withheld::is_missing(path, &flags.root, &home) {
            warn!("-hide {path:?}: no such file is served now");
        }
    }
    if flags.hidden.0 {
        let _ = std::io::stdout().write_all(withheld::list(&rules).as_bytes());
        return Ok(0);
    }
    let stats = flags.stats.0.then(Arc::<Stats>::default);
    let argv = flags.argv();
    let traces = (flags.ninep.0 && flags.learn.0)
        .then(|| TraceStore::new(&flags.root, &argv))
        .flatten();
    let learning = traces.as_ref().map(|traces| Arc::new(traces.learning()));
    let files = if flags.ninep.0 {
        let observer: Option<Arc<dyn Observer + Send>> = match (stats.clone(), trace) {
            (None, None) => None,
            both => Some(Arc::new(both)),
        };
        let files = files::FileServer::new(
            &flags.root,
            &home,
            user.ids(),
            &rules,
            flags.msize,
            observer,
        )?;
        Some(files.learning(learning.clone()))
    } else {
        None
    };
    let served = files.clone();
    let input = !flags.no_input.0;
    let tty = match flags.tty() {
        Tty::Auto => target.tty.unwrap_or(Tty::Auto),
        chosen => chosen,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let status = runtime.block_on(async {
        let spinner = Spinner::default();
        let connection = spinner
            .shown_during(ssh::connect(&target, &spinner, &steps))
            .await?;
        let terminal = tty.is_wanted(!argv.is_empty(), input);
        let caches = environment.caches.clone();
        let cache_is_chosen = environment.cache_is_chosen;
        let command = session::Command {
            argv,
            environment: connection
                .server
                .environment(environment, &target, flags.wait()),
            files: files.map(|files| (files, caches)),
            cache_is_chosen,
            user: match user {
                CommandUser::Same(user) => Some(user),
                CommandUser::Root | CommandUser::RootFor { .. } => None,
            },
            terminal,
            forward_agent: target.forward_agent.is_some(),
            needs_terminal: matches!(tty, Tty::Yes | Tty::Force),
            input,
            steps: steps.clone(),
        };
        session::run(connection, host, command).await
    });
    // Threads that are blocked in a read must not keep the process alive.
    runtime.shutdown_background();
    if let (Some(traces), Some(learning)) = (traces, learning) {
        traces.save(&learning);
    }
    if let Some(Err(error)) = events.map(|events| events.finish()) {
        say!("the trace of -dbg9p is incomplete: {error}");
    }
    let requested = served.map(|files| files.requested_hidden());
    if let Some(alarm) = withheld::alarm(host, &requested.unwrap_or_default()) {
        say!("{alarm}");
    }
    if let Some(stats) = stats {
        // A failure is ignored: the command's status counts more.
        let _ = std::io::stderr().write_all(stats.to_string().as_bytes());
    }
    status
}
