//! A proxy between the product and a server: records every exchange, and kills the product after the n-th (I/O).
//!
//! It speaks plain HTTP/1.1 to the product, with one thread for each connection: it knows when an answer has been sent.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};

/// A server that does not answer within this time is a failure of the test itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// The two servers that the product talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// The control plane.
    Headscale,
    /// The API server.
    Kubernetes,
}

/// One request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// The server that answered.
    pub(crate) server: Server,
    /// Method, such as `POST`.
    pub(crate) method: String,
    /// Path with its query.
    pub(crate) path: String,
    /// The request's body.
    pub(crate) request: Vec<u8>,
    /// Status, such as 200.
    pub(crate) status: u16,
    /// The answer's body.
    pub(crate) answer: Vec<u8>,
    /// How long the server took.
    pub(crate) took: Duration,
}

impl fmt::Display for Exchange {
    /// Omits the bodies, which contain keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            server,
            method,
            path,
            status,
            took,
            ..
        } = self;
        write!(f, "{server:?} {method} {path}: {status} after {took:?}")
    }
}

/// When to kill the product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    /// The server whose answers count.
    pub(crate) server: Server,
    /// Exchanges that count.
    pub(crate) counts: fn(&Exchange) -> bool,
    /// Number of the exchange, from 1.
    pub(crate) nth: usize,
    /// Whether the product gets that answer before it dies.
    pub(crate) passes: bool,
}

/// Exchanges through the proxies of one product, in order, and its trap.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    exchanges: Vec<Exchange>,
    trap: Option<Trap>,
    sprung: bool,
    child: Option<u32>,
}

/// Server that the proxy forwards to.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    /// Plain HTTP.
    Plain(SocketAddr),
    /// HTTPS.
    Tls(SocketAddr, Arc<rustls::ClientConfig>),
}

/// Starts a proxy that lives as long as the test run; returns its port.
pub(crate) fn start(server: Server, upstream: Upstream, ledger: Arc<Ledger>) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (upstream, ledger) = (upstream.clone(), Arc::clone(&ledger));
            // A connection breaks when one side dies.
            thread::spawn(move || {
                let _ = serve(server, client, &upstream, &ledger);
            });
        }
    });
    Ok(port)
}

impl Upstream {
    /// An API server with this certificate, which may be its own authority.
    pub(crate) fn trusting(address: SocketAddr, certificates: &Path) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(certificates)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::Tls(address, Arc::new(config)))
    }

    fn connect(&self) -> Result<Box<dyn Wire>> {
        let tcp = |address: &SocketAddr| -> Result<TcpStream> {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        match self {
            Self::Plain(address) => Ok(Box::new(tcp(address)?)),
            Self::Tls(address, config) => {
                let name = ServerName::IpAddress(address.ip().into());
                let session = rustls::ClientConnection::new(Arc::clone(config), name)?;
                Ok(Box::new(rustls::StreamOwned::new(session, tcp(address)?)))
            }
        }
    }
}

impl Ledger {
    /// Sets a trap for the product that is started next or already runs, and resets the count.
    pub(crate) fn set(&self, trap: Trap) {
        let mut inner = self.lock();
        (inner.trap, inner.sprung) = (Some(trap), false);
    }

    /// Removes the trap: the next product is not killed.
    pub(crate) fn disarm(&self) {
        let mut inner = self.lock();
        (inner.trap, inner.sprung, inner.child) = (None, false, None);
    }

    /// Sets the pid of the product's process.
    pub(crate) fn watch(&self, pid: u32) {
        self.lock().child = Some(pid);
        self.changed.notify_all();
    }

    /// Returns whether the product was killed.
    pub(crate) fn sprung(&self) -> bool {
        self.lock().sprung
    }

    /// Returns all exchanges so far.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.lock().exchanges.clone()
    }

    /// Returns the number of exchanges so far.
    pub(crate) fn len(&self) -> usize {
        self.lock().exchanges.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an exchange; returns the trap if this was its answer.
    fn note(&self, exchange: Exchange) -> Option<Trap> {
        let mut inner = self.lock();
        let mut springs = None;
        if let Some(trap) = inner
            .trap
            .as_mut()
            .filter(|trap| trap.server == exchange.server)
            && (trap.counts)(&exchange)
        {
            trap.nth = trap.nth.saturating_sub(1);
            springs = (trap.nth == 0).then_some(*trap);
        }
        inner.exchanges.push(exchange);
        if springs.is_some() {
            // From here on nothing of the old process reaches a server.
            (inner.trap, inner.sprung) = (None, true);
        }
        springs
    }

    fn kill(&self) -> Result<()> {
        let inner = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(inner, PATIENCE, |inner| inner.child.is_none());
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let pid = inner.child.take().context("nobody to kill")?;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
        // Its parent has not waited for it yet, so the pid is not reused.
        Ok(kill_process(pid, Signal::KILL)?)
    }
}

trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// A message as received: the bytes to forward, and its parsed contents.
struct Message {
    first: String,
    raw: Vec<u8>,
    body: Vec<u8>,
    closes: bool,
}

fn serve(server: Server, client: TcpStream, upstream: &Upstream, ledger: &Ledger) -> Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::new(client);
    loop {
        let request = read_message(&mut client, false)?;
        let mut words = request.first.split(' ').map(str::to_owned);
        let (method, path) = words.next().zip(words.next()).context("no request line")?;
        let mut away = BufReader::new(upstream.connect()?);
        if ledger.sprung() {
            client.get_ref().shutdown(Shutdown::Both)?;
            bail!("it is dead");
        }
        let asked = Instant::now();
        away.get_mut().write_all(&request.raw)?;
        away.get_mut().flush()?;
        if path.contains("watch=") {
            return pass_on(&mut away, client.get_mut());
        }
        let answer = read_message(&mut away, method == "HEAD")?;
        let status = answer.first.split(' ').nth(1).context("no status")?;
        let exchange = Exchange {
            server,
            method,
            path,
            request: request.body,
            status: status.parse()?,
            answer: answer.body,
            took: asked.elapsed(),
        };
        match ledger.note(exchange) {
            Some(trap) => {
                if trap.passes {
                    client.get_mut().write_all(&answer.raw)?;
                }
                return ledger.kill();
            }
            None => client.get_mut().write_all(&answer.raw)?,
        }
        if answer.closes {
            return Ok(());
        }
    }
}

/// Forwards everything until one side closes.
fn pass_on(from: &mut BufReader<Box<dyn Wire>>, to: &mut TcpStream) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(to.shutdown(Shutdown::Both)?);
        }
        to.write_all(&buffer[..length])?;
    }
}

fn read_message(from: &mut BufReader<impl Read>, bodiless: bool) -> Result<Message> {
    let mut raw = Vec::new();
    let first = read_line(from, &mut raw)?;
    let answers = first.starts_with("HTTP/");
    let mut length = None;
    let mut chunked = false;
    loop {
        let line = read_line(from, &mut raw)?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            bail!("no header: {line}")
        };
        match (name, value.trim()) {
            ("content-length", value) => length = Some(value.parse::<usize>()?),
            ("transfer-encoding", "chunked") => chunked = true,
            _ => {}
        }
    }
    let empty = bodiless || first.contains(" 204 ") || first.contains(" 304 ");
    let mut body = Vec::new();
    let mut closes = false;
    if chunked {
        loop {
            let size = read_line(from, &mut raw)?;
            let size = usize::from_str_radix(size.trim(), 16).context("chunk size")?;
            let mut chunk = vec![0; size];
            from.read_exact(&mut chunk)?;
            raw.extend_from_slice(&chunk);
            body.extend(chunk);
            let end = read_line(from, &mut raw)?;
            ensure!(end.is_empty(), "a chunk without end");
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length.filter(|_| !empty) {
        body.resize(length, 0);
        from.read_exact(&mut body)?;
        raw.extend_from_slice(&body);
    } else if answers && !empty {
        from.read_to_end(&mut body)?;
        raw.extend_from_slice(&body);
        closes = true;
    }
    Ok(Message {
        first,
        raw,
        body,
        closes,
    })
}

/// Reads a line, appends it to what is forwarded, and returns it without its end.
fn read_line(from: &mut BufReader<impl Read>, raw: &mut Vec<u8>) -> Result<String> {
    let mut line = Vec::new();
    ensure!(
        from.read_until(b'\n', &mut line)? > 0,
        "the other side has gone"
    );
    raw.extend_from_slice(&line);
    let text = String::from_utf8(line)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
