//! Load: how much, how fast, how much memory.
