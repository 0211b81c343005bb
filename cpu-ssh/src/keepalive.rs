//! Keepalives: whether a silent peer is still there. Those of russh are of no use. Its server sends them even before
//! the login, when only authentication messages are allowed (RFC 4252, section 6) and OpenSSH's client disconnects
//! because of them; and neither its client nor its server knows when it is we who do not read.

use std::time::Duration;

use crate::Throttle;

/// How long the peer may be silent before a keepalive is sent.
pub const INTERVAL: Duration = Duration::from_secs(15);

/// The number of unanswered keepalives that ends the connection.
pub const MAX_UNANSWERED: usize = 3;

/// Waits until `max` keepalives in a row are unanswered (0: forever); returns how long the peer has been silent.
/// `ask`, which sends a keepalive, is called after every `interval` in which nothing has arrived, except the last.
pub async fn wait_for_silence(
    throttle: &Throttle,
    interval: Duration,
    max: usize,
    ask: impl Fn(),
) -> Duration {
    let mut silent = 0;
    loop {
        tokio::time::sleep(interval).await;
        silent = if throttle.was_active() { 0 } else { silent + 1 };
        if silent > max && max > 0 {
            return interval * u32::try_from(silent).unwrap_or(u32::MAX);
        }
        if silent > 0 {
            ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_is_left_alone_and_a_silent_one_is_given_up() {
        let (throttle, second) = (Throttle::default(), Duration::from_secs(1));
        let asked = Cell::new(0);
        // The peer answers the first three keepalives.
        let ask = || {
            asked.set(asked.get() + 1);
            if asked.get() <= 3 {
                throttle.record_activity();
            }
        };
        let started = tokio::time::Instant::now();
        let silent = wait_for_silence(&throttle, second, 2, ask).await;
        assert_eq!(silent, second * 3);
        assert_eq!((asked.get(), started.elapsed()), (5, second * 9));

        let never = wait_for_silence(&throttle, second, 0, || asked.set(asked.get() + 1));
        let waited = tokio::time::timeout(second * 100, never).await;
        assert!(waited.is_err() && asked.get() > 100);
    }
}
