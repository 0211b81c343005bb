//! What the holder of a key may do: the options of a line of `authorized_keys` (sshd(8)) that cpud enforces.

use std::net::IpAddr;

use crate::certificate::CertificateFault;
use crate::peer_patterns::PeerPatterns;
use crate::quote;

/// The options of a key. By default everything is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOptions {
    /// Commands may have a terminal.
    pub pty: bool,
    /// Ports may be forwarded.
    pub port_forwarding: bool,
    /// The client's agent may be forwarded.
    pub agent_forwarding: bool,
    /// Sessions share processes, users and mounts with those of no other key.
    pub isolate: bool,
    /// What is run, whatever the client asks for: words, quoted as in an `exec` request.
    pub command: Option<String>,
    /// Variables of commands.
    pub environment: Vec<(String, String)>,
    /// The key is a CA: whoever has one of its certificates may log in, and not the holder of the key itself.
    pub cert_authority: bool,
    /// One of these must be among a certificate's principals; if there are none, the user name of the login must.
    pub principals: Vec<String>,
    from: Option<PeerPatterns>,
    /// The last moment at which the key may log in, in seconds since 1970.
    expiry: Option<u64>,
}

impl Default for KeyOptions {
    fn default() -> Self {
        Self {
            pty: true,
            port_forwarding: true,
            agent_forwarding: true,
            isolate: false,
            command: None,
            environment: Vec::new(),
            cert_authority: false,
            principals: Vec::new(),
            from: None,
            expiry: None,
        }
    }
}

/// Why a key or a certificate may not log in now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The peer's address is not among those of `from=`.
    #[error("from= does not allow this address")]
    From,
    /// The time of `expiry-time=` is over.
    #[error("it expired at its expiry-time=")]
    Expired,
    /// The key has a line with `@revoked`, or is that of a certificate's holder and has one.
    #[error("it is revoked")]
    Revoked,
    /// The certificate does not let its holder log in.
    #[error("its certificate {0}")]
    Certificate(#[from] CertificateFault),
}

/// An option that keeps a line from being used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionFault {
    /// It is not known.
    #[error("unknown option {0}")]
    Unknown(String),
    /// Its value cannot be read, or it must not occur twice.
    #[error("malformed option {0}")]
    Malformed(String),
}

impl KeyOptions {
    /// Parses `name,name="value",...`. Names may be in any case.
    pub(crate) fn parse(text: &str) -> Result<Self, OptionFault> {
        let mut options = Self::default();
        let mut rest = text;
        loop {
            let end = rest.find([',', '=']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let (value, after) = match after.strip_prefix('=') {
                None => (None, after),
                Some(quoted) => {
                    let (value, after) = unquote(quoted).ok_or_else(|| bad(rest))?;
                    (Some(value), after)
                }
            };
            let option = &rest[..rest.len() - after.len()];
            options.set(name, value, option)?;
            rest = match after.strip_prefix(',') {
                Some(rest) => rest,
                None if after.is_empty() => return Ok(options),
                None => return Err(bad(after)),
            };
        }
    }

    fn set(&mut self, name: &str, value: Option<String>, option: &str) -> Result<(), OptionFault> {
        let malformed = || bad(option);
        match (name.to_ascii_lowercase().as_str(), value) {
            ("restrict", None) => {
                (self.pty, self.port_forwarding, self.agent_forwarding) = (false, false, false);
            }
            ("pty", None) => self.pty = true,
            ("no-pty", None) => self.pty = false,
            ("port-forwarding", None) => self.port_forwarding = true,
            ("no-port-forwarding", None) => self.port_forwarding = false,
            ("agent-forwarding", None) => self.agent_forwarding = true,
            ("no-agent-forwarding", None) => self.agent_forwarding = false,
            ("isolate", None) => self.isolate = true,
            ("cert-authority", None) => self.cert_authority = true,
            ("principals", Some(list)) if self.principals.is_empty() => {
                self.principals = list.split(',').map(|name| name.trim().to_owned()).collect();
                if self.principals.iter().any(String::is_empty) {
                    return Err(malformed());
                }
            }
            // cpud has neither, for nobody.
            ("x11-forwarding" | "no-x11-forwarding" | "user-rc" | "no-user-rc", None) => {}
            ("command", Some(command)) if self.command.is_none() => {
                let words = quote::split(command.as_bytes()).map_err(|_| malformed())?;
                if words.is_empty() || command.contains('\0') {
                    return Err(malformed());
                }
                self.command = Some(command);
            }
            ("from", Some(list)) if self.from.is_none() => {
                self.from = Some(PeerPatterns::parse(&list).map_err(|_| malformed())?);
            }
            ("environment", Some(variable)) => {
                let (name, value) = variable.split_once('=').ok_or_else(malformed)?;
                let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if name.is_empty() || !name.chars().all(is_plain) || value.contains('\0') {
                    return Err(malformed());
                }
                // The first one counts.
                if self.environment.iter().all(|(known, _)| known != name) {
                    self.environment.push((name.to_owned(), value.to_owned()));
                }
            }
            ("expiry-time", Some(time)) => {
                let time = seconds(&time).ok_or_else(malformed)?;
                self.expiry = Some(self.expiry.map_or(time, |other| other.min(time)));
            }
            (
                "command" | "from" | "environment" | "expiry-time" | "restrict" | "isolate" | "pty"
                | "no-pty" | "cert-authority" | "principals",
                _,
            ) => return Err(malformed()),
            _ => return Err(OptionFault::Unknown(option.to_owned())),
        }
        Ok(())
    }

    /// Whether a peer with this address may log in at this time, in seconds since 1970.
    pub fn allow(&self, address: Option<IpAddr>, now: u64) -> Result<(), Denial> {
        if self.expiry.is_some_and(|expiry| expiry < now) {
            return Err(Denial::Expired);
        }
        match &self.from {
            Some(from) if !from.allow(address) => Err(Denial::From),
            _ => Ok(()),
        }
    }
}

fn bad(option: &str) -> OptionFault {
    OptionFault::Malformed(option.to_owned())
}

/// A value in double quotes, in which `\"` stands for one, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let (mut value, mut rest) = (String::new(), inner);
    loop {
        let end = rest.find('"')?;
        let (part, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        match part.strip_suffix('\\') {
            Some(part) => {
                value.push_str(part);
                value.push('"');
            }
            None => {
                value.push_str(part);
                return Some((value, rest));
            }
        }
    }
}

/// The seconds from 1970 to `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`, with or without a `Z`. A machine has no time
/// zone, so it is UTC either way.
fn seconds(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('Z').unwrap_or(text);
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |begin: usize, end: usize| match digits.get(begin..end) {
        Some(digits) => digits.parse::<u64>().ok(),
        None => Some(0),
    };
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let months = [
        31,
        if is_leap { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let before = usize::try_from(month).ok()?.checked_sub(1)?;
    let length = *months.get(before)?;
    if year < 1970 || day == 0 || day > length || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let days = years + months[..before].iter().sum::<u64>() + day - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> KeyOptions {
        KeyOptions::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"))
    }

    #[test]
    fn restrict_takes_everything_and_later_options_give_back() {
        let all = KeyOptions::default();
        assert!(all.pty && all.port_forwarding && all.agent_forwarding);
        let none = parse("restrict");
        assert!(!none.pty && !none.port_forwarding && !none.agent_forwarding);
        let terminal = parse("Restrict,PTY");
        assert!(terminal.pty && !terminal.port_forwarding && !terminal.agent_forwarding);
        // It takes something else, which nothing gives back.
        assert!(!none.isolate && parse("Isolate,restrict,pty").isolate);
        assert!(!parse("no-pty").pty && parse("no-pty").port_forwarding);
        let usual = "no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-pty,no-user-rc";
        assert_eq!(parse(usual), none);
    }

    #[test]
    fn values_are_in_quotes() {
        let options = parse(
            r#"command="backup \"a b\" 'c,d'",environment="A=1=2",environment="A=3",environment="B=""#,
        );
        assert_eq!(options.command.as_deref(), Some(r#"backup "a b" 'c,d'"#));
        let variables = [("A", "1=2"), ("B", "")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(options.environment, variables);
    }

    #[test]
    fn a_ca_may_be_limited_to_principals() {
        let options = parse("cert-authority,principals=\"ann, bob\",no-pty");
        assert!(options.cert_authority && !options.pty);
        assert_eq!(options.principals, ["ann", "bob"]);
        assert!(!KeyOptions::default().cert_authority);
    }

    #[test]
    fn what_is_not_understood_is_a_fault() {
        for unknown in [
            "permitopen=\"a:1\"",
            "pty,tunnel=\"0\"",
            "",
            "pty,",
            "no-touch-required",
        ] {
            let fault = KeyOptions::parse(unknown).unwrap_err();
            assert!(
                matches!(fault, OptionFault::Unknown(_)),
                "{unknown}: {fault}"
            );
        }
        for malformed in [
            "from",
            "from=10.0.0.1",
            "from=\"10.0.0.1",
            "from=\"10.0.0.1/8\"",
            "from=\"*\",from=\"*\"",
            "command=\"\"",
            "command=\"a",
            "command=\"a 'b\"",
            "command=\"a\",command=\"b\"",
            "environment=\"A\"",
            "environment=\"=A\"",
            "environment=\"A-B=1\"",
            "expiry-time=\"tomorrow\"",
            "expiry-time=\"20260230\"",
            "restrict=\"yes\"",
            "isolate=\"yes\"",
            "cert-authority=\"yes\"",
            "principals",
            "principals=\"\"",
            "principals=\"a,,b\"",
            "principals=\"a\",principals=\"b\"",
            "pty x",
            "from=\"*\"x",
        ] {
            let fault = KeyOptions::parse(malformed).unwrap_err();
            assert!(
                matches!(fault, OptionFault::Malformed(_)) || malformed == "pty x",
                "{malformed}: {fault}"
            );
        }
    }

    #[test]
    fn times_are_utc_and_the_earliest_counts() {
        for (text, expected) in [
            ("19700101", 0),
            ("20000229", 951_782_400),
            ("20260301Z", 1_772_323_200),
            ("202612312359", 1_798_761_540),
            ("20261231235959Z", 1_798_761_599),
            ("21000301", 4_107_542_400),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for bad in [
            "",
            "Z",
            "2026",
            "20261301",
            "20260100",
            "20260132",
            "2026010124",
            "202601012400",
            "19691231",
            "20250229",
            "2026-1-1",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        let options = parse("expiry-time=\"20000229\",expiry-time=\"21000301\"");
        assert_eq!(options.allow(None, 951_782_400), Ok(()));
        assert_eq!(options.allow(None, 951_782_401), Err(Denial::Expired));
    }

    #[test]
    fn only_the_addresses_of_from_may_log_in() {
        let options = parse("from=\"10.0.0.0/8,!10.9.0.0/16\"");
        let allow = |address: &str| options.allow(address.parse().ok(), 0);
        assert_eq!(allow("10.1.0.1"), Ok(()));
        assert_eq!(allow("10.9.0.1"), Err(Denial::From));
        assert_eq!(allow("192.0.2.1"), Err(Denial::From));
        assert_eq!(allow("none"), Err(Denial::From));
        assert_eq!(KeyOptions::default().allow(None, u64::MAX), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_options_or_a_fault(text in "([a-z=\",\\\\ -]|from=|command=|environment=|expiry-time=|principals=|é){0,12}") {
            drop(KeyOptions::parse(&text));
        }
    }
}
