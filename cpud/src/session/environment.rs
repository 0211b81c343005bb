//! The environment that the client has sent. The session process gets it under other names: it has the machine's privileges
//! until the command starts, and none of the client's variables may mean something to its loader or its libraries, as
//! `LD_PRELOAD` and `LD_DEBUG_OUTPUT` do where cpud is linked dynamically.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// What the names begin with.
const PREFIX: &[u8] = b"CLIENT_";

/// The name under which the session process gets a variable.
pub(crate) fn passed_name(name: &str) -> OsString {
    OsString::from_vec([PREFIX, name.as_bytes()].concat())
}

/// A variable of the client.
pub(super) fn var(name: &str) -> Option<OsString> {
    env::var_os(passed_name(name))
}

/// All variables of the client.
pub(super) fn all() -> impl Iterator<Item = (OsString, OsString)> {
    env::vars_os().filter_map(|(name, value)| {
        let name = name.as_bytes().strip_prefix(PREFIX)?;
        Some((OsStr::from_bytes(name).to_owned(), value))
    })
}
