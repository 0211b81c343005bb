//! The parts of `cpu` that tests and benchmarks use too.

pub mod export;
