//! Files that are being closed after a clunk without a reply, which may take a while.

use std::sync::{Condvar, Mutex, PoisonError};

/// The closes of a session, counted in the order of their clunks.
#[derive(Debug, Default)]
pub(super) struct Closing {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    begun: u64,
    /// Those that have begun and not ended.
    active: Vec<u64>,
}

impl Closing {
    /// A close begins: its number.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.begun += 1;
        let number = state.begun;
        state.active.push(number);
        number
    }

    pub(super) fn end(&self, number: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.active.retain(|active| *active != number);
        self.ended.notify_all();
    }

    /// Returns when all that have begun have ended.
    pub(super) fn wait(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = state.begun;
        let is_open = |state: &mut State| state.active.iter().any(|active| *active <= last);
        drop(self.ended.wait_while(state, is_open));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

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
}
