//! Copies between a channel that the server has opened and the agent here, which it is forwarded to.

use cpu_ssh::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{ChannelReceiver, ChannelSender};

/// The most bytes that are copied at once. Messages of agents are short.
const CHUNK: usize = 16 * 1024;

/// Copies in both directions until both have ended.
pub(super) async fn copy_both(
    receiver: ChannelReceiver,
    sender: ChannelSender,
    mut stream: UnixStream,
) {
    let (mut from_agent, mut to_agent) = stream.split();
    let requests = async {
        while let Some(chunk) = receiver.read(Stream::Data, CHUNK).await {
            if to_agent.write_all(&chunk).await.is_err() {
                receiver.discard();
                return;
            }
        }
        let _ = to_agent.shutdown().await;
    };
    let replies = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(count @ 1..) = from_agent.read(&mut chunk).await {
            let bytes = chunk.get(..count).unwrap_or_default().to_vec();
            if sender.send(Stream::Data, bytes.into()).await.is_err() {
                return;
            }
        }
        let _ = sender.request(russh::ChannelWriteHalf::eof).await;
    };
    tokio::join!(requests, replies);
    sender.close().await;
}
