//! SIGKILL of the manager after any answer of the API server: one live key is left, and the Secret has it.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use sidescale_core::key_prefix::api_key_prefix;
use sidescale_core::key_value::KeyValue;

use super::{EXPIRATION, LIMIT, SECRET, World};
use crate::support::context::Context;
use crate::support::headscale::Program;
use crate::support::proxy::{self, Ledger, Server, Trap, Upstream};
use crate::support::wait;

/// Activity of the manager when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum During {
    /// There is no Secret.
    FirstKey,
    /// The key lives an hour, and is due for a manager that requires two.
    Renewal,
}

const SHORT: [&str; 2] = ["--expiration=1h", "--rotation-buffer=30m"];
const LONG: [&str; 2] = ["--expiration=9h", "--rotation-buffer=2h"];

/// SIGKILL after each answer of the API server, whether that answer arrives or not.
pub(super) fn after_any_answer(context: &Context, program: Option<&Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let mut world = World::new(context, program, "kill-manager")?;
    world.start_headscale()?;
    let certificates = world.api.kubectl().kubeconfig().with_file_name("certs");
    let server = world.server()?;
    let address = server.trim_start_matches("https://").parse()?;
    let upstream = Upstream::trusting(address, &certificates.join("apiserver.crt"))?;
    let ledger = Arc::<Ledger>::default();
    let port = proxy::start(Server::Kubernetes, upstream, Arc::clone(&ledger))?;
    let through = format!("http://127.0.0.1:{port}");
    let mut killed = 0;
    for during in [During::FirstKey, During::Renewal] {
        for nth in 1..40 {
            let mut rested = false;
            for passes in [true, false] {
                world.prepare(during)?;
                let trap = Trap {
                    server: Server::Kubernetes,
                    counts: |_| true,
                    nth,
                    passes,
                };
                ledger.set(trap);
                let name = format!("{during:?}-{nth}-{passes}");
                let manager = world.start_at(&name, &through, &LONG)?;
                ledger.watch(manager.pid()?);
                rested = wait::until("killed or at rest", LIMIT, || {
                    let rested = manager.log().contains("Checked the API key");
                    ensure!(rested || ledger.sprung(), "at work");
                    Ok(!ledger.sprung())
                })?;
                drop(manager);
                ledger.disarm();
                if rested {
                    break;
                }
                killed += 1;
                let _manager = world.start(&format!("{name}-again"), &LONG)?;
                world.has_long_key().context(name)?;
            }
            if rested {
                ensure!(nth > 5, "{during:?} was over after {nth} answers");
                break;
            }
        }
    }
    println!("killed after {killed} answers of the API server: each time one live key was left");
    ensure!(killed >= 20, "killed only {killed} times");
    Ok(())
}

impl World<'_> {
    /// Expires all keys, and leaves none or one that lives an hour.
    pub(super) fn prepare(&self, during: During) -> Result<()> {
        if let Ok(key) = self.key() {
            let (client, now) = (self.client(&key)?, Timestamp::now());
            let mut rows = self.list(&key)?;
            rows.retain(|row| row.expiration.is_some_and(|end| now < end));
            // The last is the one that the calls use.
            let value = KeyValue::new(key);
            let own = api_key_prefix(&value).context("no API key")?;
            rows.sort_by_key(|row| row.prefix == own);
            for row in rows {
                self.runtime.block_on(client.expire(row.id))?;
            }
            let arguments = ["delete", "secret", SECRET, "--namespace", &self.namespace];
            self.api.kubectl().run(&arguments)?;
        }
        if during == During::Renewal {
            let _manager = self.start("prepare", &SHORT)?;
            self.one_live_key()?;
        }
        Ok(())
    }

    /// Waits until the only live key is a long-lived one.
    fn has_long_key(&self) -> Result<()> {
        wait::until("the new key alone", LIMIT, || {
            let key = self.key()?;
            let left = self
                .annotation(EXPIRATION)?
                .duration_since(Timestamp::now());
            ensure!(left.as_hours() >= 7, "{left} left");
            let live = self.live(&key)?;
            ensure!(live == 1, "{live} live keys");
            Ok(())
        })
    }
}
