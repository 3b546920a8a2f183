use super::*;

fn secret() -> StoredSecret {
    let mut secret = StoredSecret::absent("headscale", "headscale-api-key");
    secret.revision = Some("1".into());
    secret
}

#[test]
fn what_is_written_is_read_back() {
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    let issued = IssuedApiKey {
        value: KeyValue::new("hskey".into()),
        expires: "2024-02-12T22:13:20.123456Z".parse().unwrap(),
        created_at: now,
    };
    let mut secret = secret();
    write(&mut secret, "headscale-operator", &ApiKeyRecord::default());
    write_key(&mut secret, DATA_KEY, &issued);
    check_in(&mut secret, "headscale-0", now);
    let held = read(&secret, "headscale-operator", DATA_KEY);
    assert_eq!(held.ownership, TokenOwnership::Ours);
    assert!(held.labelled && !held.record_damaged);
    assert_eq!(held.value, Some(issued.value));
    assert_eq!(
        held.expiration,
        Stated::At("2024-02-12T22:13:20Z".parse().unwrap())
    );
    assert_eq!(held.created_at, Stated::At(now));
    assert_eq!(held.checked, Some((now, "headscale-0".into())));
    // With another label it belongs to another owner.
    let theirs = read(&secret, "sidescale", DATA_KEY).ownership;
    assert_eq!(
        theirs,
        TokenOwnership::NotOurs(Some("headscale-operator".into()))
    );
}

#[test]
fn a_key_is_read_without_the_line_end_that_a_shell_adds() {
    for (bytes, want) in [
        (&b"key\n"[..], Some("key")),
        (b" key\r\n", Some("key")),
        (b"", None),
        (b"\n", None),
        (b"\xff\xfe", Some("not text")),
    ] {
        let mut secret = secret();
        secret.data.insert(DATA_KEY.into(), bytes.to_vec().into());
        let value = read(&secret, "sidescale", DATA_KEY).value;
        assert_eq!(value.as_ref().map(KeyValue::expose), want);
    }
}
