//! Configuration of a Headscale for tests, and its certificate (I/O: writes them to its folder).

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// A relay that does not exist: Headscale requires one to list to its nodes.
pub(crate) const NO_RELAY: &str = "regions:
  900:
    regionid: 900
    regioncode: local
    regionname: local
    nodes: [{name: 900a, regionid: 900, hostname: 127.0.0.1, stunport: -1, derpport: 8443}]
";

/// File in its folder from which it reads its noise key, or in which it stores a new one.
pub(crate) const NOISE_KEY: &str = "noise.key";

/// Returns the map of relays with only this address; clients accept any certificate of it.
pub(super) fn relays(address: &str) -> Result<String> {
    let (host, port) = address.split_once(':').context("no port")?;
    Ok(NO_RELAY.replace("127.0.0.1", host).replace(
        "derpport: 8443",
        &format!("derpport: {port}, insecurefortests: true"),
    ))
}

/// Returns a configuration that reaches nothing outside the machine, and deletes an ephemeral node as early as the server allows.
pub(super) fn configuration(folder: &Path, address: &str, url: &str, tls: bool) -> Value {
    let file = |name: &str| folder.join(name).display().to_string();
    let mut config = json!({
        "server_url": url,
        "listen_addr": address,
        "metrics_listen_addr": "",
        "grpc_listen_addr": "127.0.0.1:0",
        "grpc_allow_insecure": true,
        "noise": {"private_key_path": file(NOISE_KEY)},
        "prefixes": {"v4": "100.64.0.0/10", "v6": "fd7a:115c:a1e0::/48"},
        "database": {"type": "sqlite", "sqlite": {"path": file("db.sqlite")}},
        "unix_socket": file("headscale.sock"),
        "unix_socket_permission": "0770",
        "derp": {
            "server": {
                // A relay speaks only HTTPS. Addresses come from the ping between nodes: STUN is on because it is required.
                "enabled": tls, "verify_clients": false, "automatically_add_embedded_derp_region": false,
                "region_id": 900, "region_code": "local", "region_name": "local",
                "stun_listen_addr": "127.0.0.1:0", "private_key_path": file("derp.key"),
            },
            "urls": [], "paths": [file("derp.yaml")], "auto_update_enabled": false,
        },
        "dns": {"magic_dns": false, "override_local_dns": false, "base_domain": "hs.test"},
        "disable_check_updates": true,
        "logtail": {"enabled": false},
        // The first for 0.28, the second since 0.29.
        "ephemeral_node_inactivity_timeout": "70s",
        "node": {"ephemeral": {"inactivity_timeout": "70s"}},
        "policy": {"mode": "database"},
        "log": {"level": "info", "format": "json"},
    });
    if tls {
        config["tls_cert_path"] = json!(file("server.crt"));
        config["tls_key_path"] = json!(file("server.key"));
    }
    config
}

/// Generates an authority and its certificate for the address; returns the authority's certificate.
pub(super) fn make_certificate(folder: &Path, address: &str) -> Result<String> {
    let host = address.split(':').next().unwrap_or_default().to_owned();
    let mut authority = rcgen::CertificateParams::new(Vec::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(rcgen::DnType::CommonName, "sidescale e2e authority");
    let authority_key = rcgen::KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec![host])?.signed_by(&key, &issuer)?;
    fs::write(folder.join("server.crt"), certificate.pem())?;
    fs::write(folder.join("server.key"), key.serialize_pem())?;
    Ok(authority_certificate.pem())
}
