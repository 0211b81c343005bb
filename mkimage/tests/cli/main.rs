//! The program as a user runs it, on inputs that are there in a moment: what it promises, and what it
//! refuses.

mod added_keys;
mod bombs;
mod inputs;
mod keys;
mod plan;
mod promises;
mod refusals;
mod removed_keys;
