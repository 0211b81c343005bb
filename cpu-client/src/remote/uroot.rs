//! u-root's cpud: it gets the files through a port, and its command line and its end differ from our cpud's.

use anyhow::Result;
use cpu_proto::{CacheMode, ENV_FSTAB, ENV_FSTAB_LC, quote};
use cpu_ssh::Stream;
use cpu_ssh::blocking::{BlockingReader, BlockingWriter};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::files::FileServer;
use crate::ssh::ServerConnection;

/// u-root's cpud drops empty arguments, however they are quoted. A shell passes them on.
pub(super) fn with_empty_arguments(argv: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if !argv.iter().any(Vec::is_empty) {
        return argv;
    }
    let script = [&b"exec "[..], &quote::join(argv)].concat();
    vec![b"sh".to_vec(), b"-c".to_vec(), script]
}

/// Serves the files to u-root's cpud through a forwarded port. Returns the port's number, and a receiver that fires when the
/// files are unmounted.
pub(crate) async fn serve_at_port(
    connection: &ServerConnection,
    files: FileServer,
    environment: &mut Vec<(String, String)>,
) -> Result<(u32, oneshot::Receiver<()>)> {
    let port = connection.ask_for_port().await?;
    let number = port.port;
    let mounts = environment.iter().find(|(name, _)| name == ENV_FSTAB);
    let mounts = mounts.map(|(_, text)| (ENV_FSTAB_LC.to_owned(), text.clone()));
    environment.extend(mounts);
    environment.push(("CPUNONCE".into(), port.nonce.clone()));
    let handle = connection.handle.clone();
    let (ended, unmounted) = oneshot::channel();
    tokio::spawn(async move {
        let served = port.accept(&handle).await.and_then(|(receiver, sender)| {
            // u-root's cpud mounts without a cache.
            files.serve(
                CacheMode::None,
                BlockingReader::new(receiver, Stream::Data, Handle::current()),
                BlockingWriter::new(sender, Stream::Data, Handle::current()),
                // Fails only if the session has ended.
                move || {
                    let _ = ended.send(());
                },
            )
        });
        if let Err(error) = served {
            say!("{error:#}");
        }
    });
    Ok((number, unmounted))
}
