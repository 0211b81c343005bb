# Every target is a line or two that a person could type. `make help` lists the targets.

ARCH   := x86_64
ifeq ($(filter $(ARCH),x86_64 aarch64),)
$(error ARCH=$(ARCH): write x86_64 or aarch64; docs/architectures.md has the others)
endif
ifneq ($(words $(OUT)),$(if $(OUT),1,0))
$(error OUT=$(OUT): make takes names apart at blanks; choose a directory without)
endif
TARGET := $(ARCH)-unknown-linux-musl
OUT    := out/$(ARCH)
# A profile of Cargo.toml.
PROFILE := release
# Where bytes count.
CPUD_PROFILE = $(PROFILE:release=small)
BIN    = $(or $(CARGO_TARGET_DIR),target)/$(TARGET)
HOST   := $(shell uname -m)
# mkimage is built for the host, whatever architecture it makes images for.
MKIMAGE = out/$(HOST)/mkimage

# For another architecture: Debian's cross compiler for C code, and Rust's own linker.
ifneq ($(ARCH),$(HOST))
export CC_$(subst -,_,$(TARGET)) := $(ARCH)-linux-gnu-gcc
export AR_$(subst -,_,$(TARGET)) := $(ARCH)-linux-gnu-ar
export CARGO_TARGET_$(shell echo $(TARGET) | tr a-z- A-Z_)_LINKER := rust-lld
CROSS  := cross-$(ARCH)
endif

.PHONY: all deps cpud programs keys initramfs cpukernel flash flash-demo hardened fetch usb stick netboot bundle qemu demo carry install uninstall dist check-packages check-carry docs check test test-all bench bench-session bench-9p bench-path bench-stick conformance soak clean help aarch64 aarch64-test-program

all: cpukernel ## programs, keys, initramfs and kernel, in out/x86_64

deps: ## install what all targets need (Debian, Ubuntu), or list what is missing
	@scripts/deps $(TEST_DEPS) suites bench

# For x86_64 only: the configurations of the flash and hardened kernels, and the stick with Debian's kernel.
ifneq ($(ARCH),x86_64)
ifneq ($(filter flash flash-demo hardened stick,$(MAKECMDGOALS)),)
$(error $(filter flash flash-demo hardened stick,$(MAKECMDGOALS)): there is none for $(ARCH), only for x86_64)
endif
endif

cpud: ## cpud, static; for another architecture also the mkimage that makes its images, unless MKIMAGE= names one
	@scripts/deps build $(CROSS)
	cargo build --profile $(CPUD_PROFILE) --target $(TARGET) -p cpud
	@install -D -C -t $(OUT) $(BIN)/$(CPUD_PROFILE)/cpud
ifeq ($(and $(CROSS),$(filter file,$(origin MKIMAGE))),file)
	$(MAKE) ARCH=$(HOST) OUT=out/$(HOST) PROFILE=release programs
endif

programs: cpud ## cpu, cpud and mkimage, static
	cargo build --profile $(PROFILE) --target $(TARGET) -p cpu-client -p mkimage
	@install -D -C -t $(OUT) $(BIN)/$(PROFILE)/cpu $(BIN)/$(PROFILE)/mkimage

keys: $(if $(CROSS),cpud,programs) ## the user's key and the machine's host key, unless they exist
	@# The demo and the tests log in with nobody there to type a passphrase.
	@test -e $(OUT)/cpu_rsa || $(MKIMAGE) keys --no-passphrase -o $(OUT)

initramfs: keys ## cpud and the keys, as the machine's root file system
	@# Whoever has made it with other keys or with --isolate keeps them.
	$(MKIMAGE) initramfs --again --arch $(ARCH) -o $(OUT)

flash: initramfs ## a kernel for flash ROMs, in out/flash (docs/flash.md)
	@scripts/deps kernel
	$(MKIMAGE) kernel -o out/flash --initramfs $(OUT)/initramfs.cpio.xz --config common,flash --max-size 2883584

# What the ROM of Debian's package ovmf starts a kernel without.
FLASH_REMOVE := network,usb,disks,setup,screen,tpm,EbcDxe,*ShellCommand,BootScriptExecutorDxe,Ps2KeyboardDxe,PlatformDxe,$\
QemuKernelLoaderFsDxe,EnglishDxe,NullMemoryTestDxe,SioBusDxe,AmdSevDxe,VirtioRngDxe
flash-demo: flash ## boot a machine from nothing but a flash chip with the kernel in it, run commands on it
	@scripts/deps qemu firmware
	$(MKIMAGE) flash --rom /usr/share/OVMF/OVMF_CODE_4M.fd --kernel out/flash/cpukernel --remove '$(FLASH_REMOVE)' -o out/flash/rom.img
	@OUT=$(OUT) ROM=$(CURDIR)/out/flash/rom.img qemu/demo

hardened: initramfs ## a locked-down kernel for machines with everything on USB, in out/hardened
	@scripts/deps kernel
	$(MKIMAGE) kernel -o out/hardened --initramfs $(OUT)/initramfs.cpio.xz --config common,usb --hardened

fetch: programs ## download the kernel's source into the cache
	@scripts/deps kernel
	$(MKIMAGE) fetch

cpukernel: initramfs ## the kernel with the initramfs inside
	@scripts/deps kernel $(CROSS)
	$(MKIMAGE) kernel --arch $(ARCH) -o $(OUT)

usb: cpukernel ## the image of a stick: write it with dd, or see out/x86_64/mkimage usb --help
	@scripts/deps media
	$(MKIMAGE) usb --arch $(ARCH) -o $(OUT)

# Where scripts/deps puts Debian's kernel.
DEBS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cpu-appliance/debs
STICK_PROFILE := quick
stick: ## the image of a stick in two minutes, with Debian's kernel (DEB=FILE for another package), in out/quick
	@scripts/deps build media $(if $(DEB),,distro)
	$(MAKE) PROFILE=$(STICK_PROFILE) OUT=out/quick MKIMAGE=out/quick/mkimage initramfs
	out/quick/mkimage kernel -o out/quick --from-deb "$(or $(DEB),$$(ls $(DEBS)/linux-image-6.12*_amd64.deb | tail -n 1))"
	out/quick/mkimage usb -o out/quick

netboot: cpukernel ## the files that a server needs to boot machines from the network
	$(MKIMAGE) netboot --arch $(ARCH) -o $(OUT)

bundle: programs cpukernel ## a download for others: everything to try cpu with nothing but QEMU
	@scripts/deps media
	$(MKIMAGE) bundle --arch $(ARCH) -o $(OUT)

qemu: cpukernel ## boot the machine in this terminal; Ctrl-C ends it
	@scripts/deps qemu $(CROSS)
	@$(MKIMAGE) qemu --arch $(ARCH) -o $(OUT)

# With programs that compile fast, and a kernel that need not be compiled where there is one.
demo: ## boot a machine, run commands on it with this computer's files: two minutes, in out/quick
	@scripts/deps build qemu
	$(MAKE) PROFILE=$(STICK_PROFILE) OUT=out/quick MKIMAGE=out/quick/mkimage initramfs
	out/quick/mkimage kernel -o out/quick --kernel-from auto
	@OUT=out/quick qemu/demo

# mkimage for those who have neither Rust nor a compiler.
carry: ## mkimage with cpu and cpud for both architectures inside, in out/carry
	@scripts/deps build cross-aarch64 dist
	$(MAKE) programs
	$(MAKE) ARCH=aarch64 programs
	for arch in x86_64 aarch64; do for program in cpu cpud; do \
		mkdir -p out/carry/$$arch && xz -9ek --check=crc32 -c out/$$arch/$$program >out/carry/$$arch/$$program.xz || exit; \
	done; done
	MKIMAGE_CARRY=$(CURDIR)/out/carry cargo build --profile $(PROFILE) --target $(TARGET) -p mkimage --features carry
	@install -D -C -t out/carry $(BIN)/$(PROFILE)/mkimage

PREFIX := /usr/local
MANDIR = $(DESTDIR)$(PREFIX)/share/man
install: ## the programs, manual pages, completions and cpud's service of out/x86_64, beneath PREFIX and DESTDIR
	@test -x $(OUT)/cpu -a -e $(OUT)/man/cpu.1 || { echo "install: nothing is built: run make programs docs first, not as root" >&2; exit 1; }
	install -D -t $(DESTDIR)$(PREFIX)/bin $(OUT)/cpu $(OUT)/mkimage
	install -D -t $(DESTDIR)$(PREFIX)/sbin $(OUT)/cpud
	install -D -m 644 -t $(MANDIR)/man1 $(OUT)/man/cpu.1 $(OUT)/man/mkimage.1
	install -D -m 644 -t $(MANDIR)/man8 $(OUT)/man/cpud.8
	for name in cpu cpud mkimage; do \
		install -D -m 644 $(OUT)/completions/$$name.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$name && \
		install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(OUT)/completions/_$$name && \
		install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(OUT)/completions/$$name.fish || exit; \
	done
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/sbin/cpud|$(PREFIX)/sbin/cpud|' cpud/dist/cpud.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/cpud.service

uninstall: ## what make install has installed; /etc/cpud and /var/lib/cpud stay
	cd $(DESTDIR)$(PREFIX) && rm -f bin/cpu bin/mkimage sbin/cpud lib/systemd/system/cpud.service \
		$(foreach page,man1/cpu.1 man1/mkimage.1 man8/cpud.8,share/man/$(page)) \
		$(foreach name,cpu cpud mkimage,share/bash-completion/completions/$(name) \
			share/zsh/site-functions/_$(name) share/fish/vendor_completions.d/$(name).fish)

dist: carry docs ## what a release consists of: archives, Debian packages, an OCI image and checksums, in out/dist
	@scripts/deps dist
	scripts/dist x86_64 aarch64

check-packages: programs docs ## install, use, upgrade and purge the Debian packages, on a system to throw away (scripts/fresh check-packages)
	@scripts/deps dist
	scripts/dist $(HOST)
	@scripts/check-packages

check-carry: carry ## from make carry's mkimage alone to a stick that boots
	@scripts/deps media qemu firmware
	@scripts/check-carry

docs: ## manual pages, and completions for bash, zsh and fish, in out/x86_64
	@scripts/deps build
	for program in cpu cpud mkimage; do cargo run --features docs --bin $$program -- write-docs $(OUT) || exit; done

aarch64: ## the kernel for ARM
	$(MAKE) ARCH=aarch64 cpukernel

# Everything that make test and make test-all need, so that a missing package is reported before anything is compiled.
TEST_DEPS := build check kernel qemu media distro cloud trees cross-aarch64 distro-aarch64 e2e
# scripts/test-runner gives root to the tests that need it.
check test test-all soak: export CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_UNKNOWN_LINUX_GNU_RUNNER = $(CURDIR)/scripts/test-runner

check: ## format, lints, unit and property tests, without root or a virtual machine
	@scripts/deps build check media firmware
	cargo fmt --check
	scripts/duplicate-types
	scripts/import-circles
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace --exclude e2e

# One kernel is compiled, for x86_64; the others are Debian's. The stick is made from programs that are already compiled.
# --workspace selects the same set of features as check does, so that nothing is compiled again.
test: ## check, then machines in QEMU: one kernel is compiled
	@scripts/deps $(TEST_DEPS)
	$(MAKE) check
	$(MAKE) cpukernel docs
	scripts/check-docs $(OUT)
	$(MAKE) STICK_PROFILE=release stick
	$(MAKE) ARCH=aarch64 PROFILE=quick OUT=out/quick-aarch64 initramfs
	cargo test --workspace --test local --test machine --test media

test-all: ## test, then the kernels for flash ROMs, hardened and for ARM, and other targets on a fresh system
	@scripts/deps $(TEST_DEPS) fresh
	$(MAKE) test
	$(MAKE) flash hardened
	$(MAKE) aarch64
	cargo test --workspace --test kernels
	scripts/fresh PROFILE=quick programs demo usb stick netboot bundle check-packages check-carry

reproducible: cpukernel ## make everything twice and compare byte for byte (compiles a kernel)
	@scripts/deps kernel media
	@scripts/reproducible

.PHONY: fuzz
FUZZ := session requests replies relay mirror archive rom text
FUZZ_SECONDS := 600
fuzz: ## each fuzz target for ten minutes (cargo install cargo-fuzz); FUZZ=session for one
	cd fuzz && for target in $(FUZZ); do RUSTC_BOOTSTRAP=1 cargo fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=25 || exit; done

deny: ## licences and advisories of all linked crates (cargo install cargo-deny)
	cargo deny --locked check

bench: cpukernel ## times of commands on a machine, as ratios
	@scripts/deps qemu media e2e
	cargo run --release -p e2e --bin bench

bench-session: cpukernel ## a session compared with OpenSSH's: time, bulk, round trips
	@scripts/deps qemu e2e
	cargo run --release -p e2e --bin bench-session

soak: cpukernel ## strangers, floods, kills, bombs, frozen clients for 30 minutes (SOAK_MINUTES=5), as a table (docs/reliability.md)
	@scripts/deps qemu e2e
	cargo run --release -p e2e --bin soak

conformance: cpukernel ## external test suites on a machine's files, for hours (docs/conformance.md); SUITES=git for one
	@scripts/deps qemu e2e suites
	cargo run -p e2e --bin conformance -- $(SUITES)

bench-path: cpukernel ## how often programs wait for a long path (BENCH_PATH=--help; half an hour)
	cargo run --release -p e2e --bin bench-path -- $(BENCH_PATH)

bench-9p: cpukernel ## the file server alone, then compared with diod on a machine (BENCH_9P=--help; an hour or two)
	@scripts/deps qemu e2e bench
	cargo run --release -p cpu-client --example load9p
	cargo run --release -p e2e --bin bench-9p -- $(BENCH_9P)

bench-stick: ## time the way from a clone to a stick, in a temporary directory; then boot the stick
	@scripts/deps build media distro qemu
	@scripts/bench-stick

clean: ## remove out/ and target/, keys too; the cache (~/.cache/cpu-appliance) stays
	cargo clean
	rm -rf out

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
