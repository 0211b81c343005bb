//! The IDs of a user (credentials(7)), and the flag in front of a command by which a client asks that the command run
//! as this user instead of root:
//!
//! ```text
//! -user=UID:GID[:GROUP[,GROUP]...] 'argument' ...
//! ```
//!
//! The flag is not quoted, like that of u-root's client; the arguments of the command always are. A server that
//! does not know the flag takes it for the command and fails, instead of running the command as root.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// The beginning of the flag.
const FLAG: &[u8] = b"-user=";

/// Maximum number of groups: `NGROUPS_MAX` of linux/limits.h.
const MAX_GROUPS: usize = 65_536;

/// The IDs of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User ID.
    pub uid: u32,
    /// Primary group ID.
    pub gid: u32,
    /// Supplementary group IDs.
    pub groups: Vec<u32>,
}

/// A text is not of the form `UID:GID[:GROUP,...]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user is given as UID:GID or UID:GID:GROUP,GROUP...")]
pub struct InvalidCredentials;

impl Credentials {
    /// The flag with the blank after it, to be put in front of a command.
    pub fn flag(&self) -> Vec<u8> {
        [FLAG, self.to_string().as_bytes(), b" "].concat()
    }

    /// Takes the flag, if there is one, off a command; returns its value and the rest.
    pub fn take(command: &[u8]) -> Result<(Option<Self>, &[u8]), InvalidCredentials> {
        let Some(rest) = command.strip_prefix(FLAG) else {
            return Ok((None, command));
        };
        let end = rest.iter().position(|&byte| byte == b' ');
        let (text, argv) = rest.split_at(end.unwrap_or(rest.len()));
        let text = str::from_utf8(text).map_err(|_| InvalidCredentials)?;
        Ok((Some(text.parse()?), argv))
    }
}

impl Display for Credentials {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)?;
        for (index, group) in self.groups.iter().enumerate() {
            let mark = if index == 0 { ':' } else { ',' };
            write!(f, "{mark}{group}")?;
        }
        Ok(())
    }
}

impl FromStr for Credentials {
    type Err = InvalidCredentials;

    fn from_str(text: &str) -> Result<Self, InvalidCredentials> {
        let mut parts = text.splitn(3, ':');
        let mut next = || number(parts.next().ok_or(InvalidCredentials)?);
        let (uid, gid) = (next()?, next()?);
        let groups = parts.next().map_or(Ok(Vec::new()), |groups| {
            groups.split(',').map(number).collect()
        })?;
        if groups.len() > MAX_GROUPS {
            return Err(InvalidCredentials);
        }
        Ok(Self { uid, gid, groups })
    }
}

/// A user or group ID. The largest number is not one (chown(2)).
fn number(text: &str) -> Result<u32, InvalidCredentials> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|&number| number != u32::MAX);
    number.filter(|_| is_plain).ok_or(InvalidCredentials)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_flag_is_in_front_of_the_arguments() {
        let ann = Credentials {
            uid: 1002,
            gid: 100,
            groups: vec![4, 24],
        };
        let command = [&ann.flag()[..], b"'id' '-u'"].concat();
        assert_eq!(command, b"-user=1002:100:4,24 'id' '-u'");
        assert_eq!(
            Credentials::take(&command),
            Ok((Some(ann), &b" 'id' '-u'"[..]))
        );
        for none in ["'-user=1:1' 'id'", "id -user=1:1", ""] {
            let none = none.as_bytes();
            assert_eq!(Credentials::take(none), Ok((None, none)));
        }
        for wrong in ["-user=", "-user=ann 'id'", "-user='1:1' 'id'"] {
            assert_eq!(Credentials::take(wrong.as_bytes()), Err(InvalidCredentials));
        }
    }

    #[test]
    fn invalid_credentials_are_refused() {
        for wrong in [
            "",
            "1",
            "1:",
            ":1",
            "1:1:",
            "1:1:1,",
            "1:1:1:1",
            "+1:1",
            "-1:1",
            "1:4294967295",
            "4294967296:1",
            "1: 1",
            "root:root",
        ] {
            assert_eq!(
                wrong.parse::<Credentials>(),
                Err(InvalidCredentials),
                "{wrong}"
            );
        }
        let many = format!("1:1:1{}", ",1".repeat(MAX_GROUPS));
        assert_eq!(many.parse::<Credentials>(), Err(InvalidCredentials));
    }

    proptest! {
        #[test]
        fn users_read_back(uid in 0..u32::MAX, gid in 0..u32::MAX, groups in prop::collection::vec(0..u32::MAX, 0..9)) {
            let user = Credentials { uid, gid, groups };
            prop_assert_eq!(user.to_string().parse(), Ok(user.clone()));
            let command = user.flag();
            prop_assert_eq!(Credentials::take(&command), Ok((Some(user), &b" "[..])));
        }
    }
}
