//! Certificates of users, as far as russh and the machine's clock make them a matter of their own.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use cpu_proto::AuthorizedKey;
use log::{Level, LevelFilter, Log, Metadata, Record};
use russh::keys::{Certificate, PublicKey};

/// 2026-01-01. A clock that says less has never been set.
const CLOCK_IS_SET: u64 = 1_767_225_600;

/// What russh writes into the log when it refuses a certificate. It does so before any callback.
const REFUSALS: [(&str, &str); 2] = [
    (
        "Certificate is expired or not yet valid",
        "is not valid at this time",
    ),
    (
        "Certificate signature is invalid",
        "has a signature that its CA has not made",
    ),
];

/// Which of [`REFUSALS`] was the last one, from 1.
static REFUSED: AtomicU8 = AtomicU8::new(0);

/// russh's log, of which only those lines count.
struct RefusalLog;

impl Log for RefusalLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().as_str();
        let place = REFUSALS
            .iter()
            .zip(1..)
            .find(|((line, _), _)| Some(*line) == text);
        if let Some((_, place)) = place {
            REFUSED.store(place, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

/// Begins to notice that russh refuses certificates.
pub(super) fn listen() {
    // Fails if it was called before.
    if log::set_logger(&RefusalLog).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// Why russh has refused the last certificate, if it has refused any.
pub(super) fn refused() -> Option<String> {
    let place = usize::from(REFUSED.load(Ordering::Relaxed));
    let (_, why) = REFUSALS.get(place.checked_sub(1)?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let clock = clock_warning(now.unwrap_or_default().as_secs());
    let clock = clock.map_or_else(String::new, |warning| format!("; {}", warning.trim_end()));
    Some(format!("it has a certificate that {why}{clock}"))
}

/// What a peer is told whose certificate will be refused, because the machine does not know the time.
pub(super) fn clock_warning(now: u64) -> Option<String> {
    (now < CLOCK_IS_SET).then(|| {
        let year = 1970 + now / 31_557_600;
        format!(
            "this machine's clock was not set (it is in {year}), so certificates seem not to be valid yet: \
             log in with a plain key and set it, or give the machine a clock\n"
        )
    })
}

/// The key of a certificate, with who it is by the word of its CA as the comment.
pub(super) fn named(certificate: &Certificate, authority: &AuthorizedKey) -> PublicKey {
    let (id, serial) = (certificate.key_id(), certificate.serial());
    let ca = match authority.key.comment().as_str_lossy() {
        "" => cpu_proto::fingerprint(&authority.key),
        comment => comment.to_owned(),
    };
    let comment = format!("{id} serial {serial} of {ca}");
    PublicKey::new(certificate.public_key().clone(), comment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_russh_refuses_is_noticed_and_other_lines_are_not() {
        let log = |arguments: std::fmt::Arguments<'_>| {
            RefusalLog.log(&Record::builder().level(Level::Warn).args(arguments).build());
        };
        log(format_args!("something else"));
        assert_eq!(refused(), None);
        log(format_args!("Certificate signature is invalid"));
        assert!(refused().unwrap().contains("its CA has not made"));
    }

    #[test]
    fn a_clock_that_was_not_set_is_told_of() {
        assert!(clock_warning(0).unwrap().contains("1970"));
        assert!(clock_warning(CLOCK_IS_SET - 1).unwrap().contains("2025"));
        assert_eq!(clock_warning(CLOCK_IS_SET), None);
    }
}
