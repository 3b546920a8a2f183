//! Callers that hold connections, and others that need one. Addresses of the loopback represent pods.

use std::net::Ipv4Addr;

use sidescale::admin;
use sidescale::health::Health;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::*;

const HOSTILE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Maximum time for an answer, including connection and handshake.
const SOON: Duration = Duration::from_secs(1);

fn limits(connections: u16) -> Limits {
    Limits {
        drain: Duration::ZERO,
        connections,
    }
}

/// Raises the limit of open files: each connection is two here.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Posts a review over a new connection from another address, and returns how long it took in total.
async fn review(server: &Server) -> Duration {
    let start = Instant::now();
    let config = Arc::new(client::config(&server.authority, None));
    let connection = Connection::with(server.address, HONEST, config).await;
    let answer = connection
        .unwrap()
        .post("/mutate/pod", REVIEW.as_bytes())
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    start.elapsed()
}

fn count(server: &Server, metric: &str) -> u64 {
    let text = String::from_utf8(server.metrics.text().unwrap()).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(metric));
    found.map_or(0, |value| value.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_connections_of_one_address_keep_no_other_waiting() {
    raise_open_files();
    let server = Server::with(limits(1024), Router::new()).await;
    // As of an API server: some in use, some idle.
    let config = Arc::new(client::config(&server.authority, None));
    let mut kept = Vec::new();
    for _ in 0..20 {
        let opened = Connection::with(server.address, HONEST, Arc::clone(&config)).await;
        kept.push(opened.unwrap());
    }
    let address = server.address;
    let flood = async move {
        let mut silent = Vec::new();
        let mut idle = Vec::new();
        for _ in 0..100 {
            for _ in 0..15 {
                silent.push(client::dial(address, HOSTILE).await.unwrap());
            }
            let mut handshakes = JoinSet::new();
            for _ in 0..15 {
                handshakes.spawn(Connection::with(address, HOSTILE, Arc::clone(&config)));
            }
            // Some of them are closed for the next before they are done.
            idle.extend(handshakes.join_all().await.into_iter().flatten());
        }
        (silent, idle)
    };
    let flood = tokio::spawn(flood);
    let mut slowest = Duration::ZERO;
    let mut answered = 0;
    while !flood.is_finished() {
        slowest = slowest.max(review(&server).await);
        answered += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (silent, idle) = flood.await.unwrap();
    for _ in 0..20 {
        slowest = slowest.max(review(&server).await);
        answered += 1;
    }
    println!(
        "{} silent, {} idle; slowest of {answered} reviews: {slowest:?}",
        silent.len(),
        idle.len()
    );
    assert!(slowest < SOON, "{slowest:?}");
    // None of the other address's connections was closed, 20 being fewer than the flood's.
    for mut connection in kept {
        let answer = connection.post("/mutate/pod", REVIEW.as_bytes()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn bodies_that_stop_midway_make_room() {
    let server = Server::with(limits(64), Router::new()).await;
    let config = Arc::new(client::config(&server.authority, None));
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let opened = Connection::with(server.address, HOSTILE, Arc::clone(&config)).await;
        let mut connection = opened.unwrap();
        let head =
            format!("POST /mutate/pod HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY}\r\n\r\n");
        connection.send(head.as_bytes()).await;
        connection.send(&[b' '; 32 << 10]).await;
        stalled.push(connection);
    }
    // The first may have to wait until a body counts as stalled, which is a second after its head.
    let first = review(&server).await;
    assert!(first < SOON * 2, "{first:?}");
    for _ in 0..20 {
        let next = review(&server).await;
        assert!(next < SOON, "{next:?}");
    }
    let stalled = r#"sidescale_connections_evicted_total{phase="receiving",port="webhook"}"#;
    assert!(count(&server, stalled) >= 1);
}

/// Otherwise all connections together could take much memory: each may use what API servers send.
#[tokio::test]
async fn a_head_of_more_than_32_kib_is_refused() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let head = format!(
        "POST /mutate/pod HTTP/1.1\r\nHost: x\r\nX: {}",
        "x".repeat(40 << 10)
    );
    connection.send(head.as_bytes()).await;
    assert_eq!(connection.answer().await.unwrap().status, 431);
}

/// Reads an answer of the admin port over a new connection from another address.
async fn livez(address: SocketAddr) -> Duration {
    let start = Instant::now();
    let mut connection = client::dial(address, HONEST).await.unwrap();
    let request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    connection.write_all(request).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    start.elapsed()
}

/// Requests the metrics, and reads none of the answer.
async fn unread(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let mut connection = socket.connect(address).await.unwrap();
    for _ in 0..40 {
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        // It may have been closed for another by now.
        let _ = connection.write_all(request).await;
    }
    connection
}

#[tokio::test]
async fn slow_callers_of_the_admin_port_cost_the_probes_and_the_webhook_nothing() {
    let server = Server::with(limits(64), Router::new()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin::run(
        listener,
        Arc::new(Health::default()),
        Arc::clone(&server.metrics),
        server.shutdown.clone().cancelled_owned(),
    ));
    let mut slow = Vec::new();
    for number in 0..200 {
        if number % 4 == 0 {
            slow.push(unread(address).await);
        }
        let mut half = client::dial(address, HOSTILE).await.unwrap();
        half.write_all(b"GET /metr").await.unwrap();
        slow.push(half);
    }
    let start = Instant::now();
    for _ in 0..20 {
        let (probe, review) = (livez(address).await, review(&server).await);
        assert!(probe < SOON && review < SOON, "{probe:?}, {review:?}");
    }
    let open = count(&server, r#"sidescale_connections{port="admin"}"#);
    assert!((1..=64).contains(&open), "{open}");
    // The last one blocked no other, so the deadline closes it.
    let mut last = slow.pop().unwrap();
    let ended = tokio::time::timeout(SOON * 15, last.read(&mut [0])).await;
    assert!(ended.is_ok(), "half a head was kept");
    assert!(
        (4..12).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
}

/// Log lines that any caller can cause are limited, and what is dropped is reported.
#[tokio::test]
async fn a_caller_that_is_not_known_cannot_flood_the_log() {
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let pipe = log.clone();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
    let subscriber = subscriber.with_writer(move || pipe.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let server = Server::start().await;
    let mut connection = server.connect().await;
    let object = r#"{"metadata":{"name":"web","annotations":{"sidescale.io/inject":"tailscale"}},"spec":{"containers":[]}}"#;
    let denied = REVIEW.replace(
        r#""uid":"u-1""#,
        &format!(
            r#""uid":"u-1","operation":"CREATE","resource":{{"resource":"pods"}},"object":{object}"#
        ),
    );
    let kind = "x".repeat(30_000);
    let start = Instant::now();
    for _ in 0..100 {
        let answer = connection.post("/mutate/pod", denied.as_bytes()).await;
        assert!(answer.body.contains(r#""allowed":false"#), "{answer:?}");
        let body = REVIEW.replace("AdmissionReview", &kind);
        assert_eq!(
            connection.post("/mutate/pod", body.as_bytes()).await.status,
            400
        );
    }
    let more = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    let lines = |message: &str| {
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let found = text.lines().filter(|line| line.contains(message));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    let (denied, wrong) = (
        lines("Denied pod"),
        lines("Request rejected: not an AdmissionReview"),
    );
    assert!((50..50 + more).contains(&denied.len()), "{}", denied.len());
    assert!((1..1 + more).contains(&wrong.len()), "{}", wrong.len());
    assert!(wrong.iter().all(|line| line.len() < 1_000), "{}", wrong[0]);
    tokio::time::sleep(SOON).await;
    connection.post("/mutate/pod", b"{").await;
    let omitted = |line: &String| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["omitted"].as_u64().unwrap()
    };
    let wrong = lines("Request rejected: not an AdmissionReview");
    let counted: u64 = wrong.iter().map(omitted).sum();
    assert_eq!(counted + wrong.len() as u64, 101, "{wrong:?}");
}
