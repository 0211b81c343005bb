//! Serves a directory over plain TCP on 127.0.0.1, to try out a kernel's 9P client: `serve9p [-trace] DIR PORT`. Then, in a
//! QEMU guest with user networking,
//! `mount -t 9p -o trans=tcp,port=PORT,version=9p2000.L,cache=mmap 10.0.2.2 /mnt`.
//! Whoever can reach the port has the user's rights, so this is for experiments only.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use cpu_client::export::{Export, prepare_process};
use ninep::observe::{Counts, Trace};
use ninep::server::{Config, serve};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (flags, args): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|arg| arg.starts_with('-'));
    let trace = flags.iter().any(|flag| flag == "-trace");
    let [root, port] = args.as_slice() else {
        return Err("usage: serve9p [-trace] DIR PORT".into());
    };
    let limits = prepare_process();
    let export = Arc::new(Export::new(Path::new(root))?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse()?))?;
    for stream in listener.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        let export = export.clone();
        std::thread::spawn(move || {
            let counts = Counts::default();
            let trace = trace.then(|| Trace::new(std::io::stderr(), Vec::new()));
            let observer = (&counts, trace);
            let config = Config {
                max_fids: limits.descriptors,
                observer: Some(&observer),
                ..Config::default()
            };
            let result = serve(&*export, &stream, &stream, &config);
            for total in counts.totals() {
                eprintln!("{total:?}");
            }
            eprintln!("session ended: {result:?}");
        });
    }
    Ok(())
}
