//! This machine's files, served over a channel by threads of their own.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use cpu_client::export::{Caching, Export, IdMap, prepare_process};
use cpu_proto::CacheMode;
use ninep::observe::Observer;
use ninep::server::{self, Config};
use tracing::debug;

/// Fids of one channel at most, also where descriptors are not limited: some hundred megabytes.
const MAX_FIDS: usize = 1 << 20;

/// The tree to serve and how, to any number of channels.
#[derive(Clone)]
pub(crate) struct FileServer {
    mapped: Arc<Export>,
    exact: Arc<Export>,
    msize: u32,
    observer: Option<Arc<dyn Observer + Send>>,
}

impl FileServer {
    /// `root` is what the other side sees as `/`, with owners as `ids` says, and `home` the user's directory in it; `observer` is told
    /// of every request.
    pub(crate) fn new(
        root: &Path,
        home: &Path,
        ids: IdMap,
        msize: u32,
        observer: Option<Arc<dyn Observer + Send>>,
    ) -> Result<Self> {
        let mapped = Export::with_home(root, home)?.with_ids(ids);
        Ok(Self {
            exact: Arc::new(mapped.with_caching(Caching::Never)),
            mapped: Arc::new(mapped),
            msize,
            observer,
        })
    }

    /// Serve a mount of this mode until the other side ends, on a new thread that calls `ended` then. Changes the process:
    /// no other program is to be started from here on.
    pub(crate) fn serve(
        self,
        cache: CacheMode,
        from: impl Read + Send + 'static,
        to: impl Write + Send + 'static,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let limits = prepare_process();
        let run = move || {
            let observer = self.observer.as_deref().map(|o| o as &dyn Observer);
            let config = Config {
                max_msize: self.msize,
                max_fids: limits.descriptors.min(MAX_FIDS),
                observer,
                ..Config::default()
            };
            let export = match cache {
                CacheMode::None => &*self.exact,
                CacheMode::Mmap | CacheMode::Loose => &*self.mapped,
            };
            if let Err(error) = server::serve(export, from, to, &config) {
                debug!("the files are no longer served: {error}");
            }
            ended();
        };
        std::thread::Builder::new()
            .name("files".into())
            .spawn(run)
            .context("cannot start a thread to serve files")?;
        Ok(())
    }
}
