use sidescale_core::id::KeyId;
use sidescale_core::key_state::KeyState;

use super::*;

fn pod() -> PodRef {
    PodRef {
        created: Timestamp::UNIX_EPOCH,
        uid: 7,
        name: "web-0".into(),
    }
}

fn told(source: KeySource, lack: &Lack) -> String {
    let pod = pod();
    let reference = KeyReference::new("shop", &pod, ("keys", "web-authkey"), source);
    notice(&reference, lack).note
}

fn mounts(keys: &[&str]) -> Lack {
    Lack::Volume {
        secret: "keys".into(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    }
}

#[test]
fn names_the_authority_where_it_may_be_what_is_missing() {
    let (authority, both) = (mounts(&["ca.crt"]), mounts(&["web-authkey", "ca.crt"]));
    for (lack, named) in [
        (&authority, "data key ca.crt of Secret shop/keys"),
        (&both, "data key web-authkey or ca.crt of Secret shop/keys"),
    ] {
        let note = told(KeySource::Author, lack);
        assert!(note.contains(named), "{note}");
        assert!(
            note.contains("private certificate authority under ca.crt: put it there"),
            "{note}"
        );
        let note = told(KeySource::Rotation(None), lack);
        assert!(note.contains(named), "{note}");
    }
    let note = told(KeySource::Author, &mounts(&["web-authkey"]));
    assert!(!note.contains("ca.crt"), "{note}");
}

#[test]
fn names_container_secret_and_data_key_and_what_to_do() {
    let secret = Lack::Secret {
        secret: "keys".into(),
    };
    let key = Lack::Key {
        secret: "keys".into(),
        key: "web-authkey".into(),
    };
    let volume = mounts(&["web-authkey"]);
    let made = |key, state| {
        let key = Some(KeyId::from(7)).filter(|_| key);
        KeySource::Rotation(Some(KeyStatus { state, key }))
    };
    let table = [
        (
            KeySource::Author,
            &secret,
            "kubectl create secret generic -n shop keys --from-file=web-authkey=FILE",
        ),
        (
            KeySource::Author,
            &key,
            "kubectl describe secret -n shop keys",
        ),
        (
            KeySource::Author,
            &volume,
            "kubectl describe pod -n shop web-0",
        ),
        (
            made(false, KeyState::NoCredentials),
            &key,
            "its state is NoCredentials: kubectl events -n shop --for secret/keys",
        ),
        (
            made(false, KeyState::QuotaExceeded),
            &secret,
            "its state is QuotaExceeded",
        ),
        (made(true, KeyState::Ready), &key, "its state is Ready"),
        (
            KeySource::Rotation(None),
            &key,
            "kubectl delete pod -n shop web-0",
        ),
    ];
    for (source, lack, command) in table {
        let note = told(source, lack);
        for part in [
            "container tailscale",
            "Secret shop/keys",
            "web-authkey",
            command,
        ] {
            assert!(note.contains(part), "{part}: {note}");
        }
        assert!(note.len() < 900, "an Event takes a kilobyte: {note}");
    }
    let other = Lack::Secret { secret: "x".into() };
    let note = told(KeySource::Author, &other);
    assert!(
        note.contains("Secret shop/x does not exist;")
            && note.contains("of its key, which is keys"),
        "{note}"
    );
}

#[test]
fn what_no_object_can_be_called_stands_in_no_command() {
    let pod = pod();
    let missing = |secret: &str| Lack::Secret {
        secret: secret.to_owned(),
    };
    let (long, escape) = ("x".repeat(100_000), "a\u{1b}[2J\nb");
    for (secret, data_key) in [
        ("x; rm -rf /", "web-authkey"),
        ("keys", "$(id)=FILE"),
        (&long, &long),
        (escape, escape),
        ("--all", "web-authkey"),
        ("hskey-auth-0123456789ab-cdef;", "web-authkey"),
    ] {
        for source in [KeySource::Author, KeySource::Rotation(None)] {
            for lack in [missing("keys"), missing(secret)] {
                let reference = KeyReference::new("shop", &pod, (secret, data_key), source);
                let note = notice(&reference, &lack).note;
                assert!(!note.contains("create secret"), "{note}");
                assert!(note.contains("sidescale.io/status"), "{note}");
                let (_, command) = note.split_once("kubectl ").unwrap();
                let (command, _) = command.split_once(". It starts").unwrap();
                assert_eq!(command, "delete pod -n shop web-0");
                assert!(!note.contains(char::is_control), "{note:?}");
                assert!(!note.contains("cdef") && note.len() < 1_000, "{note}");
            }
        }
    }
}

#[test]
fn each_namespace_has_its_turn_however_many_pods_another_has() {
    let pods: Vec<_> = (0..10_000_u128)
        .map(|uid| PodRef { uid, ..pod() })
        .collect();
    let key = ("by-hand", "key");
    let of = |namespace, pods| {
        let pods: std::slice::Iter<'_, PodRef> = pods;
        pods.map(move |pod| KeyReference::new(namespace, pod, key, KeySource::Author))
    };
    let due: Vec<_> = of("a", pods[..1].iter())
        .chain(of("noisy", pods[1..9_998].iter()))
        .chain(of("y", pods[9_998..9_999].iter()))
        .chain(of("z", pods[9_999..].iter()))
        .collect();
    // The namespace served last, and those that come first.
    let table: [(&str, &[&str]); 5] = [
        ("", &["a", "noisy", "y", "z", "noisy"]),
        ("a", &["noisy", "y", "z", "a", "noisy"]),
        ("b", &["noisy", "y", "z", "a", "noisy"]),
        ("y", &["z", "a", "noisy", "y", "noisy"]),
        ("z", &["a", "noisy", "y", "z", "noisy"]),
    ];
    for (last, want) in table {
        let read = in_turn(&due, last);
        let namespaces: Vec<_> = read.iter().map(|one| one.namespace).collect();
        assert_eq!(namespaces[..want.len()], *want, "{last}");
        let different: BTreeSet<_> = read.iter().map(|one| one.pod.uid).collect();
        assert_eq!(different.len(), MOST_READ, "{last}");
    }
    assert_eq!(in_turn(&due[..1], "noisy").len(), 1);
    assert_eq!(in_turn(&[], "").len(), 0);

    // With more namespaces than reads, the next round continues where this one ended.
    let names: Vec<_> = (0..40).map(|n| format!("ns-{n:02}")).collect();
    let due: Vec<_> = names
        .iter()
        .flat_map(|name| of(name.as_str(), pods[..100].iter()))
        .collect();
    let mut last = "";
    let mut served = BTreeSet::new();
    for _ in 0..3 {
        let read = in_turn(&due, last);
        served.extend(read.iter().map(|one| one.namespace));
        last = read.last().unwrap().namespace;
    }
    assert_eq!(served.len(), names.len());
}

#[test]
fn a_pod_is_read_once_before_it_is_late_and_ever_more_rarely_after() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let pod = pod();
    let mut reads = Reads::default();
    let mut times = Vec::new();
    for second in 0..7_200 {
        if reads.is_due(at(second), &pod, FIRST_READ) {
            times.push(second);
            reads.again(at(second), &pod);
        }
    }
    assert_eq!(times, [20, 120, 240, 480, 960, 1_920, 3_840]);
    reads.never_again(&pod);
    assert!(!reads.is_due(at(1_000_000), &pod, FIRST_READ));
    reads.keep_only(&BTreeSet::new());
    assert!(
        reads.is_due(at(1_000_000), &pod, FIRST_READ),
        "forgotten with its pod"
    );
}
