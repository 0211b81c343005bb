//! Memory that is not needed any more.

/// Gives the whole pages of a buffer back to the system, as far as there are any (madvise(2)). Their bytes become zero.
pub(crate) fn release_pages(bytes: &mut [u8]) {
    // SAFETY: takes a number, and returns one.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Ok(page) = usize::try_from(page) else {
        return;
    };
    let before = bytes.as_ptr().align_offset(page);
    let Some(whole) = bytes.get_mut(before..) else {
        return;
    };
    let length = whole.len() - whole.len() % page;
    if length > 0 {
        // SAFETY: these pages are within the buffer, which is private memory of this process. Any bytes are valid in it, zeros too.
        unsafe { libc::madvise(whole.as_mut_ptr().cast(), length, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_are_released_and_nothing_beside_them() {
        for (from, to) in [(0, 0), (1, 2), (5000, 300_000), (0, 300_000)] {
            let mut all = vec![1_u8; 300_001];
            release_pages(&mut all[from..to]);
            assert!(all[..from].iter().chain(&all[to..]).all(|byte| *byte == 1));
            assert_eq!(all[from..to].contains(&0), to - from > 131_072);
        }
    }
}
