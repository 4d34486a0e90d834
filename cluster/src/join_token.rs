//! The one-use token with which a node joins: what an operator carries from the cluster to the node.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::surroundings::Entropy;

/// What every join token begins with: whoever finds one knows what it is.
const PREFIX: &str = "hgj1_";
const SECRET_BYTES: usize = 32;

/// A one-use token with which a node joins, or comes back with an empty disk. The registry keeps its
/// hash alone. Never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken(String);

/// A text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a join token: one begins with {PREFIX} and is a line of 48 characters")]
pub struct NotAToken;

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(…)")
    }
}

impl JoinToken {
    /// Draws one.
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let mut secret = [0; SECRET_BYTES];
        entropy.fill(&mut secret);
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret)))
    }

    /// The text, to be shown once: a secret.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the registry keeps of it: BLAKE3 of the text.
    pub(crate) fn hash(&self) -> [u8; 32] {
        *blake3::hash(self.0.as_bytes()).as_bytes()
    }
}

impl FromStr for JoinToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let text = text.trim();
        let secret = text.strip_prefix(PREFIX).ok_or(NotAToken)?;
        let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| NotAToken)?;
        match secret.len() == SECRET_BYTES {
            true => Ok(Self(text.to_owned())),
            false => Err(NotAToken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0xAB);
        }
    }

    #[test]
    fn a_token_reads_back_and_shows_no_secret() {
        let token = JoinToken::new(&Fixed);
        let text = token.expose().to_owned();
        assert_eq!(text, "hgj1_q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s");
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("q6ur"));
        for wrong in ["", "hgj1_", &text[1..], &text[..text.len() - 1], &text.replace('q', "é")] {
            assert_eq!(wrong.parse::<JoinToken>(), Err(NotAToken), "{wrong}");
        }
    }
}
