//! The environment that is sent with a command: that of this process, and in it the mounts that the machine is to make.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use cpu_proto::namespace::{self, Bind};
use cpu_proto::{CacheMode, ENV_CLOCK, ENV_FSTAB, ENV_NAMESPACE, ENV_SUDO, ENV_UMASK};
use rustix::fs::Mode;
use tracing::debug;

use crate::binds::{Mounts, binds, own_fstab, real_path};
use crate::user::CommandUser;
use crate::{as_root, cwd, programs};

/// What is sent with a command.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) variables: Vec<(String, String)>,
    /// Variables for this project's cpud only. They replace those of the same name, or are added.
    pub(crate) for_cpud: Vec<(String, String)>,
    /// The cache modes of the mounts, each once. The first one is that of /tmp/cpu.
    pub(crate) caches: Vec<CacheMode>,
    /// Whether the user chose any of them.
    pub(crate) cache_is_chosen: bool,
    /// The directories that the session binds.
    pub(crate) binds: Vec<Bind>,
}

/// The user's home directory. It need not exist.
pub(crate) fn home() -> PathBuf {
    std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"))
}

/// The environment of this process, with the session's mounts added. `is_sent` says which variables the machine may have.
pub(crate) fn environment(
    mounts: &Mounts<'_>,
    user: &CommandUser,
    home: &Path,
    is_sent: impl Fn(&str) -> bool,
) -> Result<Environment> {
    let mut all = Vec::new();
    for (name, value) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| !is_sent(name)) {
            debug!("the variable {} is not sent", name.display());
        } else if let (Some(name), Some(value)) = (name.to_str(), value.to_str()) {
            all.push((name.to_owned(), value.to_owned()));
        } else {
            warn!(
                "the environment variable {} is not UTF-8 and is not sent",
                name.to_string_lossy()
            );
        }
    }
    // These are for this process too, whether or not the machine may have them.
    let own = |name: &str| std::env::var(name).ok();
    let mut binds = binds(mounts, own(ENV_NAMESPACE).as_deref(), home)?;
    for bind in &mut binds {
        if let Some(real) = real_path(mounts.root, &bind.local) {
            bind.local = real;
        }
    }
    if mounts.cache.is_some() && !mounts.ninep {
        bail!("-9p=false serves no files, so there is nothing to cache; leave out -cache");
    }
    let default_mode = mounts.cache.unwrap_or_default();
    let mut caches = vec![default_mode];
    let chosen = || binds.iter().filter_map(|bind| bind.cache);
    for mode in chosen() {
        if !caches.contains(&mode) {
            caches.push(mode);
        }
    }
    let cache_is_chosen = mounts.cache.is_some() || chosen().next().is_some();
    let fstab = own_fstab(mounts.fstab, own(ENV_FSTAB))?;
    let text = namespace::to_fstab(&binds, default_mode) + &fstab;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs().to_string();
    let mut for_cpud = vec![
        (ENV_UMASK.to_owned(), format!("{:04o}", umask())),
        (ENV_CLOCK.to_owned(), now),
    ];
    let is_ordinary = mounts.ninep && *user != CommandUser::Root;
    let is_roots = matches!(user, CommandUser::RootFor { .. });
    if is_ordinary {
        let sudo = as_root::sudo(&binds, mounts.root);
        if !sudo.is_empty() {
            for_cpud.push((ENV_SUDO.to_owned(), sudo.join(":")));
        }
        if is_roots && let Some(bind) = as_root::home(&binds, mounts.root, home) {
            binds.push(bind);
            let text = namespace::to_fstab(&binds, default_mode) + &fstab;
            for_cpud.push((ENV_FSTAB.to_owned(), text));
        }
    }
    let mut set = |name: &str, value: Option<String>| {
        all.retain(|(other, _)| other != name);
        all.extend(value.map(|value| (name.to_owned(), value)));
    };
    let is_this_tree = mounts.ninep && mounts.root == Path::new("/");
    let pwd = std::env::var_os("PWD");
    if let Some(here) = cwd::corrected(pwd.as_deref(), is_this_tree) {
        set("PWD", Some(here));
    }
    // A private directory there. One of this machine need not exist there.
    set("TMPDIR", Some("/tmp".into()));
    set(ENV_FSTAB, Some(text).filter(|text| !text.is_empty()));
    if is_ordinary {
        if is_roots {
            programs::add_options(&mut all);
        }
        programs::extend_path(&mut all);
    }
    Ok(Environment {
        variables: all,
        for_cpud,
        caches,
        cache_is_chosen,
        binds,
    })
}

/// This process's umask. Serving files clears it later.
fn umask() -> u32 {
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask);
    umask.as_raw_mode()
}
