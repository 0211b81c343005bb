//! Input: steps of six bytes, `what[1] tag[1] fid[1] newfid[1] n[1] m[1]`, after both ends have agreed to the dialect with
//! watched directories, and the kernel has attached. The kernel asks; the server answers, now and then with a lie, and takes back
//! what it allowed to keep. Two kinds of steps are followed by the body of a message of any type.
//! The relay does not panic; what it sends to the server are requests, and to the kernel, replies of plain 9P2000.L.
#![no_main]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ninep::msg::{
    Attr, FetchedFile, Flock, Header, Kind, ListEntry, NO_FID, NO_ID, NO_TAG, Qid, ReplayRecord, Reply, Request, SetAttr, VERSION,
    WATCHED,
};
use ninep::relay::{ContentBudget, Relay, Upstream};
use ninep::wire::{Data, Frame, HEADER, Name, Str, WalkVec, Wire};

const MSIZE: u32 = 1 << 16;
/// The size of the largest file, of which so few fit into the budget that some have to go.
const LARGE: u64 = 5000;
/// The names in each directory, and the sizes of the files. The last is a directory.
const NAMES: [(&str, u64); 8] = [
    ("x", LARGE),
    ("y", LARGE),
    ("a.py", 40),
    ("b.py", LARGE),
    ("c.py", LARGE),
    ("empty.py", 0),
    ("huge", 1 << 62),
    ("sub", 0),
];
const ECODES: [u32; 4] = [2, 5, 61, 116];
/// `O_RDONLY`, `O_WRONLY`, `O_RDWR`, and with others `O_TRUNC`, `O_DIRECT`, `O_DIRECTORY`.
const FLAGS: [u32; 6] = [0, 1, 2, 0o1000, 0o40_000, 0o200_000];

fuzz_target!(|bytes: &[u8]| {
    let mut world = FuzzWorld::agreed();
    let mut rest = bytes;
    while let [what, tag, fid, newfid, n, m, more @ ..] = rest {
        let step = FuzzStep { tag: *tag, fid: u32::from(fid % 8), newfid: u32::from(newfid % 8), n: *n, m: *m };
        let length = if *what < 2 { usize::from(*n).min(more.len()) } else { 0 };
        let (body, more) = more.split_at(length);
        rest = more;
        let goes_on = match what {
            0 => world.any_request(&step, body),
            1 => world.any_reply(&step, body),
            2..128 => world.ask(*what, &step),
            _ => world.answer(*what, &step),
        };
        if !goes_on {
            return;
        }
    }
});

struct FuzzStep {
    tag: u8,
    fid: u32,
    newfid: u32,
    n: u8,
    m: u8,
}

/// A request that the server has got and not answered.
struct Asked {
    tag: u16,
    kind: Kind,
    names: Vec<usize>,
    /// How many bytes were asked for.
    count: usize,
}

struct FuzzWorld {
    relay: Relay,
    asked: Vec<Asked>,
    /// Whether what goes to the kernel may be anything.
    is_any: bool,
    frame: Frame,
}

fn name(n: u8) -> Name<'static> {
    Name::new(NAMES[usize::from(n) % NAMES.len()].0.as_bytes()).expect("a name")
}

/// Those of the file with this name, unless `lie` makes them others.
fn attr(at: usize, lie: u8) -> Attr {
    let at = at % NAMES.len();
    let is_dir = at + 1 == NAMES.len();
    let (kind, mode) = if is_dir { (Qid::DIR, 0o40_755) } else { (Qid::FILE, 0o100_644) };
    let size = if lie & 0x30 == 0x30 { NAMES[usize::from(lie) % NAMES.len()].1 } else { NAMES[at].1 };
    Attr {
        valid: Attr::BASIC,
        qid: Qid { kind, version: 1 + u32::from(lie >> 6), path: at as u64 + 1 + u64::from(lie & 0xc == 0xc) },
        mode,
        nlink: 1,
        size,
        ..Attr::default()
    }
}

impl FuzzWorld {
    /// After the first four messages.
    fn agreed() -> Self {
        let budget = Arc::new(ContentBudget::new(4 * LARGE as usize));
        let relay = Relay::new(Upstream::Any).keeping(budget);
        let mut world = Self { relay, asked: Vec::new(), is_any: false, frame: Frame::default() };
        let text = |text| Str::new(text).unwrap_or_default();
        let version = text(VERSION);
        let qid = Qid { kind: Qid::DIR, ..Qid::default() };
        let attach = Request::Attach { fid: 0, afid: NO_FID, uname: text(b""), aname: text(b""), n_uname: NO_ID };
        assert!(world.request(NO_TAG, &Request::Version { msize: MSIZE, version }));
        assert!(world.reply(NO_TAG, &Reply::Version { msize: MSIZE, version: text(WATCHED) }));
        assert!(world.request(0, &attach));
        assert!(world.reply(0, &Reply::Attach { qid }));
        world.asked.clear();
        world
    }

    fn ask(&mut self, what: u8, step: &FuzzStep) -> bool {
        let FuzzStep { fid, newfid, n, m, .. } = *step;
        let (offset, count) = (u64::from(n) * 20, u32::from(m) * 100);
        let mut names = WalkVec::default();
        if n % 4 > 0 {
            names.push(name(m));
        }
        let data = Data(&[7; 300][..n.into()]);
        let lock = Flock::WRITE * (n % 2);
        let attr = SetAttr { valid: m.into(), size: offset, ..SetAttr::default() };
        let request = match what % 18 {
            0 | 1 => Request::Walk { fid, newfid, names },
            2 | 3 => Request::Lopen { fid, flags: 0 },
            4 | 5 => Request::Read { fid, offset, count },
            6 => Request::Lopen { fid, flags: FLAGS[usize::from(n) % FLAGS.len()] },
            7 => Request::Clunk { fid },
            8 => Request::Getattr { fid, mask: Attr::BASIC },
            9 => Request::Readdir { fid, offset: n.into(), count },
            10 => Request::Write { fid, offset, data },
            11 => Request::Setattr { fid, attr },
            12 => Request::Unlinkat { dfid: fid, name: name(n), flags: 0 },
            13 => Request::Renameat { olddirfid: fid, oldname: name(n), newdirfid: newfid, newname: name(m) },
            14 => Request::Lock {
                fid,
                kind: lock,
                flags: 0,
                start: 0,
                length: 0,
                proc_id: 1,
                client_id: Str::default(),
            },
            15 => Request::Flush { oldtag: u16::from(m & 7) },
            16 => Request::Lcreate { fid, name: name(n), flags: 2, mode: 0o600, gid: 0 },
            _ => Request::Link { dfid: fid, fid: newfid, name: name(n) },
        };
        // The kernel uses none that is in use.
        let is_free = |tag: &u16| self.asked.iter().all(|asked| asked.tag != *tag);
        let tags = (0..8).map(|n| u16::from(step.tag.wrapping_add(n) & 7));
        let tag = { tags }.find(is_free);
        tag.is_none_or(|tag| self.request(tag, &request))
    }

    /// Answers a request, or says that something has changed.
    fn answer(&mut self, what: u8, step: &FuzzStep) -> bool {
        let FuzzStep { n, m, .. } = *step;
        if what >= 0xe0 {
            let text = if m & 1 == 0 { name(n).bytes() } else { b"" };
            let name = Str::new(text).unwrap_or_default();
            return self.reply(NO_TAG, &Reply::Forget { what: what % 6, dir: u64::from(n % 7), name });
        }
        if self.asked.is_empty() {
            return true;
        }
        let Asked { tag, kind, names, count } = self.asked.remove(usize::from(step.tag) % self.asked.len());
        if what >= 0xd8 {
            let ecode = ECODES[usize::from(n) % ECODES.len()];
            return self.reply(tag, &Reply::Error { ecode });
        }
        // Three of four answers are as they should be.
        let lie = if what & 3 == 3 { m } else { 0 };
        let first = names.first().copied().unwrap_or(n.into());
        let told = attr(first, lie);
        let target = Str::new(&b"target"[..usize::from(lie % 7)]).unwrap_or_default();
        let qid = told.qid;
        let bytes = vec![5; count.min(MSIZE as usize / 2) + usize::from(lie % 2)];
        let data = Data(&bytes);
        let mut all = Frame::default();
        all.start(0, 0);
        let mut qids = WalkVec::default();
        for at in &names {
            qids.push(attr(*at, lie).qid);
        }
        let reply = match kind {
            Kind::Lookup if lie & 3 == 2 => Reply::Lookup { kept: 3, ecode: 2, attr: Attr::default(), target: Str::default() },
            Kind::Lookup => Reply::Lookup { kept: (lie & 4) | (3 - (lie & 3)), ecode: 0, attr: told, target },
            Kind::List => {
                for (at, (name, _)) in NAMES.iter().enumerate() {
                    let attr = attr(at, lie);
                    let name = Str::new(name.as_bytes()).unwrap_or_default();
                    ListEntry { kind: 8, name, qid: attr.qid, attr: Some(attr), lacks_xattrs: lie & 4 != 0, target }.put(&mut all);
                }
                let path = [0, NAMES.len() as u64][usize::from(n % 2)];
                let qid = Qid { kind: Qid::DIR, version: 0, path };
                Reply::List { kept: 1 - lie % 2, qid, data: Data(&all.finish()[HEADER..]) }
            }
            Kind::Lopenread => {
                let version = qid.version;
                Reply::Lopenread { qid, iounit: 0, version, size: count as u64, data }
            }
            Kind::Fetch => {
                for at in &names {
                    let told = attr(*at, lie);
                    let bytes = vec![6; told.size.min(u64::from(MSIZE)) as usize];
                    FetchedFile { version: told.qid.version, data: Data(&bytes) }.put(&mut all);
                }
                Reply::Fetch { data: Data(&all.finish()[HEADER..]) }
            }
            Kind::Replay => {
                for at in 0..usize::from(n % 5) {
                    let attr = attr(at + usize::from(m), lie);
                    let bytes = vec![7; attr.size.min(LARGE) as usize];
                    let (text, kept) = if lie & 1 == 0 { (NAMES[(at + usize::from(m)) % NAMES.len()].0, 15) } else { ("", lie) };
                    ReplayRecord {
                        dir: u64::from(m % 7),
                        name: Str::new(text.as_bytes()).unwrap_or_default(),
                        kept,
                        ecode: [0, 0, 0, 2][usize::from(lie >> 6)],
                        attr,
                        target,
                        offset: u64::from(lie & 0x18) * 100,
                        data: Data(&bytes),
                    }
                    .put(&mut all);
                }
                Reply::Replay { data: Data(&all.finish()[HEADER..]) }
            }
            Kind::Lopen => Reply::Lopen { qid, iounit: 0 },
            Kind::Lcreate => Reply::Lcreate { qid, iounit: 0 },
            Kind::Lcreategetattr => Reply::Lcreategetattr { qid, iounit: 0, attr: told },
            Kind::Setgetattr => Reply::Setgetattr { attr: told },
            Kind::Read => Reply::Read { data },
            Kind::Readdir => Reply::Readdir { data: Data(&[]) },
            Kind::Walk => Reply::Walk { qids },
            Kind::Getattr => Reply::Getattr { attr: told },
            Kind::Write => Reply::Write { count: n.into() },
            Kind::Lock => Reply::Lock { status: n % 2 },
            Kind::Flush => Reply::Flush {},
            Kind::Clunk => Reply::Clunk {},
            Kind::Setattr => Reply::Setattr {},
            Kind::Unlinkat => Reply::Unlinkat {},
            Kind::Renameat => Reply::Renameat {},
            Kind::Link => Reply::Link {},
            _ => Reply::Error { ecode: 95 },
        };
        self.reply(tag, &reply)
    }

    fn any_request(&mut self, step: &FuzzStep, body: &[u8]) -> bool {
        let decoded = Kind::new(step.m).and_then(|kind| Request::decode(kind, body));
        self.is_any = true;
        match decoded {
            Ok(request) => self.request(u16::from(step.tag & 7), &request),
            Err(_) => true,
        }
    }

    fn any_reply(&mut self, step: &FuzzStep, body: &[u8]) -> bool {
        self.is_any = true;
        // Also to the mirror's own requests.
        let tag = u16::from(step.tag & 7) | if step.tag & 0x80 == 0 { 0 } else { 0xff00 };
        self.frame.start(step.m, tag);
        self.frame.put(body);
        let message = Bytes::copy_from_slice(self.frame.finish());
        // It may be the beginning of a larger one.
        self.pass(true, message).is_some()
    }

    fn request(&mut self, tag: u16, request: &Request<'_>) -> bool {
        request.encode(tag, &mut self.frame);
        let message = Bytes::copy_from_slice(self.frame.finish());
        self.pass(false, message).is_some()
    }

    fn reply(&mut self, tag: u16, reply: &Reply<'_>) -> bool {
        reply.encode(tag, &mut self.frame);
        let message = Bytes::copy_from_slice(self.frame.finish());
        self.pass(true, message).is_some()
    }

    /// `None` if the connection has to end.
    fn pass(&mut self, is_server: bool, message: Bytes) -> Option<()> {
        let (mut to_server, mut to_kernel) = (Vec::new(), Vec::new());
        let passed = if is_server {
            self.relay.from_server(message, Instant::now(), &mut to_kernel)
        } else {
            self.relay.from_kernel(message, Instant::now(), &mut to_server)
        };
        passed.ok()?;
        self.relay.take_replies(&mut to_kernel);
        self.relay.take_requests(&mut to_server);
        self.relay.take_batch(&mut to_server);
        self.note(&to_server.concat());
        if !self.is_any {
            check_replies(&to_kernel.concat());
        }
        Some(())
    }

    /// All of it is requests.
    fn note(&mut self, mut stream: &[u8]) {
        while let Some(header) = stream.first_chunk::<HEADER>() {
            let header = Header::decode(header);
            let (message, rest) = stream.split_at(header.size as usize);
            let kind = Kind::new(header.kind).expect("a request");
            let mut asked = Asked { tag: header.tag, kind, names: Vec::new(), count: 0 };
            let number = |name: Name<'_>| NAMES.iter().position(|(it, _)| it.as_bytes() == name.bytes()).unwrap_or(0);
            match Request::decode(kind, &message[HEADER..]).expect("whole and well-formed") {
                Request::Walk { names, .. } | Request::Fetch { names, .. } => {
                    asked.names = names.iter().map(number).collect();
                }
                Request::Lookup { name, .. } => asked.names = vec![number(name)],
                Request::Lopenread { count, .. } | Request::Read { count, .. } => asked.count = count as usize,
                _ => {}
            }
            if header.tag != NO_TAG {
                self.asked.push(asked);
            }
            stream = rest;
        }
        assert!(stream.is_empty());
    }
}

/// All of it is replies that the kernel knows.
fn check_replies(mut stream: &[u8]) {
    while let Some(header) = stream.first_chunk::<HEADER>() {
        let header = Header::decode(header);
        assert!(header.size <= MSIZE);
        let (message, rest) = stream.split_at(header.size as usize);
        assert!(header.kind < 124, "the kernel does not know {}", header.kind);
        Reply::decode(header.kind, &message[HEADER..]).expect("whole and well-formed");
        stream = rest;
    }
    assert!(stream.is_empty());
}
