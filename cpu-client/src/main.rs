//! `cpu`: log in to a machine over SSH, and serve this machine's files to it through the same
//! connection.

mod files;
mod flags;
mod session;
mod ssh;
mod sys;
mod terminal;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cpu_proto::namespace::{self, Bind};
use cpu_proto::{DEFAULT_NAMESPACE, ENV_FSTAB};
use flags::Flags;
use tracing::debug;
use tracing::level_filters::LevelFilter;

/// musl's own allocator maps and unmaps memory for every packet: seven times slower.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// What this program answers when it fails itself, as ssh does.
const FAILURE: u8 = 255;

fn main() -> ExitCode {
    let flags = match flags::parse(std::env::args_os().skip(1)) {
        Ok(flags) => flags,
        Err(error) => {
            // Help and version are no errors; both are printed by clap where they belong.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILURE } else { 0 });
        }
    };
    match run(&flags) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("cpu: {error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

fn run(flags: &Flags) -> Result<u8> {
    if flags.debug.0 {
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::DEBUG)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
    }
    let home = home();
    let environment = environment(flags, &home)?;
    let files = if flags.ninep.0 {
        Some(files::Files::new(&flags.root, flags.msize, flags.dbg9p.0)?)
    } else {
        None
    };
    let key = flags
        .key
        .clone()
        .unwrap_or_else(|| home.join(".ssh/cpu_rsa"));
    let (user, host) = match flags.host.rsplit_once('@') {
        Some((user, host)) => (user.to_owned(), host.to_owned()),
        None => (
            std::env::var("USER").unwrap_or_else(|_| "root".into()),
            flags.host.clone(),
        ),
    };
    let target = ssh::Target {
        host_keys: ssh::HostKeys::new(&host, flags.sp, flags.hk.as_deref(), &key, &home)?,
        host,
        port: flags.sp,
        user,
        key,
    };
    let counts = files.as_ref().map(files::Files::counts);
    let words = flags.words();
    let command = session::Command {
        terminal: terminal::is_wanted(!words.is_empty()),
        words,
        environment,
        files,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let status = runtime.block_on(async {
        let connection = ssh::connect(&target).await?;
        session::run(connection, command).await
    });
    // Threads that wait for input or for a file must not keep the process.
    runtime.shutdown_background();
    if let Some(counts) = counts {
        debug!("9p requests served: {}", counts.requests());
    }
    status
}

fn home() -> PathBuf {
    std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"))
}

/// The whole environment, with the session's mounts added.
fn environment(flags: &Flags, home: &Path) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for (name, value) in std::env::vars_os() {
        if let (Some(name), Some(value)) = (name.to_str(), value.to_str()) {
            all.push((name.to_owned(), value.to_owned()));
        } else {
            eprintln!(
                "cpu: the environment variable {} is not UTF-8 and stays here",
                name.to_string_lossy()
            );
        }
    }
    let mut set = |name: &str, value: String| {
        all.retain(|(other, _)| other != name);
        all.push((name.to_owned(), value));
    };
    if std::env::var_os("PWD").is_none()
        && let Ok(directory) = std::env::current_dir()
        && let Some(directory) = directory.to_str()
    {
        set("PWD", directory.to_owned());
    }
    // A private directory there; one of here would not exist.
    set("TMPDIR", "/tmp".into());
    let mut fstab = namespace::to_fstab(&binds(flags, home)?);
    if let Ok(own) = std::env::var(ENV_FSTAB) {
        fstab.push_str(&own);
    }
    if !fstab.is_empty() {
        set(ENV_FSTAB, fstab);
    }
    Ok(all)
}

/// Which directories there come from here.
fn binds(flags: &Flags, home: &Path) -> Result<Vec<Bind>> {
    match (&flags.namespace, flags.ninep.0) {
        (None, false) => Ok(Vec::new()),
        (None, true) => {
            let mut binds = namespace::parse(DEFAULT_NAMESPACE)?;
            // Where homes lie elsewhere (root's, many clusters'), the home still comes along.
            let is_covered = binds.iter().any(|bind| home.starts_with(&bind.remote));
            if !is_covered
                && home.components().count() > 1
                && let Some(home) = home.to_str()
            {
                binds.push(Bind {
                    remote: home.to_owned(),
                    local: home.to_owned(),
                });
            }
            Ok(binds)
        }
        (Some(text), true) => Ok(namespace::parse(text)?),
        (Some(text), false) if text.is_empty() => Ok(Vec::new()),
        (Some(_), false) => bail!(
            "9p is false but the namespace is non-empty; to force an empty namespace use -namespace=\"\""
        ),
    }
}
