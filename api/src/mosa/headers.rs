//! The header rules of every MOSA call.

use std::time::Duration;

use heliograph_cluster::ApiKey;
use http::{HeaderMap, header};

use crate::problem::{Code, Problem};

/// The longest token looked at; keys of this cluster have 60 characters.
const TOKEN_BYTES_MAX: usize = 512;

/// The request's own time, in Unix seconds.
pub(crate) const TIMESTAMP: &str = "x-mosa-timestamp";

/// 406 unless `Accept` admits `application/json`.
pub(crate) fn check_accept(headers: &HeaderMap) -> Result<(), Problem> {
    let mut fields = headers.get_all(header::ACCEPT).iter().peekable();
    if fields.peek().is_none() {
        return Ok(());
    }
    let mut admitted = fields.filter_map(|field| field.to_str().ok()).flat_map(|f| f.split(','));
    if admitted.any(admits_json) { Ok(()) } else { Err(Code::NotAcceptable.into()) }
}

fn admits_json(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or("");
    let refused = parts.any(|parameter| {
        parameter.split_once('=').is_some_and(|(name, q)| {
            name.trim().eq_ignore_ascii_case("q") && q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0)
        })
    });
    // An empty field says nothing about what is wanted.
    let matches = ["", "*/*", "application/*", "application/json"]
        .iter()
        .any(|known| media.eq_ignore_ascii_case(known));
    matches && !refused
}

/// 415 unless the body is JSON in UTF-8.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let Some(text) = text else { return Err(Code::UnsupportedMediaType.into()) };
    let mut parts = text.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|media| media.eq_ignore_ascii_case("application/json"));
    let is_utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            let value = value.trim().trim_matches('"');
            value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
        }
        _ => true,
    });
    if is_json && is_utf8 { Ok(()) } else { Err(Code::UnsupportedMediaType.into()) }
}

/// 401 unless `X-MOSA-Timestamp` is within `skew` of `now_ms`. Answers the text as it was sent.
pub(crate) fn check_timestamp(
    headers: &HeaderMap,
    now_ms: u64,
    skew: Duration,
) -> Result<&str, Problem> {
    let now = now_ms / 1000;
    let refuse = |code: Code| Problem::from(code).server_time(now);
    let value = headers.get(TIMESTAMP).ok_or_else(|| refuse(Code::TimestampMissing))?;
    let invalid = || refuse(Code::TimestampInvalid);
    let text = value.to_str().map_err(|_| invalid())?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let seconds: u64 = text.parse().map_err(|_| invalid())?;
    if seconds.abs_diff(now) > skew.as_secs() {
        return Err(refuse(Code::TimestampSkewed));
    }
    Ok(text)
}

/// 401 unless there is a bearer token. Whether it is valid, the cluster knows.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<ApiKey, Problem> {
    let value = headers.get(header::AUTHORIZATION).ok_or(Code::TokenMissing)?;
    let text = value.to_str().map_err(|_| Code::TokenInvalid)?;
    let (scheme, token) = text.split_once(' ').ok_or(Code::TokenMissing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Code::TokenMissing.into());
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Code::TokenInvalid.into());
    }
    Ok(ApiKey::from_text(token))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn accept_must_admit_json() {
        assert!(check_accept(&HeaderMap::new()).is_ok());
        for fine in
            ["*/*", "application/json", "text/html, application/*;q=0.1", "Application/JSON"]
        {
            assert!(check_accept(&with("accept", fine)).is_ok(), "{fine}");
        }
        for bad in ["text/html", "application/json;q=0", "image/*", "application/jsonp"] {
            let problem = check_accept(&with("accept", bad)).unwrap_err();
            assert_eq!(problem.code(), Code::NotAcceptable, "{bad}");
        }
    }

    #[test]
    fn content_type_must_be_json_in_utf8() {
        for fine in ["application/json", "application/json; charset=UTF-8", "APPLICATION/JSON"] {
            assert!(check_content_type(&with("content-type", fine)).is_ok(), "{fine}");
        }
        for bad in ["text/plain", "application/json; charset=latin1", "application/jsonx", ""] {
            assert!(check_content_type(&with("content-type", bad)).is_err(), "{bad}");
        }
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }

    #[test]
    fn timestamp_must_be_within_the_skew() {
        let skew = Duration::from_secs(300);
        let check = |text: &str| {
            check_timestamp(&with(TIMESTAMP, text), 1_000_000, skew)
                .map(str::to_owned)
                .map_err(|problem| problem.code())
        };
        assert_eq!(check("1000"), Ok("1000".to_owned()));
        assert!(check("1300").is_ok() && check("700").is_ok());
        assert_eq!(check("1301"), Err(Code::TimestampSkewed));
        assert_eq!(check("699"), Err(Code::TimestampSkewed));
        for bad in ["", "abc", "-5", "1e3", "99999999999999999999999", "1000.5", "+1000"] {
            assert_eq!(check(bad), Err(Code::TimestampInvalid), "{bad}");
        }
        let missing = check_timestamp(&HeaderMap::new(), 0, skew).unwrap_err();
        assert_eq!(missing.code(), Code::TimestampMissing);
    }

    #[test]
    fn bearer_is_found_whatever_its_case() {
        let token = bearer(&with("authorization", "bearer  abc")).unwrap();
        assert_eq!(token.expose(), "abc");
        for (bad, code) in [
            ("Basic abc", Code::TokenMissing),
            ("Bearer", Code::TokenMissing),
            ("Bearer ", Code::TokenMissing),
        ] {
            assert_eq!(bearer(&with("authorization", bad)).unwrap_err().code(), code, "{bad}");
        }
        let long = format!("Bearer {}", "x".repeat(10_000));
        let problem = bearer(&with("authorization", &long)).unwrap_err();
        assert_eq!(problem.code(), Code::TokenInvalid);
    }
}
