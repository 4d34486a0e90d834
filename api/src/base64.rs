//! Base64 as clients write it: standard or URL-safe alphabet, padded or not, otherwise strict.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// The text is not Base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be Base64 (standard or URL-safe alphabet, no white space)")]
pub(crate) struct NotBase64;

/// Decodes `text`; one alphabet at a time, no white space, no stray bits at the end.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, NotBase64> {
    let url_safe = text.bytes().any(|byte| matches!(byte, b'-' | b'_'));
    let engine = if url_safe { &URL_SAFE } else { &STANDARD };
    engine.decode(text).map_err(|_| NotBase64)
}

/// Encodes in the standard alphabet, padded, onto `out`.
pub(crate) fn encode_into(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + base64::encoded_len(bytes.len(), true).unwrap_or(0), 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    debug_assert_eq!(start + written, out.len());
}

/// Encodes in the standard alphabet, padded.
pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_alphabets_with_and_without_padding_decode() {
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            assert_eq!(decode(text), Ok(vec![0xFB, 0xFF]), "{text}");
        }
        assert_eq!(decode(""), Ok(vec![]));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["+_8=", "abc d", "a", "ab=c", "====", "/9", "aGk=\n", "é", "ab=", "abc=="] {
            assert_eq!(decode(text), Err(NotBase64), "{text}");
        }
    }

    #[test]
    fn encoding_appends() {
        let mut out = b"x".to_vec();
        encode_into(&[0xFB, 0xFF], &mut out);
        assert_eq!(out, b"x+/8=");
    }
}
