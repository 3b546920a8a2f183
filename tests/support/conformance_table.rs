//! The table test × server, and the certificates of servers under test.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;

/// Result of one test on one server.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Failed(String),
    Passed,
    /// Not run, for this reason.
    Skipped(&'static str),
}

/// All tests of one server.
pub(crate) struct Column {
    pub(crate) server: String,
    pub(crate) cells: Vec<(&'static str, Cell)>,
}

impl Column {
    /// Returns the tests that failed, with their errors.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = self.cells.iter().filter_map(|(name, cell)| match cell {
            Cell::Failed(how) => Some(format!("{name} on {}: {how}", self.server)),
            Cell::Passed | Cell::Skipped(_) => None,
        });
        failed.collect()
    }
}

/// Returns the table as text: below it is a reason for each letter in an empty cell.
pub(crate) fn print(columns: &[Column]) -> String {
    let names: Vec<&str> = columns
        .first()
        .map(|column| column.cells.iter().map(|(name, _)| *name).collect())
        .unwrap_or_default();
    let reasons: BTreeSet<&str> = columns
        .iter()
        .flat_map(|column| &column.cells)
        .filter_map(|(_, cell)| match cell {
            Cell::Skipped(reason) => Some(*reason),
            Cell::Failed(_) | Cell::Passed => None,
        })
        .collect();
    let letter = |reason: &str| {
        let index = reasons
            .iter()
            .position(|known| *known == reason)
            .unwrap_or_default();
        format!(
            "({})",
            char::from(b'a' + u8::try_from(index).unwrap_or_default())
        )
    };
    let width = names
        .iter()
        .map(|name| name.len())
        .max()
        .unwrap_or_default();
    let mut text = format!("{:width$}", "Conformance");
    for column in columns {
        let _ = write!(text, "  {}", column.server);
    }
    for (row, name) in names.iter().enumerate() {
        let _ = write!(text, "\n{name:width$}");
        for column in columns {
            let cell = match &column.cells[row].1 {
                Cell::Failed(_) => "FAILED".to_owned(),
                Cell::Passed => "ok".to_owned(),
                Cell::Skipped(reason) => letter(reason),
            };
            let _ = write!(
                text,
                "  {cell:cell_width$}",
                cell_width = column.server.len()
            );
        }
    }
    for reason in &reasons {
        let _ = write!(text, "\n{} {reason}", letter(reason));
    }
    text.push('\n');
    text
}

/// Generates a private authority: its certificate as PEM, and its issuer.
pub(crate) fn authority(name: &str) -> Result<(String, rcgen::Issuer<'static, rcgen::KeyPair>)> {
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, rcgen::Issuer::new(params, key)))
}
