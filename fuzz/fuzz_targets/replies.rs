//! Input: `type[1] body`. Whatever decodes as a reply encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ninep::msg::Reply;
use ninep::wire::{Frame, HEADER};

fuzz_target!(|bytes: &[u8]| {
    let Some((number, body)) = bytes.split_first() else {
        return;
    };
    if let Ok(reply) = Reply::decode(*number, body) {
        let mut frame = Frame::default();
        reply.encode(1, &mut frame);
        assert_eq!(&frame.finish()[HEADER..], body);
        let _ = format!("{reply:?}");
    }
});
