//! The file system's cookies for positions in an open directory, by the numbers that the peer has as offsets.
//!
//! Cookies have up to 63 bits (ext4's are hashes), but in a program of 32 bits an offset has only 31 (telldir(3)). So the
//! offset that the peer gets is the number of entries before it, and the cookies are recorded here: for every entry in a
//! directory of ordinary size, for every second one in a larger one, and so on. To find an entry between two recorded
//! ones, the directory is read again from the first of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most cookies that are recorded for a directory.
const MAX_PER_DIRECTORY: usize = 8192;
/// The number that a directory may record, however many directories are open.
const MIN_PER_DIRECTORY: usize = 64;
/// The most cookies of all open directories, not counting [`MIN_PER_DIRECTORY`] of each. They take 16 MiB.
const MAX_TOTAL: usize = 2 << 20;

/// The number of recorded cookies of all directories.
pub(super) type CookieTotal = Arc<AtomicUsize>;

/// The cookies of one directory.
pub(super) struct Cookies {
    /// A power of two. Cookies are recorded for entries whose number is a multiple of it.
    every: u64,
    /// The cookies in order. The first is that of entry `every`.
    recorded: Vec<u64>,
    total: CookieTotal,
}

impl Cookies {
    pub(super) fn new(total: CookieTotal) -> Self {
        Self {
            every: 1,
            recorded: Vec::new(),
            total,
        }
    }

    /// Records the cookie of the position after `number` entries. It replaces an earlier one, since the peer's last reply is
    /// the one that counts.
    pub(super) fn record(&mut self, number: u64, cookie: u64) {
        let Some(at) = self.position(number) else {
            return;
        };
        if let Some(known) = self.recorded.get_mut(at) {
            *known = cookie;
        } else if at == self.recorded.len() {
            if self.may_grow() {
                self.total.fetch_add(1, Ordering::Relaxed);
                self.recorded.push(cookie);
            } else {
                self.thin();
                self.record(number, cookie);
            }
        }
    }

    /// The last position up to `number` whose cookie is known, and that cookie. The beginning's is always known.
    pub(super) fn before(&self, number: u64) -> (u64, u64) {
        let recorded = u64::try_from(self.recorded.len()).unwrap_or(u64::MAX);
        let last = (number / self.every).min(recorded);
        let cookie = self.position(last * self.every);
        let cookie = cookie.and_then(|at| self.recorded.get(at));
        (last * self.every, cookie.copied().unwrap_or(0))
    }

    fn position(&self, number: u64) -> Option<usize> {
        let is_recorded = number.is_multiple_of(self.every);
        let at = usize::try_from(number / self.every).ok()?.checked_sub(1)?;
        is_recorded.then_some(at)
    }

    fn may_grow(&self) -> bool {
        let all = self.total.load(Ordering::Relaxed);
        self.recorded.len() < MIN_PER_DIRECTORY
            || (self.recorded.len() < MAX_PER_DIRECTORY && all < MAX_TOTAL)
    }

    /// Drops every second cookie.
    fn thin(&mut self) {
        let before = self.recorded.len();
        let mut is_kept = true;
        self.recorded.retain(|_| {
            is_kept = !is_kept;
            is_kept
        });
        self.every *= 2;
        self.give_back(before - self.recorded.len());
    }

    fn give_back(&self, some: usize) {
        self.total.fetch_sub(some, Ordering::Relaxed);
    }
}

impl Drop for Cookies {
    fn drop(&mut self) {
        self.give_back(self.recorded.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cookies of a file system that uses large numbers.
    fn cookie(number: u64) -> u64 {
        number << 40 | 7
    }

    fn recorded(total: &CookieTotal, count: u64) -> Cookies {
        let mut cookies = Cookies::new(total.clone());
        for number in 1..=count {
            cookies.record(number, cookie(number));
        }
        cookies
    }

    #[test]
    fn in_ordinary_directories_each_position_is_known_and_in_any_a_near_one() {
        let total = CookieTotal::default();
        for (count, near) in [
            (0, 1),
            (100, 1),
            (8192, 1),
            (8193, 2),
            (100_000, 16),
            (3_000_000, 512),
        ] {
            let cookies = recorded(&total, count);
            assert_eq!(cookies.before(0), (0, 0));
            for number in [1, 2, 63, count / 3, count.saturating_sub(1), count] {
                let number = number.min(count);
                let (before, found) = cookies.before(number);
                assert!(
                    before <= number && number - before < near,
                    "{before} {number}"
                );
                assert!(before == 0 || found == cookie(before));
            }
            assert!(cookies.recorded.len() <= MAX_PER_DIRECTORY);
            assert_eq!(total.load(Ordering::Relaxed), cookies.recorded.len());
        }
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_open_directories_share_the_limit() {
        let total = CookieTotal::default();
        let some = [(); 300].map(|()| recorded(&total, 20_000));
        let all = total.load(Ordering::Relaxed);
        assert!(all <= MAX_TOTAL + some.len() * MIN_PER_DIRECTORY, "{all}");
        for cookies in &some {
            assert!(cookies.recorded.len() >= MIN_PER_DIRECTORY / 2);
            let (before, found) = cookies.before(20_000);
            assert_eq!(found, cookie(before));
        }
    }

    #[test]
    fn a_later_cookie_replaces_an_earlier_one() {
        let mut cookies = recorded(&CookieTotal::default(), 10);
        cookies.record(5, 555);
        assert_eq!(cookies.before(5), (5, 555));
        assert_eq!(cookies.before(4), (4, cookie(4)));
        assert_eq!(cookies.before(1000), (10, cookie(10)));
    }
}
