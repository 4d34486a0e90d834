//! What is done to a cluster, written into the history.
//!
//! * [`Fault`] is the list of all that can be done; [`Nemesis`] does it, and says what came of it.
//! * [`preload`] builds the library that makes disks fail, and sets it for one node.
//! * [`power`] cuts the power; [`damage`] changes files of a node that does not run.
//! * [`netfilter`] drops packets in an own network namespace; [`Links`] are proxies that lose, delay
//!   and change them.
//! * [`clock`] makes wall clocks jump.

mod beat;
pub mod clock;
pub mod damage;
mod fault;
mod impairment;
mod links;
mod nemesis;
pub mod netfilter;
pub mod power;
pub mod preload;
mod storm;

pub use self::{
    clock::FaultyClock,
    damage::Damage,
    fault::{Build, Effect, Fault},
    impairment::{Fate, Impairment},
    links::{LinkCounts, Links},
    nemesis::{Inflicted, Nemesis},
    power::{CutReport, Unsynced},
    preload::FaultyDisk,
};
