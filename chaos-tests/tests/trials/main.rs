//! Clusters of real processes, each under one kind of trouble. One program, since each program is
//! compiled and linked for itself; the clusters take turns all the same.

mod bad_input;
mod conversation;
mod damage;
mod detects;
mod durability;
mod fail_safe;
mod kill;
mod load;
mod low_space;
mod rolling;
#[path = "../support/mod.rs"]
mod support;
