//! The MOSA gateway: REST routes, header rules, WebSocket frames.

mod auth;
mod config;
mod fields;
mod gateway;
mod headers;
mod messages;
mod rate;
mod route;
mod socket;
mod status;
mod wire;

pub(crate) use auth::registration_text;
pub use config::{ConfigError, MosaConfig, RateConfig, RegistrationMode};
pub(crate) use gateway::{Gateway, json};
pub(crate) use headers::bearer;
pub(crate) use rate::RateLimiter;
pub(crate) use wire::generate_message_id;

/// Judges the input as every request that has a body; what is good obeys the limits, and fields
/// written again read the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(input: &[u8]) {
    use heliograph_cluster::model::CONTENT_BYTES_MAX;
    let Ok(object) = fields::Object::parse(input) else { return };
    let ttl_max = std::time::Duration::from_secs(1000);
    if let Ok(request) = wire::MessageRequest::parse(&object, || ttl_max) {
        assert!(!request.content.is_empty() && request.content.len() <= CONTENT_BYTES_MAX);
        assert!(request.ttl.is_none_or(|ttl| !ttl.is_zero() && ttl <= ttl_max));
    }
    if let Ok(items) = wire::parse_acknowledgement(&object) {
        assert!(items.len() <= wire::ACK_ITEMS_MAX);
    }
    auth::fuzz(&object);
    let mut again = vec![b'{'];
    for (index, (name, value)) in object.fields().enumerate() {
        if index > 0 {
            again.push(b',');
        }
        wire::write_text(&mut again, name);
        again.push(b':');
        again.extend_from_slice(value.get().as_bytes());
    }
    again.push(b'}');
    let read = fields::Object::parse(&again).expect("what was read is written");
    let pairs = |object: &fields::Object<'_>| -> Vec<(String, String)> {
        object.fields().map(|(name, value)| (name.to_owned(), value.get().to_owned())).collect()
    };
    assert_eq!(pairs(&read), pairs(&object));
}
