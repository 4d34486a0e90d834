//! A run of the product: a profile, a seed, a verdict with a report.
//!
//! * [`profile`]: what is done and expected, as TOML.
//! * [`plan`]: what is done to whom, decided by the seed. Pure.
//! * [`observe`]: who says that it leads, again and again.
//! * [`driver`]: puts cluster, traffic, faults and checks together.

mod driver;
mod observe;
mod plan;
pub mod profile;

pub use self::{
    driver::{Finished, Order, Until, Watcher, run},
    profile::Profile,
};
