//! Senders and recipients that move between nodes and write down what they see.
//!
//! * [`letter`]: what is sent; every message of a run is unique and can be told from its id.
//! * [`sender`]: one message at a time, repeated with the same id until it is accepted.
//! * [`recipient`]: over WebSocket with explicit acknowledgement, over WebSocket as a stock client
//!   that only answers Pings, or by REST polling.
//! * [`typed`]: sending and reading with the product's own client.
//! * [`beside`]: live streams and registrations, beside the queues.
//! * [`queue`]: a run of many of them.

mod beside;
mod letter;
mod progress;
mod queue;
mod recipient;
mod sender;
mod typed;

pub use self::{
    letter::Letters,
    progress::Resumed,
    queue::{Config, Report, Workload},
};
