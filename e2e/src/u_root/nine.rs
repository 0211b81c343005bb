//! A 9P client that sends one request at a time, as u-root's programs do.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};
use ninep::msg::{Header, NO_FID, NO_ID, NO_TAG, Reply, Request, VERSION};
use ninep::wire::{Frame, HEADER, Name, Str, WalkVec};

/// Read a file of the served root.
pub(super) fn read_file(stream: &mut TcpStream, path: &str) -> Result<String> {
    let mut ask = |tag: u16, request: Request<'_>| -> Result<(u8, Vec<u8>)> {
        let mut frame = Frame::default();
        request.encode(tag, &mut frame);
        stream.write_all(frame.finish())?;
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let header = Header::decode(&header);
        let mut body = vec![0; header.size as usize - HEADER];
        stream.read_exact(&mut body)?;
        Ok((header.kind, body))
    };
    let (empty, version) = (Str::new(b""), Str::new(VERSION));
    let (empty, version) = (empty.context("")?, version.context("")?);
    ask(
        NO_TAG,
        Request::Version {
            msize: 65536,
            version,
        },
    )?;
    let uname = empty;
    ask(
        1,
        Request::Attach {
            fid: 0,
            afid: NO_FID,
            uname,
            aname: empty,
            n_uname: NO_ID,
        },
    )?;
    // u-root walks one name at a time.
    let mut fid = 0;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let mut names = WalkVec::default();
        names.push(Name::new(name.as_bytes()).context("a name")?);
        ask(
            2,
            Request::Walk {
                fid,
                newfid: fid + 1,
                names,
            },
        )?;
        fid += 1;
    }
    ask(3, Request::Lopen { fid, flags: 0 })?;
    let (number, body) = ask(
        4,
        Request::Read {
            fid,
            offset: 0,
            count: 4096,
        },
    )?;
    match Reply::decode(number, &body)? {
        Reply::Read { data } => Ok(String::from_utf8(data.0.to_vec())?),
        other => bail!("{other:?}"),
    }
}
