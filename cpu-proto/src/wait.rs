//! What a session does when its command has ended and has left processes running.

use std::fmt;
use std::str::FromStr;

/// Environment variable of the client that carries a [`Wait`]. The default is [`Wait::Yes`].
pub const ENV_WAIT: &str = "CPU_WAIT";

/// Whether a session waits for the processes that its command has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// It waits, and reports what it waits for.
    #[default]
    Yes,
    /// It waits silently.
    Quiet,
    /// It kills them.
    No,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yes => "yes",
            Self::Quiet => "quiet",
            Self::No => "no",
        })
    }
}

impl FromStr for Wait {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Yes, Self::Quiet, Self::No]
            .into_iter()
            .find(|wait| wait.to_string() == text)
            .ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for wait in [Wait::Yes, Wait::Quiet, Wait::No] {
            assert_eq!(wait.to_string().parse(), Ok(wait));
        }
        assert_eq!("maybe".parse::<Wait>(), Err(()));
    }
}
