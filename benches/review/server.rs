//! The server under test: one thread on core 0 with the product's accept loop, TLS, limits and layers. I/O.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sidescale::metrics::Metrics;
use sidescale::server::{self, Limits, ServerTls};
use sidescale::tls::ServingKey;
use tokio::sync::oneshot;

use crate::handlers;

/// Name that the certificate is for.
pub(crate) const NAME: &str = "sidescale.test";

/// A running server.
pub(crate) struct Server {
    /// Address that answers the constant.
    pub(crate) floor: SocketAddr,
    /// Address that answers reviews.
    pub(crate) ours: SocketAddr,
    /// Root certificate for clients.
    pub(crate) root: CertificateDer<'static>,
    clock: tokio::sync::mpsc::UnboundedSender<oneshot::Sender<Duration>>,
    thread: JoinHandle<Result<()>>,
}

impl Server {
    /// Returns the CPU time that the server's thread has used so far.
    pub(crate) async fn cpu(&self) -> Result<Duration> {
        let (answer, time) = oneshot::channel();
        self.clock
            .send(answer)
            .map_err(|_| anyhow!("the server has ended"))?;
        Ok(time.await?)
    }

    /// Stops the server.
    pub(crate) fn stop(self) -> Result<()> {
        drop(self.clock);
        self.thread
            .join()
            .map_err(|_| anyhow!("the server's thread panicked"))?
    }
}

/// Starts the server; the floor's constant is as long as our answer.
pub(crate) fn start(reply: usize) -> Result<Server> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let root = cert.der().clone();
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(
        &PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into(),
    )?;
    let serving = Arc::new(ServingKey::default());
    serving.set(Arc::new(rustls::sign::CertifiedKey::new(
        vec![root.clone()],
        key,
    )));

    let (clock, requests) = tokio::sync::mpsc::unbounded_channel();
    let (ready, addresses) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        pin(0);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(serve(serving, reply, requests, ready))
    });
    let Ok((floor, ours)) = addresses.recv() else {
        thread
            .join()
            .map_err(|_| anyhow!("the server's thread panicked"))??;
        return Err(anyhow!("the server ended at its start"));
    };
    Ok(Server {
        floor,
        ours,
        root,
        clock,
        thread,
    })
}

async fn serve(
    key: Arc<ServingKey>,
    reply: usize,
    mut clock: tokio::sync::mpsc::UnboundedReceiver<oneshot::Sender<Duration>>,
    ready: mpsc::Sender<(SocketAddr, SocketAddr)>,
) -> Result<()> {
    let tls = ServerTls::new(key, None)?;
    let metrics = Arc::new(Metrics::new()?);
    let mut addresses = Vec::new();
    for router in [
        handlers::floor(reply),
        handlers::product(Arc::clone(&metrics))?,
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?);
        let limits = Limits {
            drain: Duration::ZERO,
            connections: 256,
        };
        tokio::spawn(server::run(
            listener,
            Arc::clone(&tls),
            router,
            limits,
            Arc::clone(&metrics),
            std::future::pending(),
        ));
    }
    let &[floor, ours] = addresses.as_slice() else {
        anyhow::bail!("two listeners")
    };
    ready
        .send((floor, ours))
        .context("nobody waits for the server")?;
    while let Some(answer) = clock.recv().await {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let _ = answer.send(Duration::try_from(time)?);
    }
    Ok(())
}

/// Pins this thread to one core; on a machine without that core, the thread stays where it is.
pub(crate) fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
}
