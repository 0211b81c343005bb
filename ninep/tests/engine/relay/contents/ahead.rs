//! What the relay reads ahead of a program that reads a file one part after the other.

use super::*;

/// Bytes that differ at each offset, from `offset` to `end`.
fn bytes(offset: u64, end: u64) -> Vec<u8> {
    (offset..end).map(|at| (at % 251) as u8).collect()
}

/// What is read with one read(2), and how much the server was asked for.
fn read_here(told: &mut ToldRelay, size: u64, offset: u64, count: u32) -> (Vec<u8>, Option<u32>) {
    let (server, kernel) = told.ask(4, &read(2, offset, count));
    let mut asked = None;
    let got = if kernel.is_empty() {
        let at = server.len() - 23;
        let Ok(Request::Read {
            fid: 2,
            offset: from,
            count,
        }) = Request::decode(Kind::Read, &server[at + HEADER..])
        else {
            panic!("no read of fid 2");
        };
        assert_eq!((server[at + 4], from), (READ, offset));
        asked = Some(count);
        let data = bytes(from, size.min(from + u64::from(count)));
        told.reply(4, &Reply::Read { data: Data(&data) })
    } else {
        kernel
    };
    match Reply::decode(got[4], &got[HEADER..]).unwrap() {
        Reply::Read { data } => (data.0.to_vec(), asked),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_read_through_is_asked_for_in_larger_and_larger_parts() {
    const SIZE: u64 = 300_500;
    let mut told = ToldRelay::new();
    told.find(SIZE);
    told.open(&bytes(0, FIRST.into()), SIZE);
    let (mut all, mut asked) = (Vec::new(), Vec::new());
    loop {
        let offset = all.len() as u64;
        let (data, sent) = read_here(&mut told, SIZE, offset, 1000);
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
    let mut told = ToldRelay::new();
    told.find(1_000_000);
    told.open(&bytes(0, FIRST.into()), 1_000_000);
    for offset in [500_000, 300_000, 900_000, 100_000] {
        let (data, asked) = read_here(&mut told, 1_000_000, offset, 1000);
        assert_eq!(data, bytes(offset, offset + 1000));
        assert_eq!(asked, Some(1000));
    }
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
    let (mut offset, mut waits) = (0, 0);
    while offset < SIZE {
        let (data, asked) = read_here(&mut told, SIZE, offset, 4096);
        assert_eq!(data, bytes(offset, SIZE.min(offset + 4096)), "{offset}");
        offset += data.len() as u64;
        waits += usize::from(asked.is_some());
        assert!(budget.used() <= 200_000, "{}", budget.used());
    }
    assert!(waits < 40, "{waits}");
    // Once more, after it has changed.
    let (data, _) = read_here(&mut told, SIZE, 0, 4096);
    assert_eq!(data, bytes(0, 4096));
    told.forget(FORGET_ATTR, ROOT, "x");
    let (_, asked) = read_here(&mut told, SIZE, 4096, 4096);
    assert_eq!(asked, Some(4096), "it may have changed");
}

#[test]
fn a_server_that_sends_what_was_not_asked_for_fills_nothing() {
    let mut told = ToldRelay::new();
    told.find(300_000);
    told.open(&bytes(0, FIRST.into()), 300_000);
    let at = u64::from(FIRST);
    assert_eq!(read_here(&mut told, 300_000, at - 1000, 1000).1, None);
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
