//! The operators' token: a secret out of a file, kept as its hash.

use std::fmt;

use subtle::ConstantTimeEq as _;

/// The least length of a token: 32 characters of hexadecimal digits are 128 bits.
const TOKEN_CHARS_MIN: usize = 32;
/// The greatest.
const TOKEN_CHARS_MAX: usize = 512;

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is too short to be a secret, or too long.
    #[error(
        "an admin token has {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} characters; make one with `openssl rand -hex 32`"
    )]
    Length,
    /// It has characters that no header field carries.
    #[error("an admin token is one line of printable ASCII without spaces")]
    Characters,
}

/// The operators' token, of which only the hash is kept.
#[derive(Clone)]
pub struct AdminToken(blake3::Hash);

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

impl AdminToken {
    /// Reads what a token file holds; white space around it does not count.
    ///
    /// # Errors
    /// When that is no token.
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if !(TOKEN_CHARS_MIN..=TOKEN_CHARS_MAX).contains(&text.len()) {
            return Err(TokenError::Length);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Characters);
        }
        Ok(Self(blake3::hash(text.as_bytes())))
    }

    /// Whether `offered` is it; takes as long for a near miss as for any other.
    pub(super) fn is(&self, offered: &str) -> bool {
        blake3::hash(offered.as_bytes()).as_bytes().ct_eq(self.0.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_it() {
        let text = "0123456789abcdef".repeat(2);
        let token = AdminToken::from_text(&format!("{text}\n")).unwrap();
        assert!(token.is(&text));
        assert!(!token.is(&text[1..]) && !token.is("") && !token.is(&text.to_uppercase()));
        assert_eq!(format!("{token:?}"), "AdminToken(…)");
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let refusal = |text: &str| AdminToken::from_text(text).map(drop);
        assert_eq!(refusal(""), Err(TokenError::Length));
        assert_eq!(refusal(&"x".repeat(31)), Err(TokenError::Length));
        assert_eq!(refusal(&"x".repeat(513)), Err(TokenError::Length));
        assert_eq!(refusal(&"x ".repeat(20)), Err(TokenError::Characters));
        assert_eq!(refusal(&"ä".repeat(20)), Err(TokenError::Characters));
    }
}
