//! Serves this machine's files over channels, each by a thread of its own.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cpu_client::export::{Caching, Export, IdMap, Rule, prepare_process};
use cpu_proto::CacheMode;
use ninep::observe::Observer;
use ninep::server::{self, Config, Learning};
use tokio::sync::watch;
use tracing::debug;

/// The most fids of one channel, even where the number of descriptors is not limited. They take some hundred
/// megabytes.
const MAX_FIDS: usize = 1 << 20;

/// A round trip to a machine to which nothing is worth sending ahead.
const NEAR: Duration = Duration::from_millis(2);

/// What is served, to any number of channels.
#[derive(Clone)]
pub(crate) struct FileServer {
    mapped: Arc<Export>,
    exact: Arc<Export>,
    msize: u32,
    observer: Option<Arc<dyn Observer + Send>>,
    learning: Option<Arc<Learning>>,
    /// The number of mounts that are served.
    served: watch::Sender<usize>,
}

impl FileServer {
    /// `root` is what the other side sees as `/`, and `home` the user's home directory in it. `ids` maps the owners of
    /// files, `rules` keep some from the machine, and `observer` sees every request.
    pub(crate) fn new(
        root: &Path,
        home: &Path,
        ids: IdMap,
        rules: &[Rule],
        msize: u32,
        observer: Option<Arc<dyn Observer + Send>>,
    ) -> Result<Self> {
        let mapped = Export::with_home(root, home)?
            .with_ids(ids)
            .with_rules(rules);
        Ok(Self {
            exact: Arc::new(mapped.with_caching(Caching::Never)),
            mapped: Arc::new(mapped),
            msize,
            observer,
            learning: None,
            served: watch::Sender::new(0),
        })
    }

    /// The same, which learns what is asked for.
    pub(crate) fn learning(self, learning: Option<Arc<Learning>>) -> Self {
        Self { learning, ..self }
    }

    /// The round-trip time to the machine is known.
    pub(crate) fn report_round_trip(&self, time: Duration) {
        if let Some(learning) = self.learning.as_ref().filter(|_| time < NEAR) {
            learning.set_near();
        }
    }

    /// The hidden files that the machine asked for: the first few.
    pub(crate) fn requested_hidden(&self) -> Vec<Vec<u8>> {
        self.mapped.requested_hidden()
    }

    /// Returns when the machine has been told of what has changed here before the call.
    pub(crate) fn settle(&self) {
        self.mapped.settle();
    }

    /// Whether anybody is told of the requests.
    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    /// Returns when no mount is served any more.
    pub(crate) async fn ended(&self) {
        // The sender is here.
        let _ = self
            .served
            .subscribe()
            .wait_for(|served| *served == 0)
            .await;
    }

    /// Serves a mount of this mode on a new thread, until the other side closes the channel; then calls `ended`. This changes the process
    /// ([`prepare_process`]), so no other program may be started afterwards.
    pub(crate) fn serve(
        self,
        cache: CacheMode,
        from: impl Read + Send + 'static,
        to: impl Write + Send + 'static,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let limits = prepare_process();
        let counter = self.served.clone();
        let run = move || {
            let observer = self.observer.as_deref().map(|o| o as &dyn Observer);
            let config = Config {
                max_msize: self.msize,
                max_fids: limits.descriptors.min(MAX_FIDS),
                observer,
                // What a mount of another mode asks for is no measure: the kernel keeps more of it, or nothing is kept.
                learning: self
                    .learning
                    .as_deref()
                    .filter(|_| cache == CacheMode::Mmap),
                ..Config::default()
            };
            let export = match cache {
                CacheMode::None => &*self.exact,
                CacheMode::Mmap | CacheMode::Loose => &*self.mapped,
            };
            if let Err(error) = server::serve(export, from, to, &config) {
                debug!("the files are no longer served: {error}");
            }
            self.served.send_modify(|served| *served -= 1);
            ended();
        };
        counter.send_modify(|served| *served += 1);
        std::thread::Builder::new()
            .name("files".into())
            .spawn(run)
            .context("cannot start a thread to serve files")?;
        Ok(())
    }
}
