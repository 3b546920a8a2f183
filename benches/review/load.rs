//! Load generator: keep-alive HTTPS/1.1 connections on core 1 that post one body repeatedly. I/O.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::server::{self, NAME, Server};

const CONNECTIONS: usize = 64;

/// Results of one round.
pub(crate) struct Shot {
    /// CPU time of the server's thread for each request, in microseconds.
    pub(crate) cpu_us: f64,
    /// Requests a second.
    pub(crate) rps: f64,
    /// Median response time, in microseconds; with this many requests in flight, mostly time in a queue.
    pub(crate) p50_us: u32,
    /// Response time of the slowest hundredth.
    pub(crate) p99_us: u32,
}

/// Posts `body` to `address` for `time` and expects answers whose body has `reply` bytes.
pub(crate) fn run(
    server: &Server,
    address: SocketAddr,
    body: &[u8],
    reply: usize,
    time: Duration,
) -> Result<Shot> {
    std::thread::scope(|scope| {
        let generator = scope.spawn(|| {
            server::pin(1);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let tasks = tokio::task::LocalSet::new();
            runtime.block_on(tasks.run_until(shoot(server, address, body, reply, time)))
        });
        generator
            .join()
            .map_err(|_| anyhow::anyhow!("the generator panicked"))?
    })
}

async fn shoot(
    server: &Server,
    address: SocketAddr,
    body: &[u8],
    reply: usize,
    time: Duration,
) -> Result<Shot> {
    let mut request = format!("POST /mutate/pod HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    let request: Arc<[u8]> = request.into();
    let connector = connector(server)?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        connections.push(connector.connect(ServerName::try_from(NAME)?, tcp).await?);
    }
    let before = server.cpu().await?;
    let start = Instant::now();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|connection| {
            tokio::task::spawn_local(post(connection, Arc::clone(&request), reply, start + time))
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.append(&mut task.await??);
    }
    let elapsed = start.elapsed();
    let cpu = server.cpu().await? - before;
    ensure!(!times.is_empty(), "no answers from {address}");
    times.sort_unstable();
    let count = times.len() as f64;
    Ok(Shot {
        cpu_us: cpu.as_secs_f64() * 1e6 / count,
        rps: count / elapsed.as_secs_f64(),
        p50_us: times[times.len() / 2],
        p99_us: times[times.len() * 99 / 100],
    })
}

fn connector(server: &Server) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(server.root.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Posts until the end; returns each answer's time in microseconds.
async fn post(
    mut connection: TlsStream<TcpStream>,
    request: Arc<[u8]>,
    reply: usize,
    end: Instant,
) -> Result<Vec<u32>> {
    let mut times = Vec::new();
    let mut buffer = Vec::with_capacity(64 << 10);
    while Instant::now() < end {
        let start = Instant::now();
        connection.write_all(&request).await?;
        buffer.clear();
        let length = answer(&mut connection, &mut buffer).await?;
        ensure!(
            length == reply,
            "an answer has {length} bytes, want {reply}"
        );
        times.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(times)
}

/// Reads one answer; returns the length of its body.
async fn answer(connection: &mut TlsStream<TcpStream>, buffer: &mut Vec<u8>) -> Result<usize> {
    loop {
        ensure!(
            connection.read_buf(buffer).await? > 0,
            "the server closed the connection"
        );
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end])?;
        ensure!(
            head.starts_with("HTTP/1.1 200 "),
            "the server answered {head}"
        );
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .context("an answer without content-length")?
            .parse()?;
        while buffer.len() < end + 4 + length {
            ensure!(
                connection.read_buf(buffer).await? > 0,
                "the server closed the connection"
            );
        }
        return Ok(length);
    }
}
