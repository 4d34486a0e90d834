//! Message priorities.

use serde::{Deserialize, Serialize};

/// How many priorities there are.
pub const PRIORITIES: usize = 4;

/// A message's priority; the higher is delivered first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u8", into = "u8")]
pub enum Priority {
    /// 0.
    Low,
    /// 1, where the sender says nothing.
    #[default]
    Normal,
    /// 2.
    High,
    /// 3.
    Urgent,
}

impl Priority {
    /// All, the highest first.
    pub const ALL: [Self; PRIORITIES] = [Self::Urgent, Self::High, Self::Normal, Self::Low];

    /// 0 (low) to 3 (urgent).
    pub fn level(self) -> u8 {
        self.into()
    }

    /// The word used on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => 0,
            Priority::Normal => 1,
            Priority::High => 2,
            Priority::Urgent => 3,
        }
    }
}

impl TryFrom<u8> for Priority {
    type Error = &'static str;
    fn try_from(level: u8) -> Result<Self, Self::Error> {
        match level {
            0 => Ok(Self::Low),
            1 => Ok(Self::Normal),
            2 => Ok(Self::High),
            3 => Ok(Self::Urgent),
            _ => Err("priority must be 0 to 3"),
        }
    }
}
