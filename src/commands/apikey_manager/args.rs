//! Flags of `sidescale apikey-manager`, and their consistency. Pure.

use std::path::PathBuf;
use std::time::Duration;

use sidescale_webhook::forms;

use crate::telemetry::LogArgs;

/// Default name of the Secret, the one that rotation reads.
const SECRET: &str = "headscale-api-key";

/// Flags of `sidescale apikey-manager`.
#[derive(Clone, Debug, clap::Args)]
pub struct ApikeyManagerArgs {
    /// Headscale's Unix socket
    #[arg(
        long,
        env = "SIDESCALE_SOCKET_PATH",
        default_value = "/var/run/headscale/headscale.sock",
        value_name = "FILE"
    )]
    pub socket_path: PathBuf,
    /// Namespace of the Secret
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", value_parser = namespace)]
    pub namespace: Option<String>,
    /// Secret with the API key
    #[arg(long, env = "SIDESCALE_SECRET_NAME", default_value = SECRET, value_name = "NAME", value_parser = name)]
    pub secret_name: String,
    /// Lifetime of a key, such as 2160h or 90d
    #[arg(long, env = "SIDESCALE_EXPIRATION", default_value = "2160h", value_name = "DURATION", value_parser = duration)]
    pub expiration: Duration,
    /// How long before its expiration a key is renewed
    #[arg(long, env = "SIDESCALE_ROTATION_BUFFER", default_value = "240h", value_name = "DURATION", value_parser = duration)]
    pub rotation_buffer: Duration,
    /// How long the old key stays valid after a renewal
    #[arg(long, env = "SIDESCALE_OVERLAP", default_value = "0s", value_name = "DURATION", value_parser = duration)]
    pub overlap: Duration,
    /// How long to wait for Headscale's first answer before exiting [default: no limit]
    #[arg(long, env = "SIDESCALE_WAIT_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub wait_timeout: Option<Duration>,
    /// Headscale URL at which to try a new key before writing it [default: check the list on the socket only]
    #[arg(long, env = "SIDESCALE_API_URL", value_name = "URL")]
    pub api_url: Option<String>,
    /// Value of the label app.kubernetes.io/managed-by on a Secret that the manager may write
    #[arg(
        long,
        env = "SIDESCALE_MANAGED_BY",
        default_value = "sidescale",
        value_name = "VALUE"
    )]
    pub managed_by: String,
    /// Kubeconfig file [default: the pod's service account, else KUBECONFIG or ~/.kube/config]
    #[arg(long, env = "SIDESCALE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this replica [default: the machine's name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Flags of the log.
    #[command(flatten)]
    pub log: LogArgs,
}

impl ApikeyManagerArgs {
    /// Returns the Secret's namespace; checks what single flags cannot.
    ///
    /// # Errors
    /// Says what is wrong, what is expected and what to do.
    pub fn checked(&self) -> Result<&str, String> {
        let Self {
            namespace,
            expiration,
            rotation_buffer,
            ..
        } = self;
        if rotation_buffer >= expiration {
            return Err(format!(
                "--rotation-buffer is {} and --expiration is {}: want a smaller buffer, such as --rotation-buffer={}",
                forms::show(*rotation_buffer),
                forms::show(*expiration),
                forms::show(*expiration / 9)
            ));
        }
        namespace.as_deref().ok_or_else(|| {
            "--namespace is not given: set it, or the variable POD_NAMESPACE, to the namespace of the Secret".to_owned()
        })
    }

    /// Returns a remark about settings that work, but may be unintended.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let (life, buffer) = (self.expiration, self.rotation_buffer);
        (buffer > life / 2).then(|| {
            format!(
                "--rotation-buffer is more than half of --expiration: a key with an expiration of {} is renewed every {}",
                forms::show(life),
                forms::show(life.saturating_sub(buffer))
            )
        })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    forms::duration(text).ok_or_else(|| forms::DURATION.to_owned())
}

fn name(text: &str) -> Result<String, String> {
    if forms::is_dns_subdomain(text, 253) {
        Ok(text.to_owned())
    } else {
        Err("want the name of a Secret: lower-case letters, digits, \"-\" and \".\"".to_owned())
    }
}

fn namespace(text: &str) -> Result<String, String> {
    if forms::is_dns_label(text) {
        Ok(text.to_owned())
    } else {
        Err(
            "want the name of a namespace: lower-case letters, digits and \"-\", at most 63 characters"
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ApikeyManagerArgs,
    }

    fn parse(flags: &[&str]) -> Result<ApikeyManagerArgs, String> {
        let line = ["sidescale apikey-manager"].iter().chain(flags);
        let parsed = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        Ok(parsed.args)
    }

    #[test]
    fn the_five_flags_stand_as_they_were() {
        const DAY: Duration = Duration::from_secs(86_400);
        let given = [
            "--socket-path=/run/other.sock",
            "--namespace=tailnet",
            "--secret-name=other-key",
            "--expiration=720h",
            "--rotation-buffer=48h",
        ];
        let defaults = ["--namespace=default"];
        for (flags, socket, namespace, secret, days) in [
            (
                &given[..],
                "/run/other.sock",
                "tailnet",
                "other-key",
                (30, 2),
            ),
            (
                &defaults[..],
                "/var/run/headscale/headscale.sock",
                "default",
                "headscale-api-key",
                (90, 10),
            ),
        ] {
            let args = parse(flags).unwrap();
            assert_eq!(args.socket_path.to_str(), Some(socket));
            assert_eq!(args.checked(), Ok(namespace));
            assert_eq!(args.secret_name, secret);
            let lives = (args.expiration, args.rotation_buffer);
            assert_eq!(lives, (DAY * days.0, DAY * days.1));
            assert_eq!((args.remark(), args.wait_timeout), (None, None));
        }
    }

    #[test]
    fn durations_are_gos_and_days() {
        for (text, hours) in [
            ("720h", 720),
            ("8760h", 8_760),
            ("90d", 2_160),
            ("1920h", 1_920),
            ("480h", 480),
        ] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_secs(hours * 3_600)),
                "{text}"
            );
        }
        for same in ["1h30m", "90m", "5400s", "1.5h"] {
            assert_eq!(duration(same), Ok(Duration::from_secs(5_400)), "{same}");
        }
        for wrong in ["", "90", "3 weeks", "-1h", "1y"] {
            let error = parse(&["--namespace=a", &format!("--expiration={wrong}")]).unwrap_err();
            assert!(
                error.contains("--expiration") && error.contains("90m, 12h or 30d"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_cannot_work_is_said_before_any_call() {
        for (flags, words) in [
            (
                &["--namespace=a", "--expiration=240h"][..],
                &["240h", "--rotation-buffer", "--expiration"][..],
            ),
            (
                &["--namespace=a", "--expiration=1h"],
                &["--rotation-buffer is 240h and --expiration is 1h"],
            ),
            (&[], &["--namespace", "POD_NAMESPACE"]),
        ] {
            let message = parse(flags).unwrap().checked().unwrap_err();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
        for (flag, word) in [
            ("--secret-name=No_Name", "name of a Secret"),
            ("--namespace=a.b", "name of a namespace"),
        ] {
            let message = parse(&[flag]).unwrap_err();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn a_buffer_of_more_than_half_is_remarked_on() {
        let args = parse(&["--namespace=a", "--rotation-buffer=1920h"]).unwrap();
        assert_eq!(args.checked(), Ok("a"));
        let remark = args.remark().unwrap();
        assert!(remark.contains("every 240h"), "{remark}");
    }
}
