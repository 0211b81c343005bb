//! Input: `type[1] body`. Whatever decodes as a request encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ninep::msg::{Kind, Request};
use ninep::wire::{Frame, HEADER};

fuzz_target!(|bytes: &[u8]| {
    let Some((number, body)) = bytes.split_first() else {
        return;
    };
    let Ok(kind) = Kind::new(*number) else {
        return;
    };
    if let Ok(request) = Request::decode(kind, body) {
        let mut frame = Frame::default();
        request.encode(1, &mut frame);
        assert_eq!(&frame.finish()[HEADER..], body);
        // Formatting must not panic either.
        let _ = format!("{request:?}");
    }
});
