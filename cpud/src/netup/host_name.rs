//! The machine's host name.

use crate::console::say;

/// The host name, if somebody has given this machine one of its own.
pub(crate) fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let is_given = !["", "(none)", "localhost", crate::init::HOST_NAME].contains(&name.as_str());
    is_given.then_some(name)
}

/// Sets the host name if the machine has none of its own.
pub(super) fn name_host(name: &str) {
    if host_name().is_none()
        && let Err(errno) = nix::unistd::sethostname(name)
    {
        say(format_args!(
            "cannot set the host name {name:?}: {}",
            errno.desc()
        ));
    }
}
