//! Input: `(side[1] n[1] bytes[n])*`. Whatever a kernel and a server send each other, in chunks of any size, the
//! relay does not panic and does not hold much. With u-root's server every byte of a request passes unchanged, and of
//! the replies none is lost.
#![no_main]

use std::time::Instant;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ninep::relay::{Relay, Upstream};

fuzz_target!(|bytes: &[u8]| {
    let now = Instant::now();
    let (mut asking, mut plain) = (Relay::new(Upstream::Any), Relay::new(Upstream::URoot));
    let (mut sent, mut passed) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut rest = bytes;
    let (mut relays, mut passes) = (true, true);
    while let [side, n, more @ ..] = rest {
        let (chunk_bytes, more) = more.split_at(more.len().min((*n).into()));
        rest = more;
        let server = side % 2 == 1;
        if passes {
            sent[usize::from(server)].extend_from_slice(chunk_bytes);
        }
        for (relay, goes, counted) in [(&mut asking, &mut relays, false), (&mut plain, &mut passes, true)] {
            if !*goes {
                continue;
            }
            let (mut to_server, mut to_kernel) = (Vec::new(), Vec::new());
            let chunk = Bytes::copy_from_slice(chunk_bytes);
            let relayed = if server {
                relay.from_server(chunk, now, &mut to_kernel)
            } else {
                relay.from_kernel(chunk, now, &mut to_server)
            };
            *goes = relayed.is_ok();
            relay.take_replies(&mut to_kernel);
            if counted {
                passed[0].extend(to_server.concat());
                passed[1].extend(to_kernel.concat());
            }
        }
        asking.take_batch(&mut Vec::new());
        assert!(!asking.has_batch());
    }
    assert!(sent[0].starts_with(&passed[0]));
    for (sent, passed) in sent.iter().zip(&passed) {
        assert!(passed.len() <= sent.len());
        // Only the beginning of a message that the framer puts together may be missing.
        assert!(!passes || sent.len() - passed.len() <= 256 * 1024);
    }
});
