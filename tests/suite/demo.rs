//! The demo: it works, and each of its steps fails when what it checks is broken.

use std::process::Command;
use std::time::{Duration, Instant};

use sidescale::commands::demo::{DemoArgs, DemoStep, Spoilt, show};
use tokio_util::sync::CancellationToken;

#[test]
fn ends_by_itself_with_0_and_shows_patches_keys_and_metrics() {
    let begun = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sidescale"))
        .arg("demo")
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(begun.elapsed() < Duration::from_secs(30));
    for part in [
        "+   initContainers:",
        "+       image: docker.io/tailscale/",
        "has mode 600",
        "is now key",
        "is expired",
        "sidescale_rotations_total",
    ] {
        let part = part.replace("      image", "    image");
        assert!(text.contains(&part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "colours without a terminal");
    assert!(!text.contains("hskey-"), "a key is shown");
}

#[test]
fn ends_with_1_and_names_the_step() {
    let output = Command::new(env!("CARGO_BIN_EXE_sidescale"))
        .args(["demo", "/nowhere/pods.yaml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with(
            "sidescale: step \"read the manifests\": /nowhere/pods.yaml: No such file"
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_fails_when_it_is_spoilt() {
    let patience = Duration::from_millis(700);
    let running = DemoStep::ALL.map(async |step| {
        let mut out = Vec::new();
        let spoilt = Some(Spoilt { step, patience });
        let shown = show(
            DemoArgs::default(),
            &mut out,
            false,
            spoilt,
            CancellationToken::new(),
        )
        .await;
        (step, shown, String::from_utf8(out).unwrap())
    });
    for (step, shown, out) in futures::future::join_all(running).await {
        let Err(failed) = shown else {
            panic!("{step:?} was seen to work:\n{out}")
        };
        assert_eq!(failed.step, step, "{failed}\n{out}");
        assert!(
            failed
                .to_string()
                .starts_with(&format!("step \"{}\": ", step.as_str())),
            "{failed}"
        );
        assert!(
            !failed.to_string().contains("hskey-") && !out.contains("hskey-"),
            "a key is shown"
        );
    }
}
