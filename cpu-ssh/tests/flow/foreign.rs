//! Peers that are not ours: no credit is agreed with them, and what they send or do not read is limited all the same.

use super::*;

/// As with plink, which grants a window of 2 GiB.
#[test]
fn a_foreign_peer_that_grants_all_and_reads_nothing_is_not_sent_all() {
    run(async {
        let mut pair = Pair::with_window(false, 1 << 31).await;
        let ((unread, _here_tx), (_there_rx, there_tx)) = pair.channel().await;
        let sending = send(there_tx, 2000);
        sending.stalled().await;
        let all = timeout(SOON, check(unread)).await.unwrap().unwrap();
        assert_eq!(all, 2000 * 64 * 1024);
    });
}

/// As with a command that does not read its input but reads files, on the same connection: one request after the other,
/// several at a time, and pauses in between.
#[test]
fn a_foreign_flood_holds_no_other_channel_up() {
    run(async {
        for ahead in [1, 8] {
            let mut pair = Pair::new(false).await;
            let ((_rx, here_tx), (there_rx, _tx)) = pair.channel().await;
            let ((asked, answers), (files, asks)) = pair.channel().await;
            let sending = send(here_tx, 1000);
            sending.stalled().await;
            let before = there_rx.waiting();
            spawn_local(async move {
                while let Some(requests) = asked.read(Stream::Data, MIB).await {
                    for i in 0..requests.len() {
                        answers.send(Stream::Data, pattern(i)).await.unwrap();
                    }
                }
            });
            let started = std::time::Instant::now();
            for round in 0..1000 / ahead {
                let requests = Bytes::from(vec![0; ahead]);
                asks.send(Stream::Data, requests).await.unwrap();
                let mut missing = ahead * 64 * 1024;
                while missing > 0 {
                    let chunk = timeout(SOON, files.read(Stream::Data, MIB)).await.unwrap();
                    missing -= chunk.unwrap().len();
                }
                if round % 100 == 99 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            println!(
                "ahead {ahead}: {:?} before {before} later {}",
                started.elapsed(),
                there_rx.waiting()
            );
            // Some data still arrives on the stalled channel; a tenth of that on the other is a generous limit.
            assert!(
                there_rx.waiting() - before < 6 * MIB,
                "{before} {}",
                there_rx.waiting()
            );
        }
    });
}

#[test]
fn a_foreign_flood_stops_at_the_limit_and_goes_on_after_it() {
    run(async {
        let mut pair = Pair::new(false).await;
        let ((_rx, here_tx), (there_rx, _tx)) = pair.channel().await;
        let signals = here_tx.clone();
        let sending = send(here_tx, 1000);
        sending.stalled().await;
        // Messages other than data still arrive.
        signals
            .request(|w| w.signal(russh::Sig::INT))
            .await
            .unwrap();
        let signal = timeout(SOON, pair.signals.recv()).await.unwrap().unwrap();
        assert!(matches!(signal, russh::Sig::INT));
        let held = there_rx.waiting();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let later = there_rx.waiting();
        let window = FOREIGN_WINDOW as usize;
        assert!(
            FOREIGN_SOFT_LIMIT < held
                && later < FOREIGN_SOFT_LIMIT + 2 * window
                && later - held < 1000,
            "{held} {later}"
        );
        let mut total = 0;
        while let Some(chunk) = timeout(SOON, there_rx.read(Stream::Data, MIB))
            .await
            .unwrap()
        {
            total += chunk.len();
        }
        assert_eq!(total, 1000 * 64 * 1024);
    });
}

#[test]
fn a_foreign_peer_that_dies_while_it_is_not_read_from_is_noticed() {
    run(async {
        let mut pair = Pair::new(false).await;
        let ((_rx, here_tx), (_unread, there_tx)) = pair.channel().await;
        let sending = send(here_tx, 1000);
        sending.stalled().await;
        pair.client_socket
            .shutdown(std::net::Shutdown::Both)
            .unwrap();
        timeout(SOON, there_tx.closed()).await.unwrap();
    });
}

#[test]
fn discarded_input_stops_our_peer_and_does_not_hold_up_a_foreign_one() {
    for ours in [true, false] {
        run(async move {
            let mut pair = Pair::new(ours).await;
            let ((_rx, here_tx), (unwanted, _tx)) = pair.channel().await;
            let sending = send(here_tx.clone(), 1000);
            sending.settled().await;
            unwanted.discard();
            here_tx
                .request(|w| w.signal(russh::Sig::INT))
                .await
                .unwrap();
            let signal = timeout(SOON, pair.signals.recv()).await.unwrap().unwrap();
            assert!(matches!(signal, russh::Sig::INT));
            if ours {
                sending.stalled().await;
            } else {
                assert_eq!(sending.ended().await, 1000);
            }
        });
    }
}
