//! Read-ahead: when a file is read from its beginning to its end, each request to the server asks for more than the kernel wants, and
//! the next reads are answered from the rest. From the second request on, the next part is asked for before the program gets there.

use std::ops::Range;

/// How many parts of a large file are kept at a time: the one that is being read, and two that come next.
pub(super) const PARTS: u64 = 3;

/// What was read of a file through a fid, and what the server was asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadAhead {
    /// Where the last read ended.
    next: u64,
    /// What was asked for last.
    asked: Range<u64>,
    /// Whether that was because the program went on where it had stopped.
    is_sequential: bool,
}

impl ReadAhead {
    /// A read was answered from what is known.
    pub(super) fn found(&mut self, offset: u64, count: u32) {
        self.next = offset.saturating_add(count.into());
    }

    /// How much to ask the server for, to answer a read of `count` bytes. If the program goes on where it has stopped, twice as much
    /// as the last time, but no more than `most`.
    pub(super) fn ask(&mut self, offset: u64, count: u32, most: u32) -> u32 {
        let is_next = offset == self.next;
        self.found(offset, count);
        if self.asked.contains(&offset) && self.next <= self.asked.end {
            // It is still under way.
            return count;
        }
        let mut asked = count;
        self.is_sequential = is_next;
        if is_next {
            let last = u32::try_from(self.asked.end - self.asked.start).unwrap_or(u32::MAX);
            asked = last.max(count).saturating_mul(2).min(most).max(count);
        }
        self.asked = offset..offset.saturating_add(asked.into());
        asked
    }

    /// What to ask for before the program wants it: the next part of a file that ends at `end`, as soon as it has come to the one that
    /// was asked for last. `known_end`: where the bytes end that are known from an offset on.
    pub(super) fn ask_on(
        &mut self,
        end: u64,
        most: u32,
        known_end: impl FnOnce(u64) -> u64,
    ) -> Option<(u64, u32)> {
        let last = self.asked.end - self.asked.start;
        let is_in_last = self.asked.contains(&self.next) || self.next == self.asked.end;
        if !self.is_sequential || !is_in_last {
            return None;
        }
        let offset = known_end(self.asked.end);
        let rest = end.checked_sub(offset).filter(|rest| *rest > 0)?;
        let count = last.saturating_mul(2).min(most.into()).min(rest);
        self.asked = offset..offset.saturating_add(count);
        Some((offset, u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// What was asked for is not known, though it was answered.
    pub(super) fn lost(&mut self) {
        self.asked = 0..0;
        self.is_sequential = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u32 = 1000;

    #[test]
    fn parts_that_follow_each_other_are_asked_for_in_larger_and_larger_ones() {
        let mut ahead = ReadAhead::default();
        let mut known = 0;
        let mut asked = Vec::new();
        for offset in (0..5000).step_by(100) {
            if offset + 100 <= known {
                ahead.found(offset, 100);
            } else {
                let count = ahead.ask(offset, 100, MOST);
                asked.push(count);
                known = offset + u64::from(count);
            }
        }
        assert_eq!(asked, [200, 400, 800, 1000, 1000, 1000, 1000]);
    }

    #[test]
    fn nothing_is_asked_for_beyond_what_is_read_here_and_there() {
        let mut ahead = ReadAhead::default();
        for offset in [500, 300, 700, 100] {
            assert_eq!(ahead.ask(offset, 100, MOST), 100);
        }
        // On from the last one.
        assert_eq!(ahead.ask(200, 100, MOST), 200);
    }

    #[test]
    fn a_second_read_under_way_asks_for_itself_only() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.ask(0, 100, MOST), 200);
        assert_eq!(ahead.ask(100, 100, MOST), 100);
        // In part.
        assert_eq!(ahead.ask(150, 100, MOST), 100);
        assert_eq!(ahead.ask(250, 100, MOST), 200);
    }

    #[test]
    fn the_next_part_is_asked_for_when_the_program_comes_to_the_last() {
        let same = |at| at;
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.ask(500, 100, MOST), 100);
        assert_eq!(
            ahead.ask_on(5000, MOST, same),
            None,
            "it may go on elsewhere"
        );
        assert_eq!(ahead.ask(600, 100, MOST), 200);
        assert_eq!(ahead.ask_on(5000, MOST, same), Some((800, 400)));
        assert_eq!(ahead.ask_on(5000, MOST, same), None);
        ahead.found(700, 100);
        assert_eq!(ahead.ask_on(5000, MOST, same), Some((1200, 800)));
        ahead.found(800, 100);
        assert_eq!(ahead.ask_on(5000, MOST, same), None);
        ahead.found(1200, 100);
        // What is known need not be asked for, and nothing is behind the end.
        let known = |at| if at == 2000 { 4500 } else { at };
        assert_eq!(ahead.ask_on(5000, MOST, known), Some((4500, 500)));
        ahead.found(4500, 100);
        assert_eq!(ahead.ask_on(5000, MOST, same), None);
        // Somewhere else.
        ahead.found(0, 100);
        assert_eq!(ahead.ask_on(5000, MOST, same), None);
    }

    #[test]
    fn after_a_loss_it_begins_anew() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.ask(0, 100, MOST), 200);
        assert_eq!(ahead.ask_on(5000, MOST, |at| at), Some((200, 400)));
        ahead.found(100, 100);
        ahead.lost();
        assert_eq!(ahead.ask_on(5000, MOST, |at| at), None);
        assert_eq!(ahead.ask(200, 100, MOST), 200);
    }

    #[test]
    fn a_read_is_never_made_smaller() {
        assert_eq!(ReadAhead::default().ask(0, 2 * MOST, MOST), 2 * MOST);
        assert_eq!(ReadAhead::default().ask(u64::MAX, u32::MAX, MOST), u32::MAX);
    }
}
