//! After all other tests: no key that they have seen stands where a key must not.

use anyhow::{Result, ensure};

use crate::Case;
use crate::support::context::Context;
use crate::support::levels::Level;
use crate::support::{evidence, headscale};

pub(crate) const CASES: &[Case] = &[Case {
    name: "leaks::no_key_is_in_a_log_event_metric_or_object",
    needs: &[Level::Node, Level::Headscale],
    each: false,
    run: nothing_leaked,
}];

fn nothing_leaked(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let node = context.node()?;
    let texts = evidence::everything(node.kubectl(), context.folder.path());
    let keys = node.keys();
    eprintln!(
        "e2e: looked for {} keys in {} texts",
        keys.len(),
        texts.len()
    );
    let leaks = evidence::leaks(&texts, &keys);
    ensure!(leaks.is_empty(), "{}", leaks.join("\n"));
    Ok(())
}
