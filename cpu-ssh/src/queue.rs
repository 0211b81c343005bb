//! Bytes that have arrived and have not been read. They are copied once, no matter how long the queue is.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// The capacity of a chunk, so that many small arrivals share one.
const CHUNK: usize = 64 * 1024;

/// First in, first out.
#[derive(Default)]
pub(crate) struct Queue {
    chunks: VecDeque<BytesMut>,
    length: usize,
}

impl Queue {
    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        if let Some(last) = self.chunks.back_mut()
            && last.capacity() - last.len() >= bytes.len()
        {
            last.extend_from_slice(bytes);
            return;
        }
        let mut chunk = BytesMut::with_capacity(bytes.len().max(CHUNK));
        chunk.extend_from_slice(bytes);
        self.chunks.push_back(chunk);
    }

    /// Removes bytes from the front, at most `max`; `None` if the queue is empty.
    pub(crate) fn pop(&mut self, max: usize) -> Option<Bytes> {
        let first = self.chunks.front_mut()?;
        let bytes = if first.len() > max {
            first.split_to(max).freeze()
        } else {
            self.chunks.pop_front()?.freeze()
        };
        self.length -= bytes.len();
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let mut queue = Queue::default();
        let all: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let (mut out, mut rest, mut size) = (Vec::new(), all.as_slice(), 1);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(size.min(rest.len()));
            queue.push(now);
            rest = later;
            size = size * 7 % 100_003;
            if size % 3 == 0 {
                out.extend_from_slice(&queue.pop(size).unwrap());
            }
            assert_eq!(queue.len() + out.len() + rest.len(), all.len());
        }
        while let Some(bytes) = queue.pop(10_000) {
            out.extend_from_slice(&bytes);
        }
        assert!(out == all && queue.len() == 0);
    }

    #[test]
    fn small_arrivals_share_their_memory() {
        let mut queue = Queue::default();
        (0..1_000_000).for_each(|_| queue.push(b"x"));
        assert!(queue.chunks.len() < 20);
    }
}
