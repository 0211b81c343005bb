//! The destination on the command line: `[user@]host` or `[user@][host]:port`.

use anyhow::{Result, bail};

/// Splits a destination into user, host and port.
pub(super) fn split(text: &str) -> Result<(Option<&str>, &str, Option<&str>)> {
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, text),
    };
    let (host, port) = match rest
        .strip_prefix('[')
        .and_then(|inner| inner.split_once(']'))
    {
        Some((host, "")) => (host, None),
        Some((host, after)) => match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None => bail!("{text:?}: write host, or [host]:port"),
        },
        None => (rest, None),
    };
    // Both may become part of a proxy's command line, which a shell runs.
    let is_plain = |word: &str| {
        !word.is_empty()
            && !word.starts_with('-')
            && !word.contains(|c: char| {
                c.is_control() || c.is_whitespace() || "'`\"$\\;&<>|(){}".contains(c)
            })
    };
    if !is_plain(host) || !user.is_none_or(is_plain) {
        bail!("{text:?} is not a destination: write [user@]host or [user@][host]:port");
    }
    Ok((user, host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_ports_in_a_destination() {
        assert_eq!(split("board").unwrap(), (None, "board", None));
        assert_eq!(
            split("bob@a@board").unwrap(),
            (Some("bob@a"), "board", None)
        );
        assert_eq!(
            split("bob@[fe80::1]:22").unwrap(),
            (Some("bob"), "fe80::1", Some("22"))
        );
        assert_eq!(split("fe80::1%eth0").unwrap().1, "fe80::1%eth0");
        for bad in [
            "",
            "@x",
            "x@",
            "[::1]x",
            "-oProxyCommand=x",
            "a b",
            "$(id)",
            "-l@x",
        ] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
