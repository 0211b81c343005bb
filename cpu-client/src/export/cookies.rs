//! Where entries of an open directory are: from the number by which the peer knows a place to the file system's own
//! cookie.
//!
//! Those cookies have up to 63 bits (ext4's are hashes), and a program of 32 bits can have no more than 31 of an
//! offset (telldir(3)). So the peer is told how many entries came before, and the cookies are noted here: of each entry in a directory
//! of usual size, of each second one in a larger one, and so on. What lies between two of them is read again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Noted of one directory, at most.
const MAX_PER_DIRECTORY: usize = 8192;
/// And at least, however many are open.
const MIN_PER_DIRECTORY: usize = 64;
/// Noted of all that are open, at most, but for those [`MIN_PER_DIRECTORY`]: 16 MiB.
const MAX_TOTAL: usize = 2 << 20;

/// How many cookies are noted in all.
pub(super) type CookieTotal = Arc<AtomicUsize>;

/// The cookies of one directory.
pub(super) struct Cookies {
    /// Of which entries: those whose number is a multiple of this power of two.
    every: u64,
    /// In order, the first for number `every`.
    noted: Vec<u64>,
    total: CookieTotal,
}

impl Cookies {
    pub(super) fn new(total: CookieTotal) -> Self {
        Self {
            every: 1,
            noted: Vec::new(),
            total,
        }
    }

    /// Notes the cookie of the place before which `number` entries are. A later note of a number counts: it is what the peer
    /// was told last.
    pub(super) fn note(&mut self, number: u64, cookie: u64) {
        let Some(at) = self.position(number) else {
            return;
        };
        if let Some(known) = self.noted.get_mut(at) {
            *known = cookie;
        } else if at == self.noted.len() {
            if self.may_grow() {
                self.total.fetch_add(1, Ordering::Relaxed);
                self.noted.push(cookie);
            } else {
                self.thin();
                self.note(number, cookie);
            }
        }
    }

    /// The last place up to `number` of which the cookie is known, and that cookie. The beginning always is.
    pub(super) fn before(&self, number: u64) -> (u64, u64) {
        let noted = u64::try_from(self.noted.len()).unwrap_or(u64::MAX);
        let last = (number / self.every).min(noted);
        let cookie = self.position(last * self.every);
        let cookie = cookie.and_then(|at| self.noted.get(at));
        (last * self.every, cookie.copied().unwrap_or(0))
    }

    fn position(&self, number: u64) -> Option<usize> {
        let is_noted = number.is_multiple_of(self.every);
        let at = usize::try_from(number / self.every).ok()?.checked_sub(1)?;
        is_noted.then_some(at)
    }

    fn may_grow(&self) -> bool {
        let all = self.total.load(Ordering::Relaxed);
        self.noted.len() < MIN_PER_DIRECTORY
            || (self.noted.len() < MAX_PER_DIRECTORY && all < MAX_TOTAL)
    }

    /// Forgets every second one.
    fn thin(&mut self) {
        let before = self.noted.len();
        let mut is_kept = true;
        self.noted.retain(|_| {
            is_kept = !is_kept;
            is_kept
        });
        self.every *= 2;
        self.give_back(before - self.noted.len());
    }

    fn give_back(&self, some: usize) {
        self.total.fetch_sub(some, Ordering::Relaxed);
    }
}

impl Drop for Cookies {
    fn drop(&mut self) {
        self.give_back(self.noted.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a file system that likes large numbers has them.
    fn cookie(number: u64) -> u64 {
        number << 40 | 7
    }

    fn noted(total: &CookieTotal, count: u64) -> Cookies {
        let mut cookies = Cookies::new(total.clone());
        for number in 1..=count {
            cookies.note(number, cookie(number));
        }
        cookies
    }

    #[test]
    fn each_place_of_a_usual_directory_is_known_and_one_near_it_of_any() {
        let total = CookieTotal::default();
        for (count, near) in [
            (0, 1),
            (100, 1),
            (8192, 1),
            (8193, 2),
            (100_000, 16),
            (3_000_000, 512),
        ] {
            let cookies = noted(&total, count);
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
            assert!(cookies.noted.len() <= MAX_PER_DIRECTORY);
            assert_eq!(total.load(Ordering::Relaxed), cookies.noted.len());
        }
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_open_directories_share_what_there_is() {
        let total = CookieTotal::default();
        let some = [(); 300].map(|()| noted(&total, 20_000));
        let all = total.load(Ordering::Relaxed);
        assert!(all <= MAX_TOTAL + some.len() * MIN_PER_DIRECTORY, "{all}");
        for cookies in &some {
            assert!(cookies.noted.len() >= MIN_PER_DIRECTORY / 2);
            let (before, found) = cookies.before(20_000);
            assert_eq!(found, cookie(before));
        }
    }

    #[test]
    fn what_was_told_last_counts() {
        let mut cookies = noted(&CookieTotal::default(), 10);
        cookies.note(5, 555);
        assert_eq!(cookies.before(5), (5, 555));
        assert_eq!(cookies.before(4), (4, cookie(4)));
        assert_eq!(cookies.before(1000), (10, cookie(10)));
    }
}
