//! Input: `(side[1] tag[1] kind[1] length[1] body[length])*`, after both ends have agreed to the dialect with watched
//! directories, and the kernel has attached. Whatever the server says about what is kept, and the kernel asks for, the relay
//! does not panic, and what it sends to the server are requests.
#![no_main]

use std::time::Instant;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ninep::msg::{Header, Kind, NO_FID, NO_ID, NO_TAG, Qid, Reply, Request, VERSION, WATCHED};
use ninep::relay::{Relay, Upstream};
use ninep::wire::{Frame, HEADER, Str};

fuzz_target!(|bytes: &[u8]| {
    let mut relay = agreed();
    let mut frame = Frame::default();
    let mut rest = bytes;
    while let [side, tag, kind, length, more @ ..] = rest {
        let (body, more) = more.split_at(more.len().min((*length).into()));
        rest = more;
        let is_server = side % 2 == 1;
        // Not many tags, so that answers meet questions; and the mirror's own.
        let tag = u16::from(tag & 7) | if tag & 0x80 == 0 { 0 } else { 0xff00 };
        if !is_server && Kind::new(*kind).map(|kind| Request::decode(kind, body).is_err()) != Ok(false) {
            continue;
        }
        frame.start(*kind, tag);
        frame.put(body);
        let message = Bytes::copy_from_slice(frame.finish());
        let Some((to_server, _)) = pass(&mut relay, is_server, message) else {
            return;
        };
        check(&to_server);
    }
});

/// The relay after the first four messages.
fn agreed() -> Relay {
    let mut relay = Relay::new(Upstream::Any);
    let mut frame = Frame::default();
    let text = |text| Str::new(text).unwrap_or_default();
    let (msize, kernels, servers) = (1 << 16, text(VERSION), text(WATCHED));
    let qid = Qid { kind: Qid::DIR, ..Qid::default() };
    let attach = Request::Attach { fid: 0, afid: NO_FID, uname: text(b""), aname: text(b""), n_uname: NO_ID };
    let mut send = |is_server, message: &[u8]| {
        assert!(pass(&mut relay, is_server, Bytes::copy_from_slice(message)).is_some());
    };
    Request::Version { msize, version: kernels }.encode(NO_TAG, &mut frame);
    send(false, frame.finish());
    Reply::Version { msize, version: servers }.encode(NO_TAG, &mut frame);
    send(true, frame.finish());
    attach.encode(0, &mut frame);
    send(false, frame.finish());
    Reply::Attach { qid }.encode(0, &mut frame);
    send(true, frame.finish());
    relay
}

/// What goes to the server and to the kernel, unless the connection has to end.
fn pass(relay: &mut Relay, is_server: bool, message: Bytes) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut to_server, mut to_kernel) = (Vec::new(), Vec::new());
    let passed = if is_server {
        relay.from_server(message, Instant::now(), &mut to_kernel)
    } else {
        relay.from_kernel(message, Instant::now(), &mut to_server)
    };
    passed.ok()?;
    relay.take_replies(&mut to_kernel);
    relay.take_requests(&mut to_server);
    relay.take_batch(&mut to_server);
    Some((to_server.concat(), to_kernel.concat()))
}

/// All of it is requests.
fn check(mut stream: &[u8]) {
    while let Some(header) = stream.first_chunk::<HEADER>() {
        let header = Header::decode(header);
        let (message, rest) = stream.split_at(header.size as usize);
        let kind = Kind::new(header.kind).expect("a request");
        Request::decode(kind, &message[HEADER..]).expect("whole and well-formed");
        stream = rest;
    }
    assert!(stream.is_empty());
}
