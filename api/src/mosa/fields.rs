//! JSON objects from clients: each field is judged by itself and named when it is wrong.

use std::borrow::Cow;

use heliograph_cluster::model::{DeviceId, IdError, MessageId, Priority};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::problem::{Code, FieldError, Problem};

/// Fields of one object; a phone sends below ten.
const FIELDS_MAX: usize = 256;

/// A JSON object whose values are not yet parsed.
#[derive(Debug)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    if fields.len() == FIELDS_MAX {
                        return Err(serde::de::Error::custom("too many fields"));
                    }
                    fields.push((name, value));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Object<'a> {
    /// Parses a body.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Problem> {
        serde_json::from_slice(bytes).map_err(|error| {
            Problem::from(Code::BadJson).detail(format!(
                "Send one JSON object in UTF-8; line {}, column {} is not.",
                error.line(),
                error.column()
            ))
        })
    }

    /// All fields.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    /// A field's value; the last one where it comes twice; `null` is absent.
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().rev().find(|(field, _)| field == name)?;
        (value.get() != "null").then_some(*value)
    }

    /// Whether the field is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// An optional field of any type that serde knows. `expected` says what it must be.
    pub(crate) fn optional<T: Deserialize<'a>>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, FieldError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map(Some).map_err(|_| field(name, "wrong_type", expected))
    }

    /// An optional string.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, FieldError> {
        Ok(self.optional::<Text<'a>>(name, "must be a string")?.map(|text| text.0))
    }

    /// A string that must be there.
    pub(crate) fn required_text(&self, name: &'static str) -> Result<Cow<'a, str>, FieldError> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    /// A device id that must be there.
    pub(crate) fn device(&self, name: &'static str) -> Result<DeviceId, FieldError> {
        device(name, &self.required_text(name)?)
    }

    /// A message id, if there is one.
    pub(crate) fn message_id(&self, name: &'static str) -> Result<Option<MessageId>, FieldError> {
        self.text(name)?.map(|text| message_id(name, &text)).transpose()
    }

    /// A priority as word, number, or number in a string; normal where there is none.
    pub(crate) fn priority(&self, name: &'static str) -> Result<Priority, FieldError> {
        let Some(value) = self.get(name) else { return Ok(Priority::default()) };
        match serde_json::from_str::<Text<'_>>(value.get()) {
            Ok(Text(word)) => parse_priority(&word),
            Err(_) => parse_priority(value.get()),
        }
        .ok_or_else(|| {
            field(name, "unknown_value", "must be low, normal, high or urgent, or 0 to 3")
        })
    }
}

/// A priority from a word or digit.
pub(crate) fn parse_priority(text: &str) -> Option<Priority> {
    Priority::ALL.into_iter().find(|priority| {
        text.eq_ignore_ascii_case(priority.name())
            || text.as_bytes() == [b'0' + priority.level()].as_slice()
    })
}

/// A device id from text.
pub(crate) fn device(name: &'static str, text: &str) -> Result<DeviceId, FieldError> {
    DeviceId::new(text).map_err(|error| id_error(name, error))
}

/// A message id from text.
pub(crate) fn message_id(name: &'static str, text: &str) -> Result<MessageId, FieldError> {
    MessageId::new(text).map_err(|error| id_error(name, error))
}

fn id_error(name: &'static str, error: IdError) -> FieldError {
    let code = match error {
        IdError::TooLong { .. } => "too_long",
        IdError::Empty | IdError::Control => "invalid",
    };
    FieldError { field: name, code, detail: error.to_string().into() }
}

/// A field error.
pub(crate) fn field(
    name: &'static str,
    code: &'static str,
    detail: impl Into<Cow<'static, str>>,
) -> FieldError {
    FieldError { field: name, code, detail: detail.into() }
}

/// The error of a field that must be there.
pub(crate) fn missing(name: &'static str) -> FieldError {
    field(name, "missing", "must be present")
}

/// Gathers the errors of all fields, so that a client learns of all at once.
#[derive(Debug, Default)]
pub(crate) struct Gather(Vec<FieldError>);

impl Gather {
    /// The value, or `None` with its error noted.
    pub(crate) fn take<T>(&mut self, result: Result<T, FieldError>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// Notes an error.
    pub(crate) fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// The problem, when there were errors.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.into()) }
    }
}
