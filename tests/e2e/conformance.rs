//! The conformance suite over each real Headscale: plain HTTP, HTTPS with a private authority, and its Unix socket.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use sidescale_core::key_value::KeyValue;
use sidescale_core::release::HeadscaleRelease;

use crate::Case;
use crate::support::{
    context::Context,
    headscale::{Headscale, Program},
    levels::Level,
    processes::Place,
};

#[path = "../support/conformance.rs"]
mod cases;

/// One of each binary.
pub(crate) const CASES: &[Case] = &[Case {
    name: "conformance::a_real_headscale_does_what_the_embedded_one_does",
    needs: &[Level::Headscale],
    each: true,
    run,
}];

/// The columns so far: the last table has them all.
static ALL: Mutex<Vec<cases::Column>> = Mutex::new(Vec::new());

fn run(context: &Context, program: Option<&Program>) -> Result<()> {
    let program = program.context("no Headscale")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut running = Vec::new();
    for way in ["http", "https", "socket"] {
        let folder = context
            .folder
            .inner(&format!("conformance-{}-{way}", program.version))?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let start = match way {
            "https" => Headscale::start_tls,
            _ => Headscale::start,
        };
        let headscale = start(program, Place::Host, &folder, &address)?;
        let server = cases::Server::new(
            format!("{} {way}", program.version),
            headscale.url().to_owned(),
            KeyValue::new(headscale.create_api_key()?),
            headscale.authority().map(str::to_owned),
            release(&program.version),
            None,
        );
        let server = match way {
            "socket" => server.on_socket(headscale.socket()),
            _ => server,
        };
        running.push((headscale, server));
    }
    let columns = running.iter().map(|(_, server)| cases::run(server));
    let columns = runtime.block_on(futures::future::join_all(columns));
    let failures: Vec<String> = columns.iter().flat_map(cases::Column::failures).collect();
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.extend(columns);
    eprintln!("\n{}", cases::print(&all));
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn release(version: &str) -> HeadscaleRelease {
    match version.trim_start_matches('v') {
        old if old.starts_with("0.28") => HeadscaleRelease::V0_28,
        old if old.starts_with("0.29") => HeadscaleRelease::V0_29,
        _ => HeadscaleRelease::V0_30,
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}
