//! What a proxy does to headers: RFC 9110, section 7.6, and the `X-Forwarded-` fields.

use std::net::IpAddr;

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Version, uri};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Where a client puts an endpoint's token whose service has a use of its own for `Authorization`.
pub const TOKEN: HeaderName = HeaderName::from_static("x-tombolo-token");

/// Who asks, and for what.
pub struct Came {
    pub from: IpAddr,
    /// What was taken off the path's beginning.
    pub prefix: Option<String>,
}

/// The protocol that a request asks to go over to, where HTTP has that.
pub fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = version == Version::HTTP_11
        && words(headers, &header::CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asks).cloned()
}

/// Makes of a request what is sent on.
pub fn onward(parts: &mut Parts, came: &Came, upgrade: Option<&HeaderValue>) {
    let host = host(parts);
    let http2 = parts.version == Version::HTTP_2;
    let headers = &mut parts.headers;
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // RFC 9112, section 6.3: it overrides the length, which nobody may believe behind us.
        headers.remove(header::CONTENT_LENGTH);
    }
    let trailers = words(headers, &header::TE).any(|word| word.eq_ignore_ascii_case("trailers"));
    drop_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade.clone());
    }
    if http2 {
        join_cookies(headers);
    }
    forwarded(headers, came, host.as_ref());
    if let Some(host) = host {
        headers.entry(header::HOST).or_insert(host);
    }
}

/// A proxy on this machine may have said already who asked it; nobody else's word counts.
fn forwarded(headers: &mut HeaderMap, came: &Came, host: Option<&HeaderValue>) {
    if !came.from.is_loopback() {
        for name in [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST] {
            headers.remove(name);
        }
    }
    let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let chain: Vec<String> = before.map(str::to_owned).chain([came.from.to_string()]).collect();
    if let Ok(chain) = HeaderValue::from_str(&chain.join(", ")) {
        headers.insert(FORWARDED_FOR, chain);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if let Some(host) = host {
        headers.entry(FORWARDED_HOST).or_insert(host.clone());
    }
    headers.remove(FORWARDED_PREFIX);
    if let Some(prefix) = came.prefix.as_ref().and_then(|prefix| HeaderValue::from_str(prefix).ok()) {
        headers.insert(FORWARDED_PREFIX, prefix);
    }
}

/// Makes of a service's answer what its client gets.
pub fn back(headers: &mut HeaderMap, switches: bool) {
    let upgrade = headers.get(header::UPGRADE).filter(|_| switches).cloned();
    drop_hop_by_hop(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        words(headers, &header::CONNECTION).filter_map(|word| HeaderName::try_from(word).ok()).collect();
    for name in named {
        headers.remove(name);
    }
    let always = [
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    for name in always {
        headers.remove(name);
    }
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// HTTP/2 may send a cookie in pieces (RFC 9113, section 8.2.3), which HTTP/1 does not know.
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&str> = headers.get_all(header::COOKIE).iter().filter_map(|piece| piece.to_str().ok()).collect();
    if pieces.len() > 1
        && let Ok(whole) = HeaderValue::from_str(&pieces.join("; "))
    {
        headers.insert(header::COOKIE, whole);
    }
}

/// Of HTTP/2 it is in the request's target.
pub fn host(parts: &Parts) -> Option<HeaderValue> {
    let authority = parts.uri.authority().map(uri::Authority::as_str);
    let authority = authority.and_then(|authority| HeaderValue::from_str(authority).ok());
    authority.or_else(|| parts.headers.get(header::HOST).cloned())
}

/// The token that a request brings, and where it was.
pub fn token(headers: &HeaderMap) -> Option<(&str, HeaderName)> {
    if let Some(own) = headers.get(TOKEN) {
        return Some((own.to_str().ok()?.trim(), TOKEN));
    }
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| (token.trim(), header::AUTHORIZATION))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn sent(request: axum::http::request::Builder, from: &str, upgrades: bool) -> String {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let asked = upgrade(parts.version, &parts.headers);
        assert_eq!(asked.is_some(), upgrades);
        let came = Came { from: from.parse().unwrap(), prefix: Some("/p/s".to_owned()) };
        onward(&mut parts, &came, asked.as_ref());
        let mut lines: Vec<String> =
            parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines.join("\n")
    }

    #[test]
    fn what_is_for_one_hop_stays_there() {
        let request = Request::get("/x")
            .header("host", "gate")
            .header("connection", "keep-alive, x-private")
            .header("x-private", "1")
            .header("keep-alive", "timeout=5")
            .header("te", "trailers, gzip")
            .header("transfer-encoding", "chunked")
            .header("content-length", "7")
            .header("upgrade", "h2c")
            .header("expect", "100-continue")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-forwarded-prefix", "/evil")
            .header("accept", "*/*");
        let expected = "accept: */*\nhost: gate\nte: trailers\nx-forwarded-for: 1.2.3.4\nx-forwarded-host: gate\n\
                        x-forwarded-prefix: /p/s\nx-forwarded-proto: http";
        assert_eq!(sent(request, "1.2.3.4", false), expected);
    }

    #[test]
    fn a_proxy_on_this_machine_is_believed_and_upgrades_go_through() {
        let request = Request::get("/x")
            .header("host", "gate")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-forwarded-proto", "https");
        let expected = "connection: upgrade\nhost: gate\nupgrade: websocket\nx-forwarded-for: 6.6.6.6, 127.0.0.1\n\
                        x-forwarded-host: gate\nx-forwarded-prefix: /p/s\nx-forwarded-proto: https";
        assert_eq!(sent(request, "127.0.0.1", true), expected);
        let http2 =
            Request::get("http://gate/x").version(Version::HTTP_2).header("cookie", "a=1").header("cookie", "b=2");
        let expected = "cookie: a=1; b=2\nhost: gate\nx-forwarded-for: ::1\nx-forwarded-host: gate\n\
                        x-forwarded-prefix: /p/s\nx-forwarded-proto: http";
        assert_eq!(sent(http2, "::1", false), expected);
    }

    #[test]
    fn tokens_are_found_where_they_may_be() {
        let found = |name: &str, value: &str| {
            let headers =
                HeaderMap::from_iter([(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap())]);
            token(&headers).map(|(token, at)| format!("{token} in {at}"))
        };
        assert_eq!(found("authorization", "Bearer t").as_deref(), Some("t in authorization"));
        assert_eq!(found("authorization", "bearer  t ").as_deref(), Some("t in authorization"));
        assert_eq!(found("x-tombolo-token", "t").as_deref(), Some("t in x-tombolo-token"));
        assert_eq!(found("authorization", "Basic dDp0"), None);
        assert_eq!(found("cookie", "t"), None);
    }
}
