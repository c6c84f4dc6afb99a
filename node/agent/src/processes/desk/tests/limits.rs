//! What processes may not do, and what they hear when they do it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_100_mb_is_cut_off_early_and_others_are_served() {
    let mut office = Office::open(Limits::default());
    let (mut good, process) = office.connect().await;
    let socket = office.socket();
    let written = tokio::task::spawn_blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        let block = vec![b'x'; 1 << 20];
        let mut written = 0usize;
        while written < 100 << 20 && stream.write_all(&block).is_ok() {
            written += block.len();
        }
        let mut answer = String::new();
        let _ = std::io::BufRead::read_line(&mut std::io::BufReader::new(stream), &mut answer);
        (written, answer)
    });
    let (written, answer) = timeout(LONG, written).await.unwrap().unwrap();
    assert!(written < 4 << 20, "{written} bytes were taken");
    assert!(answer.contains("a line is longer than 65536 bytes"), "{answer}");
    office.desk.send(process, asks("u", 1)).await.unwrap();
    assert_eq!(good.hear().await["update"], "u");
}

#[tokio::test]
async fn lines_up_to_the_limit_are_taken_in_whatever_pieces_they_come() {
    let mut office = Office::open(Limits::default());
    let (mut line, process) = office.connect().await;
    office.desk.send(process, asks("u", 1)).await.unwrap();
    line.hear().await;
    let start = r#"{"type":"veto","update":"u","revision":1,"reason":"busy","x":""#;
    let whole = format!("{start}{}\"}}\n", "y".repeat(MAX_LINE - start.len() - 3));
    assert_eq!(whole.len(), MAX_LINE);
    for piece in whole.as_bytes().chunks(10_000) {
        line.0.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let said = Said::Veto { reason: "busy".into() };
    assert_eq!(office.event().await, DeskEvent::Ballot { process, update: "u".into(), revision: 1, said });
}

#[tokio::test]
async fn half_a_message_and_no_hello_are_waited_for_only_so_long() {
    let short = Duration::from_millis(100);
    let office = Office::open(Limits { hello_within: short, ..Limits::default() });
    let mut silent = Line::open(&office.socket()).await;
    assert_eq!(silent.hear_error().await, "no hello within 100ms");
    silent.is_closed().await;
    let mut office = Office::open(Limits { line_within: short, ..Limits::default() });
    let (mut half, process) = office.connect().await;
    half.0.write_all(br#"{"type":"health","st"#).await.unwrap();
    assert_eq!(half.hear_error().await, "a line was begun and not ended within 100ms");
    half.is_closed().await;
    assert_eq!(office.event().await, DeskEvent::Disconnected(process));
    assert_eq!(office.desk.send(process, asks("u", 1)).await, Err(SendError::NotConnected(process)));
}

#[tokio::test]
async fn a_flood_is_cut_off() {
    let mut office = Office::open(Limits { burst: 20, per_second: 1, ..Limits::default() });
    let (mut line, process) = office.connect().await;
    let flood = "{\"type\":\"health\",\"status\":\"healthy\"}\n".repeat(1000);
    let _ = line.0.write_all(flood.as_bytes()).await;
    let mut taken = 0;
    while office.event().await != DeskEvent::Disconnected(process) {
        taken += 1;
    }
    assert!(taken < 40, "{taken} messages were taken");
    assert!(line.hear_error().await.contains("too many messages: more than 20 at once and 1 a second"));
}

#[tokio::test]
async fn one_that_does_not_read_is_cut_off_and_waits_for_nobody() {
    let limits = Limits { unread: 4, read_within: Duration::from_secs(60), ..Limits::default() };
    let mut office = Office::open(limits);
    let (_line, process) = office.connect().await;
    let reason = "x".repeat(60_000);
    let message = NodeMessage::Aborted(tribune_process::Aborted { update: "u".into(), reason });
    let refused = async {
        loop {
            if let Err(error) = office.desk.send(process, message.clone()).await {
                return error;
            }
        }
    };
    assert_eq!(timeout(LONG, refused).await.unwrap(), SendError::NotReading(process));
    assert_eq!(office.event().await, DeskEvent::Disconnected(process));
}

#[tokio::test]
async fn connections_are_bounded_in_all_and_for_each_process() {
    let office = Office::open(Limits { connections: 3, per_process: 2, ..Limits::default() });
    let _first = Line::open(&office.socket()).await;
    let _second = Line::open(&office.socket()).await;
    let mut third = Line::open(&office.socket()).await;
    assert_eq!(third.hear_error().await, "a process may have at most 2 connections");
    let office = Office::open(Limits { connections: 1, ..Limits::default() });
    let _first = Line::open(&office.socket()).await;
    let mut second = Line::open(&office.socket()).await;
    assert_eq!(second.hear_error().await, "this node serves at most 1 connections");
}

#[tokio::test]
async fn a_path_that_is_too_long_is_refused_with_what_would_be_right() {
    let config = DeskConfig {
        socket: format!("/tmp/{}", "x".repeat(120)).into(),
        group: None,
        node: "n1".into(),
        limits: Limits::default(),
    };
    let (_modules, now) = watch::channel(Arc::default());
    let error = Desk::open(Arc::new(Linux), config, now).err().unwrap().to_string();
    assert!(error.contains("choose a shorter data folder"), "{error}");
}

#[tokio::test]
async fn another_user_may_not_speak() {
    if rustix::process::geteuid().as_raw() != 0 {
        // Only root can become somebody else to try.
        return;
    }
    let office = Office::open(Limits::default());
    std::fs::set_permissions(office.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let connect =
        "import socket,sys\ns=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdout.write(s.makefile().readline())";
    let nobody = |socket: &Path| {
        let mut command = Program::new("/usr/bin/python3");
        command.args(["-c", connect]).arg(socket).uid(65534).gid(65534).current_dir("/");
        command.output()
    };
    let socket = office.socket();
    let Ok(refused) = tokio::task::spawn_blocking(move || nobody(&socket)).await.unwrap() else { return };
    assert!(String::from_utf8_lossy(&refused.stderr).contains("PermissionError"), "{refused:?}");
    // Even where the file lets anyone in, the kernel's word on who it is decides.
    let socket = office.socket();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let answer = tokio::task::spawn_blocking(move || nobody(&socket)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer.stdout).contains("user 65534 may not speak to this node"), "{answer:?}");
}

#[tokio::test]
async fn what_is_not_the_protocol_is_answered_with_an_error() {
    let mut office = Office::open(Limits::default());
    let mut rude = Line::open(&office.socket()).await;
    rude.say(r#"{"type":"accept","update":"u","revision":1}"#).await;
    assert_eq!(rude.hear_error().await, "the first message must be hello");
    rude.is_closed().await;
    let mut old = Line::open(&office.socket()).await;
    old.say(r#"{"type":"hello","protocol":0}"#).await;
    assert!(old.hear_error().await.contains("protocol 0"));

    let (mut line, _) = office.connect().await;
    line.say(r#"{"type":"sing"}"#).await;
    assert!(line.hear_error().await.contains("unknown variant `sing`"));
    line.say(r#"{"type":"accept","update":"u"}"#).await;
    assert!(line.hear_error().await.contains("missing field `revision`"));
    line.say("\u{1b}[2J not json").await;
    assert!(line.hear_error().await.starts_with("not a message of this protocol"));
    line.say(&"[".repeat(10_000)).await;
    line.hear_error().await;
    line.0.write_all(b"\"\xff\xfe\"\n").await.unwrap();
    line.hear_error().await;
    line.say(r#"{"type":"hello","protocol":999,"name":"a\nb","later":[1]}"#).await;
    assert_eq!(line.hear().await["protocol"], 1);
    assert_eq!(office.hello().await.name.as_deref(), Some("a b"));
}
