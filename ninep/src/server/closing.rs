//! Files that are being closed after a clunk without a reply, which may take a while.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a close holds up later changes of names. One that takes longer is one of a file system that is stuck.
const SLOW_CLOSE: Duration = Duration::from_secs(1);

/// The closes of a session, counted in the order of their clunks.
#[derive(Debug, Default)]
pub(super) struct Closing {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    begun: u64,
    /// Those that have begun and not ended, and when they began.
    active: Vec<(u64, Instant)>,
}

impl Closing {
    /// A close begins: its number.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.begun += 1;
        let number = state.begun;
        state.active.push((number, Instant::now()));
        number
    }

    pub(super) fn end(&self, number: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.active.retain(|(active, _)| *active != number);
        self.ended.notify_all();
    }

    /// Returns when all that have begun have ended.
    pub(super) fn wait(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = state.begun;
        let is_open = |state: &mut State| state.active.iter().any(|(active, _)| *active <= last);
        drop(self.ended.wait_while(state, is_open));
    }

    /// The same, but does not wait for those that began [`SLOW_CLOSE`] ago.
    pub(super) fn wait_briefly(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = state.begun;
        loop {
            let open = state.active.iter().filter(|(active, _)| *active <= last);
            let left = open.map(|(_, began)| SLOW_CLOSE.saturating_sub(began.elapsed()));
            let left = left.max().unwrap_or_default();
            if left.is_zero() {
                return;
            }
            let waited = self.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_begins_later_is_not_waited_for() {
        let closing = Closing::default();
        closing.wait();
        let (first, second) = (closing.begin(), closing.begin());
        std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel();
            closing.end(second);
            let closing = &closing;
            scope.spawn(move || {
                closing.wait();
                done.send(()).unwrap();
            });
            let early = is_done.recv_timeout(Duration::from_millis(50));
            assert!(early.is_err(), "the first has not ended");
            closing.begin();
            closing.end(first);
            is_done.recv_timeout(Duration::from_secs(20)).unwrap();
        });
    }

    #[test]
    fn what_does_not_end_is_waited_for_once_and_not_for_long() {
        let closing = Closing::default();
        let begun = Instant::now();
        closing.wait_briefly();
        assert!(begun.elapsed() < SLOW_CLOSE);
        let number = closing.begin();
        closing.wait_briefly();
        assert!(begun.elapsed() >= SLOW_CLOSE);
        let again = Instant::now();
        closing.wait_briefly();
        assert!(again.elapsed() < SLOW_CLOSE);
        closing.end(number);
        let number = closing.begin();
        std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel();
            let closing = &closing;
            scope.spawn(move || {
                closing.wait_briefly();
                done.send(()).unwrap();
            });
            let early = is_done.recv_timeout(Duration::from_millis(50));
            assert!(early.is_err(), "it has not ended");
            closing.end(number);
            is_done.recv_timeout(Duration::from_secs(20)).unwrap();
        });
    }
}
