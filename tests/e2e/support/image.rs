//! Container images without a registry: one layer of files, as an archive that containerd imports (I/O).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::processes::output;

/// An image of files taken from this machine.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Full name with tag, such as `docker.io/e2e/tailscale:1`.
    pub(crate) name: String,
    /// Command of the container.
    pub(crate) entrypoint: Vec<String>,
    /// User and group, as in `65532:65532`; empty for root.
    pub(crate) user: String,
    /// Path in the image, and path on this machine.
    pub(crate) files: Vec<(String, PathBuf)>,
}

impl Image {
    /// Writes the archive.
    pub(crate) fn write(&self, target: &Path) -> Result<()> {
        let layer = target.with_extension("layer");
        self.write_layer(&layer)?;
        let digest = sha256(&layer)?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
                "User": self.user,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        })
        .to_string();
        let config_file = target.with_extension("config");
        fs::write(&config_file, &config)?;
        let config_name = format!("{}.json", sha256(&config_file)?);
        let layer_name = format!("{digest}/layer.tar");
        let manifest =
            json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}])
                .to_string();

        let mut archive = tar::Builder::new(File::create(target)?);
        append(&mut archive, &config_name, config.as_bytes())?;
        archive.append_path_with_name(&layer, &layer_name)?;
        append(&mut archive, "manifest.json", manifest.as_bytes())?;
        archive.into_inner()?;
        fs::remove_file(&layer)?;
        fs::remove_file(&config_file)?;
        Ok(())
    }

    fn write_layer(&self, target: &Path) -> Result<()> {
        let mut layer = tar::Builder::new(File::create(target)?);
        let mut made = BTreeSet::new();
        directory(&mut layer, &mut made, Path::new("tmp"), 0o1777)?;
        for path in ["etc", "var/run", "var/lib"] {
            directory(&mut layer, &mut made, Path::new(path), 0o755)?;
        }
        for (inside, source) in &self.files {
            let inside = Path::new(inside.trim_start_matches('/'));
            if let Some(parent) = inside.parent() {
                directory(&mut layer, &mut made, parent, 0o755)?;
            }
            let source =
                fs::canonicalize(source).with_context(|| format!("find {}", source.display()))?;
            let mut header = tar::Header::new_gnu();
            let metadata = fs::metadata(&source)?;
            header.set_metadata(&metadata);
            header.set_uid(0);
            header.set_gid(0);
            layer.append_data(&mut header, inside, File::open(&source)?)?;
        }
        layer.into_inner()?;
        Ok(())
    }
}

/// Returns the shared libraries of a program, each with the path where its loader looks; none for a statically linked one.
pub(crate) fn libraries(program: &Path) -> Result<Vec<(String, PathBuf)>> {
    let asked = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()?;
    if String::from_utf8_lossy(&asked.stderr).contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    let said = String::from_utf8_lossy(&asked.stdout);
    ensure!(
        asked.status.success(),
        "ldd {}: {asked:?}",
        program.display()
    );
    Ok(said
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|path| (path.to_owned(), PathBuf::from(path)))
        .collect())
}

fn directory(
    layer: &mut tar::Builder<File>,
    made: &mut BTreeSet<PathBuf>,
    path: &Path,
    mode: u32,
) -> Result<()> {
    if path.as_os_str().is_empty() || !made.insert(path.to_owned()) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        directory(layer, made, parent, 0o755)?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(mode);
    header.set_size(0);
    layer.append_data(&mut header, path, std::io::empty())?;
    Ok(())
}

fn append(archive: &mut tar::Builder<File>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(u64::try_from(content.len())?);
    archive.append_data(&mut header, name, content)?;
    Ok(())
}

fn sha256(file: &Path) -> Result<String> {
    let said = output(Command::new("sha256sum").arg(file))?;
    said.split_whitespace()
        .next()
        .map(str::to_owned)
        .context("sha256sum printed nothing")
}
