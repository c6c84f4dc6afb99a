//! Channels over a pipe in memory: limits, ends and breaks.

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Greeting {
    text: String,
    times: u32,
}

fn pair(limits: Limits) -> (Channel, tokio::io::DuplexStream) {
    let (here, there) = tokio::io::duplex(1 << 16);
    (Channel::new(here, limits), there)
}

#[tokio::test]
async fn messages_bodies_and_the_end_arrive_in_order() {
    let (a, b) = tokio::io::duplex(1024);
    let (mut a, mut b) = (Channel::new(a, Limits::default()), Channel::new(b, Limits::default()));
    let body: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    let sent = body.clone();
    let sender = tokio::spawn(async move {
        a.send(&Greeting { text: "hello".into(), times: 2 }).await.unwrap();
        a.send_body(&sent[..], sent.len() as u64).await.unwrap();
        a.send(&1_u8).await.unwrap();
        a.finish().await.unwrap();
    });
    assert_eq!(b.expect::<Greeting>().await.unwrap(), Greeting { text: "hello".into(), times: 2 });
    let mut got = Vec::new();
    let mut buffer = [0; 1000];
    let mut incoming = b.recv_body(body.len() as u64).unwrap();
    loop {
        match incoming.read(&mut buffer).await.unwrap() {
            0 => break,
            read => got.extend_from_slice(&buffer[..read]),
        }
    }
    assert_eq!(got, body);
    assert_eq!(b.recv::<u8>().await.unwrap(), Some(1));
    assert_eq!(b.recv::<u8>().await.unwrap(), None);
    assert_eq!(b.recv::<u8>().await.unwrap(), None, "the end stays the end");
    sender.await.unwrap();
}

#[tokio::test]
async fn a_declared_frame_of_4_gib_is_refused_before_it_is_read() {
    let (mut channel, mut wire) = pair(Limits::default());
    wire.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let error = channel.recv::<Greeting>().await.unwrap_err();
    assert!(matches!(error, ChannelError::TooLarge { size: 4_294_967_295, .. }));
    assert!(error.to_string().contains("4294967295 bytes is too large"), "{error}");
    assert!(channel.receiver.frame.capacity() < 2 * FRAME_STEP, "nothing was set aside for it");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_before_it_is_sent() {
    let (mut channel, _wire) = pair(Limits { max_frame: 10, ..Limits::default() });
    let error = channel.send(&"more than ten bytes").await.unwrap_err();
    assert!(matches!(error, ChannelError::TooLarge { size: 20, max: 10 }), "{error}");
}

#[tokio::test]
async fn bytes_that_are_no_message_are_malformed() {
    let (mut channel, mut wire) = pair(Limits::default());
    wire.write_all(&[0, 0, 0, 2, 0xc1, 0xc1]).await.unwrap();
    assert!(matches!(channel.recv::<Greeting>().await, Err(ChannelError::Malformed(_))));
}

#[tokio::test]
async fn a_stream_that_stops_without_saying_so_is_lost_not_ended() {
    let (mut channel, mut wire) = pair(Limits::default());
    wire.write_all(&[0, 0, 0, 9, 1]).await.unwrap();
    drop(wire);
    assert!(matches!(channel.recv::<Greeting>().await, Err(ChannelError::Lost(_))));
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_drips_in_is_given_up() {
    let limits = Limits { send_time: Duration::from_secs(3), recv_time: None, ..Limits::default() };
    let (mut channel, mut wire) = pair(limits);
    let drip = tokio::spawn(async move {
        for byte in [0, 0, 0, 200].into_iter().chain([7; 200]) {
            if wire.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    assert!(matches!(channel.recv::<Greeting>().await, Err(ChannelError::RecvTimeout(_))));
    drip.abort();
}

#[tokio::test(start_paused = true)]
async fn a_receive_that_was_cancelled_goes_on_where_it_was() {
    let (mut channel, mut wire) = pair(Limits::default());
    let frame = encode_frame(&[], &Greeting { text: "again".into(), times: 1 }, 1000).unwrap();
    wire.write_all(&frame[..7]).await.unwrap();
    assert!(timeout(Duration::from_millis(10), channel.recv::<Greeting>()).await.is_err());
    wire.write_all(&frame[7..]).await.unwrap();
    assert_eq!(channel.expect::<Greeting>().await.unwrap().text, "again");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_given_up() {
    let (mut channel, _wire) = pair(Limits::default());
    let large = vec![0_u8; 1 << 18];
    assert!(matches!(channel.send(&large).await, Err(ChannelError::SendTimeout(_))));
    assert!(matches!(channel.send(&1).await, Err(ChannelError::OutOfStep(_))));
}

#[tokio::test]
async fn a_body_left_unread_makes_the_channel_say_so() {
    let (mut channel, _wire) = pair(Limits::default());
    let _ = channel.recv_body(10).unwrap();
    assert!(matches!(channel.recv::<u8>().await, Err(ChannelError::OutOfStep(_))));
}
