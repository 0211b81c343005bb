# Every target is a line or two that a person could type. `make help` lists them.

ARCH   := x86_64
TARGET := $(ARCH)-unknown-linux-musl
OUT    := out/$(ARCH)
BIN    := $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release

.PHONY: all deps programs keys initramfs cpukernel fetch usb netboot bundle qemu demo docs test bench clean help

all: cpukernel ## programs, keys, initramfs and kernel, in out/x86_64

deps: ## install what is missing (Debian, Ubuntu), or say what
	@scripts/deps build kernel qemu media test

programs: ## cpu, cpud and mkimage, static
	@scripts/deps build
	cargo build --release --target $(TARGET) -p cpu-client -p cpud -p mkimage
	@install -D -C -t $(OUT) $(BIN)/cpu $(BIN)/cpud $(BIN)/mkimage

keys: programs ## the user's key and the machine's, unless they exist
	@test -e $(OUT)/cpu_rsa || $(OUT)/mkimage keys -o $(OUT)

initramfs: keys ## cpud and the keys, as the machine's root
	$(OUT)/mkimage initramfs -o $(OUT)

fetch: programs ## the kernel's source, into the cache
	@scripts/deps kernel
	$(OUT)/mkimage fetch

cpukernel: initramfs ## the kernel with the initramfs inside
	@scripts/deps kernel
	$(OUT)/mkimage kernel -o $(OUT)

usb: cpukernel ## the image for a stick: dd it, or see out/x86_64/mkimage usb --help
	@scripts/deps media
	$(OUT)/mkimage usb -o $(OUT)

netboot: cpukernel ## what a server needs to boot machines from the network
	$(OUT)/mkimage netboot -o $(OUT)

bundle: cpukernel ## the download: everything to try it with nothing but QEMU
	@scripts/deps media
	$(OUT)/mkimage bundle -o $(OUT)

qemu: cpukernel ## boot the machine in this terminal; Ctrl-C ends it
	@scripts/deps qemu
	@echo "When it serves, in another terminal: cd $(OUT) && ./cpu -key cpu_rsa localhost date"
	@qemu/run

demo: cpukernel ## boot a machine, run commands on it with this machine's files
	@scripts/deps qemu
	@qemu/demo

docs: ## manual pages, and completions for bash, zsh and fish, in out/x86_64
	for program in cpu cpud mkimage; do cargo run -q --features docs --bin $$program -- write-docs $(OUT) || exit; done

test: cpukernel ## format, lints, unit tests, end-to-end tests
	@scripts/deps qemu media test
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if cargo nextest --version >/dev/null 2>&1; then set -x; cargo nextest run --workspace --exclude e2e; \
	else set -x; cargo test --workspace --exclude e2e; fi
	cargo test -p e2e

bench: cpukernel ## times of commands on a machine, as ratios
	@scripts/deps qemu test
	cargo run --release -p e2e --bin bench

clean: ## remove out/ and target/, keys too; the cache (~/.cache/cpu-appliance) stays
	cargo clean
	rm -rf out

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
