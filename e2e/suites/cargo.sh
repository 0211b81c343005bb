# Build and run a small crate with the toolchain in $1; change it and build it again.
export PATH=$1/bin:$PATH CARGO_HOME=$PWD/cargo RUSTC=$1/bin/rustc
unset RUSTUP_TOOLCHAIN CARGO_TARGET_DIR
cargo init -q --vcs none --name small crate
cd crate
cat > src/lib.rs <<'DONE'
//! A test crate.
/// A sum.
pub fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().sum()
}
DONE
echo 'fn main() { println!("{}", small::sum(&[1, 2, 39])); }' > src/main.rs
cargo build -q --offline
test "$(target/debug/small)" = 42
sed -i 's/sum()/sum::<u64>() + 1/' src/lib.rs
cargo build -q --offline
test "$(target/debug/small)" = 43
echo "built, ran, changed, built, ran"
