//! Who may log in: the part of sshd(8)'s `authorized_keys` format that cpud supports. mkimage uses the same code to
//! report lines that cpud will ignore.

use std::collections::HashSet;
use std::fmt;

use ssh_key::public::KeyData;
use ssh_key::{Certificate, PublicKey};

use crate::key_options::{KeyOptions, OptionFault};
use crate::key_type::{self, KeyTypeFault};

/// The marker of a key that may not log in, as in known_hosts files.
const REVOKED: &str = "@revoked";

/// The keys of a file, and the lines that are not keys.
#[derive(Debug, Default)]
pub struct AuthorizedKeys {
    /// The keys that can log in, and those whose certificates can.
    pub keys: Vec<AuthorizedKey>,
    /// The keys of `@revoked` lines. Those of [`Self::keys`] that were among them are left out.
    pub revoked: Vec<RevokedKey>,
    /// Lines that are not used.
    pub left_out: Vec<LeftOut>,
}

/// A line with a key.
#[derive(Clone, Debug)]
pub struct AuthorizedKey {
    /// Line number, from 1.
    pub line: usize,
    /// The key, with its comment.
    pub key: PublicKey,
    /// What its holder may do.
    pub options: KeyOptions,
}

/// A line with `@revoked`.
#[derive(Clone, Debug)]
pub struct RevokedKey {
    /// Line number, from 1.
    pub line: usize,
    /// The key, with its comment: also that of a CA, or of the holder of certificates.
    pub key: PublicKey,
}

/// A line that is not used.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} {}; it is left out", self.line, self.fault)
    }
}

/// What is wrong with a line. The message continues "line 1" or the name of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An option that is not known. It may restrict the key in sshd, so the key is not accepted, rather than given more
    /// rights than its line grants.
    #[error("has options ({0}), which are not supported")]
    Options(String),
    /// An option whose value cannot be read, or that must not occur twice.
    #[error("has an option that is malformed ({0})")]
    BadOption(String),
    /// A certificate of any type.
    #[error(
        "is a certificate: give the public key of its CA, with the option cert-authority, or the holder's, the .pub file \
         without -cert"
    )]
    Certificate,
    /// Another line revokes the key.
    #[error("has a key that line {0} revokes")]
    Revoked(usize),
    /// A marker that is not `@revoked`.
    #[error(
        "has the marker {0}, which belongs into known_hosts files: write cert-authority before the key of a CA"
    )]
    Marker(String),
    /// The first line of a private key.
    #[error("begins a private key: give its public half, the .pub file")]
    PrivateKey,
    /// A key in the format of RFC 4716 or of PuTTY.
    #[error(
        "begins a key that is not in OpenSSH's format: convert it with ssh-keygen -i -f FILE or PuTTYgen"
    )]
    OtherFormat,
    /// U+FEFF at the beginning, as written by some editors for Windows.
    #[error(
        "begins with a byte order mark, which hides the key behind it: save the file as UTF-8 without it"
    )]
    ByteOrderMark,
    /// UTF-16, as written by redirections of some shells for Windows.
    #[error("is UTF-16 text: save the file as UTF-8")]
    Utf16,
    /// A key that cannot log in.
    #[error("has {0}")]
    Key(#[from] KeyTypeFault),
    /// Anything else.
    #[error("is not a public key ({0})")]
    NoKey(String),
}

impl From<OptionFault> for Fault {
    fn from(fault: OptionFault) -> Self {
        match fault {
            OptionFault::Unknown(option) => Self::Options(option),
            OptionFault::Malformed(option) => Self::BadOption(option),
        }
    }
}

impl AuthorizedKeys {
    /// Parses all lines; blank lines and comments (`#`) are skipped.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut all = Self::default();
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            all.leave_out(1, Fault::Utf16);
            return all;
        }
        // A comment in another encoding must not make the file useless.
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines().enumerate();
        let mut endless = HashSet::new();
        while let Some((index, line)) = lines.next() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(text) = line.strip_prefix(REVOKED) {
                match parse_revoked(text) {
                    Ok(key) => all.revoked.push(RevokedKey {
                        line: index + 1,
                        key,
                    }),
                    Err(fault) => all.leave_out(index + 1, fault),
                }
                continue;
            }
            match parse_line(line) {
                Ok((key, options)) => all.keys.push(AuthorizedKey {
                    line: index + 1,
                    key,
                    options,
                }),
                Err(fault) => {
                    // Report a key of several lines once. One that does not end hides no key after it.
                    if let Some(end) = end_of_block(line).filter(|end| !endless.contains(end)) {
                        let mut rest = lines.clone();
                        if rest.any(|(_, line)| line.starts_with(end)) {
                            lines = rest;
                        } else {
                            endless.insert(end);
                        }
                    }
                    all.leave_out(index + 1, fault);
                }
            }
        }
        for key in std::mem::take(&mut all.keys) {
            match all.revocation(key.key.key_data()) {
                Some(revoked) => all.leave_out(key.line, Fault::Revoked(revoked)),
                None => all.keys.push(key),
            }
        }
        all
    }

    /// The same file with the option `isolate` in each line that is used.
    pub fn isolated(bytes: &[u8]) -> String {
        let used: HashSet<usize> = Self::parse(bytes).keys.iter().map(|key| key.line).collect();
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().zip(1..).map(|(line, number)| {
            let line = line.trim();
            if !used.contains(&number) {
                return format!("{line}\n");
            }
            let after = if parse_key(line).is_ok() { ' ' } else { ',' };
            format!("isolate{after}{line}\n")
        });
        lines.collect()
    }

    /// The line that revokes a key.
    pub(crate) fn revocation(&self, key: &KeyData) -> Option<usize> {
        let revoked = self.revoked.iter().find(|it| it.key.key_data() == key);
        revoked.map(|revoked| revoked.line)
    }

    fn leave_out(&mut self, line: usize, fault: Fault) {
        self.left_out.push(LeftOut { line, fault });
    }
}

/// How the last line of a key in another format begins, given its first line.
fn end_of_block(line: &str) -> Option<&'static str> {
    let ends = [
        ("-----BEGIN ", "-----END "),
        ("---- BEGIN ", "---- END "),
        ("PuTTY-User-Key-File", "Private-MAC"),
    ];
    let (_, end) = ends.iter().find(|(begin, _)| line.starts_with(begin))?;
    Some(end)
}

/// `[options] type base64 [comment]`.
fn parse_line(line: &str) -> Result<(PublicKey, KeyOptions), Fault> {
    if line.starts_with('\u{feff}') {
        return Err(Fault::ByteOrderMark);
    }
    if line.starts_with("-----BEGIN ") {
        return Err(Fault::PrivateKey);
    }
    if end_of_block(line).is_some() {
        return Err(Fault::OtherFormat);
    }
    if line.starts_with('@') {
        let marker = line.split_whitespace().next().unwrap_or_default();
        return Err(Fault::Marker(marker.to_owned()));
    }
    let no_options = match parse_key(line) {
        Err(fault @ Fault::NoKey(_)) => fault,
        result => return result.map(|key| (key, KeyOptions::default())),
    };
    let (options, key) = split_options(line);
    match parse_key(key) {
        Ok(key) => Ok((key, KeyOptions::parse(options)?)),
        Err(Fault::NoKey(_)) => Err(no_options),
        Err(fault) => Err(fault),
    }
}

/// `[options] type base64 [comment]` after the marker. Of a certificate it is the holder's key. The options mean nothing: whoever
/// puts the marker in front of a line wants its key revoked.
fn parse_revoked(text: &str) -> Result<PublicKey, Fault> {
    let text = text.trim();
    let (_, after_options) = split_options(text);
    match parse_key(text) {
        Err(fault @ Fault::NoKey(_)) => parse_key(after_options).map_err(|_| fault),
        Err(Fault::Certificate) => {
            let certificate = Certificate::from_openssh(text);
            let certificate = certificate.map_err(|error| Fault::NoKey(error.to_string()))?;
            let key = certificate.public_key().clone();
            Ok(PublicKey::new(key, certificate.comment()))
        }
        key => key,
    }
}

fn parse_key(text: &str) -> Result<PublicKey, Fault> {
    let mut words = text.split_whitespace();
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
        return Err(Fault::NoKey("a type and a key are needed".into()));
    };
    let comment = words.collect::<Vec<_>>().join(" ");
    if kind.ends_with("-cert-v01@openssh.com") {
        return Err(Fault::Certificate);
    }
    let key = PublicKey::from_openssh(&format!("{kind} {blob} {comment}"));
    let key = key.map_err(|error| Fault::NoKey(error.to_string()))?;
    key_type::check(key.key_data())?;
    Ok(key)
}

/// Splits a line at the first blank outside `"`. A `\"` does not end a quotation.
fn split_options(line: &str) -> (&str, &str) {
    let (mut quoted, mut escaped) = (false, false);
    let end = line.find(|c: char| {
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        c.is_whitespace() && !quoted
    });
    line.split_at(end.unwrap_or(line.len()))
}

#[cfg(test)]
mod tests;
