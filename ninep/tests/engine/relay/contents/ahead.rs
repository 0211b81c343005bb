//! What the relay reads ahead of a program that reads a file one part after the other.

use super::*;

/// Bytes that differ at each offset, from `offset` to `end`.
fn bytes(offset: u64, end: u64) -> Vec<u8> {
    (offset..end).map(|at| (at % 251) as u8).collect()
}

/// A file that fid 2 has open, and the reads of the relay's own that are under way.
struct PartServer {
    size: u64,
    own: Vec<(u16, u64, u32)>,
}

impl PartServer {
    fn of(size: u64) -> Self {
        let own = Vec::new();
        Self { size, own }
    }

    /// Takes the requests of the relay. How much it asks for to answer the kernel.
    fn take(&mut self, mut sent: &[u8]) -> Option<u32> {
        let mut kernel = None;
        while let Some((size, _)) = sent.split_first_chunk() {
            let (message, rest) = sent.split_at(u32::from_le_bytes(*size) as usize);
            sent = rest;
            let tag = u16::from_le_bytes([message[5], message[6]]);
            match Request::decode(Kind::new(message[4]).unwrap(), &message[HEADER..]).unwrap() {
                Request::Read {
                    fid: 2,
                    offset,
                    count,
                } if tag >= 0xff00 => {
                    self.own.push((tag, offset, count));
                }
                Request::Read { fid: 2, count, .. } => kernel = Some(count),
                _ => {}
            }
        }
        kernel
    }

    fn data(&self, offset: u64, count: u32) -> Vec<u8> {
        bytes(offset, self.size.min(offset + u64::from(count)))
    }

    /// Answers the relay's own request that was made first.
    fn answer_own(&mut self, told: &mut ToldRelay) -> Vec<u8> {
        let (tag, offset, count) = self.own.remove(0);
        let data = self.data(offset, count);
        let got = told.reply(tag, &Reply::Read { data: Data(&data) });
        self.take(&told.own);
        got
    }

    /// What a read(2) returns, and how much was asked for to answer it.
    fn read(&mut self, told: &mut ToldRelay, offset: u64, count: u32) -> (Vec<u8>, Option<u32>) {
        let (sent, mut got) = told.ask(4, &read(2, offset, count));
        let mut asked = self.take(&sent);
        while got.is_empty() {
            got = match asked {
                Some(count) => {
                    let data = self.data(offset, count);
                    told.reply(4, &Reply::Read { data: Data(&data) })
                }
                None => {
                    asked = self.own.first().map(|own| own.2);
                    let got = self.answer_own(told);
                    if got.is_empty() {
                        asked = None;
                    }
                    got
                }
            };
        }
        (data_of(&got), asked)
    }

    /// Reads on from `offset` until a read waits for a part that is under way.
    fn read_until_one_waits(&mut self, told: &mut ToldRelay, mut offset: u64) -> u64 {
        loop {
            let (sent, got) = told.ask(4, &read(2, offset, 1000));
            if let Some(count) = self.take(&sent) {
                let data = self.data(offset, count);
                told.reply(4, &Reply::Read { data: Data(&data) });
            } else if got.is_empty() {
                return offset;
            }
            offset += 1000;
        }
    }
}

/// What an Rread brings the kernel.
fn data_of(message: &[u8]) -> Vec<u8> {
    assert_eq!(message[5..7], [4, 0], "the tag");
    match Reply::decode(message[4], &message[HEADER..]).unwrap() {
        Reply::Read { data } => data.0.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// One that has opened a file of this size, whose beginning is known.
fn open_one(size: u64) -> (ToldRelay, PartServer) {
    let mut told = ToldRelay::new();
    told.find(size);
    told.open(&bytes(0, FIRST.into()), size);
    (told, PartServer::of(size))
}

#[test]
fn a_file_that_is_read_through_is_asked_for_in_larger_and_larger_parts() {
    const SIZE: u64 = 300_500;
    let (mut told, mut server) = open_one(SIZE);
    let (mut all, mut asked) = (Vec::new(), Vec::new());
    loop {
        let offset = all.len() as u64;
        let (data, sent) = server.read(&mut told, offset, 1000);
        assert_eq!(data, bytes(offset, SIZE.min(offset + 1000)), "{offset}");
        asked.extend(sent);
        if data.is_empty() {
            break;
        }
        all.extend(data);
    }
    let most = (1 << 16) - 11;
    let begin = [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000];
    assert_eq!(asked[..4], begin[1..5], "{asked:?}");
    assert_eq!(asked.iter().max(), Some(&most));
    assert!(asked.len() <= 9, "{asked:?}");
    assert!(told.opens(), "all of it is kept");
}

#[test]
fn what_is_read_here_and_there_is_not_read_ahead() {
    let (mut told, mut server) = open_one(1_000_000);
    for offset in [500_000, 300_000, 900_000, 100_000] {
        let (data, asked) = server.read(&mut told, offset, 1000);
        assert_eq!(data, bytes(offset, offset + 1000));
        assert_eq!(asked, Some(1000));
    }
    assert!(server.own.is_empty());
}

#[test]
fn of_a_file_that_is_too_large_to_be_kept_only_what_comes_next_is() {
    const SIZE: u64 = 2_000_000;
    let budget = Arc::new(ContentBudget::new(400_000));
    let mut told = ToldRelay::keeping(budget.clone());
    told.find(SIZE);
    told.ask(3, &walk(1, 2, ""));
    told.ask(3, &open(2));
    let (qid, iounit) = (qid(Qid::FILE, X), 0);
    told.reply(3, &Reply::Lopen { qid, iounit });
    let mut server = PartServer::of(SIZE);
    let (mut offset, mut waits) = (0, 0);
    while offset < SIZE {
        let (data, asked) = server.read(&mut told, offset, 4096);
        assert_eq!(data, bytes(offset, SIZE.min(offset + 4096)), "{offset}");
        offset += data.len() as u64;
        waits += usize::from(asked.is_some());
        assert!(budget.used() <= 200_000, "{}", budget.used());
    }
    assert!(waits < 70, "{waits}");
    // Once more, after it has changed.
    let (data, _) = server.read(&mut told, 0, 4096);
    assert_eq!(data, bytes(0, 4096));
    told.forget(FORGET_ATTR, ROOT, "x");
    let (_, asked) = server.read(&mut told, 4096, 4096);
    assert_eq!(asked, Some(4096), "it may have changed");
}

#[test]
fn a_server_that_sends_what_was_not_asked_for_fills_nothing() {
    let (mut told, mut server) = open_one(300_000);
    let at = u64::from(FIRST);
    assert_eq!(server.read(&mut told, at - 1000, 1000).1, None);
    told.ask(4, &read(2, at, 1000));
    // 2000 were asked for.
    let data = bytes(at, at + 2001);
    told.reply(4, &Reply::Read { data: Data(&data) });
    assert_eq!(told.read(2, at, 1000), None);
    // Fewer, though there are more: they may be from before the file grew.
    told.ask(4, &read(2, at, 1000));
    let data = bytes(at, at + 10);
    let got = told.reply(4, &Reply::Read { data: Data(&data) });
    assert_eq!(got, reply(4, &Reply::Read { data: Data(&data) }));
    assert_eq!(told.read(2, at, 10), None);
}

#[test]
fn the_next_part_is_on_its_way_when_the_program_gets_there() {
    const SIZE: u64 = 1_000_000;
    let (mut told, mut server) = open_one(SIZE);
    let mut offset = u64::from(FIRST) - 1000;
    // From here on, what a read waits for is always under way already, and more behind it.
    for _ in 0..4 {
        offset = server.read_until_one_waits(&mut told, offset);
        assert_eq!(server.own.len(), 2);
        assert_eq!(server.own[0].1, offset);
        let got = server.answer_own(&mut told);
        assert_eq!(data_of(&got), bytes(offset, offset + 1000));
        offset += 1000;
    }
    // To the end, and nothing behind it.
    while offset < SIZE {
        let (data, _) = server.read(&mut told, offset, 1000);
        assert_eq!(data, bytes(offset, SIZE.min(offset + 1000)));
        offset += data.len() as u64;
    }
    assert!(server.own.is_empty());
}

#[test]
fn a_read_that_waits_can_be_withdrawn() {
    let (mut told, mut server) = open_one(1_000_000);
    let offset = server.read_until_one_waits(&mut told, u64::from(FIRST) - 1000);
    let (sent, got) = told.ask(5, &Request::Flush { oldtag: 4 });
    assert!(sent.is_empty());
    assert_eq!(got, reply(5, &Reply::Flush {}));
    assert!(server.answer_own(&mut told).is_empty());
    // Others are the server's business.
    let (sent, got) = told.ask(5, &Request::Flush { oldtag: 4 });
    assert_eq!(sent, message(5, &Request::Flush { oldtag: 4 }));
    assert!(got.is_empty());
    told.reply(5, &Reply::Flush {});
    assert_eq!(
        told.read(2, offset, 1000),
        Some(bytes(offset, offset + 1000))
    );
}

#[test]
fn a_read_waits_no_longer_if_its_part_has_changed_or_cannot_be_read() {
    for is_error in [false, true] {
        let (mut told, mut server) = open_one(1_000_000);
        let offset = server.read_until_one_waits(&mut told, u64::from(FIRST) - 1000);
        let (tag, from, count) = server.own.remove(0);
        let old = bytes(from, from + u64::from(count));
        let mut answer = Reply::Error { ecode: 5 };
        if !is_error {
            told.forget(FORGET_ATTR, ROOT, "x");
            answer = Reply::Read { data: Data(&old) };
        }
        assert!(told.reply(tag, &answer).is_empty());
        // It asks for itself now.
        assert!(server.take(&told.own).is_some());
        let data = Data(b"changed");
        let got = told.reply(4, &Reply::Read { data });
        assert_eq!(data_of(&got), b"changed", "at {offset}");
    }
}

#[test]
fn what_was_read_ahead_of_a_file_is_not_kept_for_another() {
    let (mut told, mut server) = open_one(1_000_000);
    let offset = server.read_until_one_waits(&mut told, u64::from(FIRST) - 1000);
    server.answer_own(&mut told);
    assert_eq!(server.own.len(), 1);
    let ahead = server.own[0].1;
    told.ask(3, &Request::Clunk { fid: 2 });
    let other = attr(Qid::FILE, X + 1, 1_000_000);
    told.look(0, 2, "y", &lookup(KEEP_NAME | KEEP_ATTR, other));
    told.ask(3, &open(2));
    let (qid, iounit) = (qid(Qid::FILE, X + 1), 0);
    told.reply(3, &Reply::Lopen { qid, iounit });
    while !server.own.is_empty() {
        assert!(server.answer_own(&mut told).is_empty());
    }
    assert_eq!(told.read(2, offset, 1000), None);
    assert_eq!(told.read(2, ahead, 1000), None);
}

#[test]
fn a_server_that_sends_more_than_was_read_ahead_is_refused() {
    let (mut told, mut server) = open_one(1_000_000);
    server.read_until_one_waits(&mut told, u64::from(FIRST) - 1000);
    let (tag, offset, count) = server.own[0];
    let data = bytes(offset, offset + u64::from(count) + 1);
    let bytes = reply(tag, &Reply::Read { data: Data(&data) });
    let got = from_server(&mut told.relay, bytes, told.now, &mut Out::default());
    assert!(
        matches!(got, Err(ninep::relay::Error::Size { .. })),
        "{got:?}"
    );
}
