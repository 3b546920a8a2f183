//! Replaces a missing Headscale: the embedded one creates keys, and Tailscale's own test control server accepts them (I/O).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sidescale_simulator::{Embedded, Flavour};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::processes::{Place, Process, output};
use super::programs::Programs;

/// The control server's address for the test; no other process in that network uses the port.
const ADMIN: &str = "127.0.0.1:9180";
/// Longest delay until a new key is announced: a container needs longer to start.
const PAUSE: Duration = Duration::from_millis(20);

/// Two servers that together act as a Headscale; they stop when this is dropped.
pub(crate) struct StandIn {
    embedded: Embedded,
    place: Place,
    login_server: String,
    api_url: String,
    control: Process,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Starts both beside a node, one for its pods and one for the product's calls.
    pub(crate) fn start(place: Place, folder: &Path, [login, api]: [String; 2]) -> Result<Self> {
        let Place::Inside(init) = place else {
            bail!("it stands beside a node");
        };
        let program = Programs::prepare()?.tailscale("testcontrol");
        let arguments = [format!("--listen={login}"), format!("--admin={ADMIN}")];
        let control = Process::start(place, folder, "testcontrol", &program, &arguments)?;
        let embedded = Embedded::new(Flavour::V0_29, Timestamp::now);
        let stop = Arc::<AtomicBool>::default();
        let network = File::open(format!("/proc/{init}/ns/net"))?;
        let (served, stopped, address) = (embedded.clone(), Arc::clone(&stop), api.clone());
        let thread = thread::spawn(move || {
            if let Err(error) = serve(&network, &served, &address, &stopped) {
                eprintln!("e2e: the embedded Headscale ended: {error:#}");
            }
        });
        Ok(Self {
            embedded,
            place,
            login_server: format!("http://{login}"),
            api_url: format!("http://{api}"),
            control,
            stop,
            thread: Some(thread),
        })
    }

    /// Returns the URL where nodes log in.
    pub(crate) fn login_server(&self) -> &str {
        &self.login_server
    }

    /// Returns the URL where keys are created.
    pub(crate) fn api_url(&self) -> &str {
        &self.api_url
    }

    /// Creates an API key and returns its value.
    pub(crate) fn create_api_key(&self) -> String {
        let life = Duration::from_secs(86_400);
        self.embedded.create_api_key(life).expose().to_owned()
    }

    /// Returns the names of the nodes that have joined.
    pub(crate) fn nodes(&mut self) -> Result<Vec<String>> {
        self.control.check_alive()?;
        // bash speaks TCP itself, in the network of the server.
        let line = format!(
            "exec 3<>/dev/tcp/{}; printf 'GET /sidescale/nodes HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3",
            ADMIN.replace(':', "/")
        );
        let said = output(self.place.command(Path::new("bash")).args(["-c", &line]))?;
        let body = said.split("\r\n\r\n").nth(1).context("no answer")?;
        serde_json::from_str(body).with_context(|| format!("no list of names: {said}"))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves the embedded Headscale in another network, and announces each created key to the control server.
fn serve(network: &File, embedded: &Embedded, address: &str, stop: &AtomicBool) -> Result<()> {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    // Everything on this thread: the others are in the machine's own network.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let router = embedded.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut announced = BTreeSet::new();
        while !stop.load(Ordering::Relaxed) {
            for key in embedded.issued() {
                if !announced.contains(&key.id) {
                    announce(key.value.expose()).await?;
                    announced.insert(key.id);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    })
}

async fn announce(key: &str) -> Result<()> {
    let mut stream = TcpStream::connect(ADMIN).await?;
    let length = key.len();
    let request =
        format!("POST /sidescale/accept HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{key}");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    anyhow::ensure!(answer.contains(" 200 "), "{answer}");
    Ok(())
}
