//! The parts of `cpu` that tests and benchmarks share with it.

pub mod export;
