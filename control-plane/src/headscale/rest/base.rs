//! The URL of a Headscale's API, as an operator writes it. Pure.

use reqwest::Url;

/// Checks a base URL and removes its trailing slashes.
pub(super) fn base_url(text: &str, allow_insecure: bool) -> Result<String, String> {
    const WANT: &str = "want https://HOST[:PORT][/PATH], for example https://headscale.example.com";
    let url = Url::parse(text)
        .map_err(|error| format!("apiUrl {text:?} is not a URL ({error}): {WANT}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "apiUrl contains a user or password: {WANT}; the API key belongs in the Secret"
        ));
    }
    if url.host_str().is_none_or(str::is_empty) || url.query().is_some() || url.fragment().is_some()
    {
        return Err(format!(
            "apiUrl {text:?} has no host, or a query or fragment: {WANT}"
        ));
    }
    match url.scheme() {
        "https" => {}
        "http" if allow_insecure => {}
        "http" => {
            return Err(format!(
                "apiUrl {text:?} would send the API key unencrypted: use https://, or set allowInsecure: true if the network itself is trusted"
            ));
        }
        _ => return Err(format!("apiUrl {text:?} is not an https:// URL: {WANT}")),
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::base_url;

    #[test]
    fn takes_https_and_where_allowed_http() {
        for (text, insecure, want) in [
            (
                "https://hs.example.com",
                false,
                Ok("https://hs.example.com"),
            ),
            (
                "https://hs.example.com/tailnet/",
                false,
                Ok("https://hs.example.com/tailnet"),
            ),
            (
                "http://hs.headscale:8080",
                true,
                Ok("http://hs.headscale:8080"),
            ),
            (
                "http://hs.headscale:8080",
                false,
                Err("allowInsecure: true"),
            ),
            ("hs.example.com", false, Err("is not a URL")),
            ("unix:///var/run/headscale.sock", true, Err("has no host")),
            ("ftp://hs.example.com", true, Err("is not an https:// URL")),
            (
                "https://a:b@hs.example.com",
                false,
                Err("contains a user or password"),
            ),
            (
                "https://hs.example.com/?key=1",
                false,
                Err("a query or fragment"),
            ),
        ] {
            match (base_url(text, insecure), want) {
                (Ok(base), Ok(want)) => assert_eq!(base, want),
                (Err(problem), Err(want)) => assert!(problem.contains(want), "{text}: {problem}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }
}
