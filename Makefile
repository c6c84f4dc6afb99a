# Two commands: `make demo` shows the main job on real node processes, `make test` runs the tests.
# Both install what is missing when run as root; otherwise they name the one command to run.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# What RocksDB needs to be compiled, and what the tests run. The cross libraries and qemu let one machine run
# a node of another platform.
PACKAGES := clang libclang-dev make
CHAOS_PACKAGES := iproute2 util-linux
TEST_PACKAGES := $(CHAOS_PACKAGES) qemu-user-static libc6-arm64-cross libstdc++6-arm64-cross libgcc-s1-arm64-cross libatomic1-arm64-cross
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Most of a test's time is waiting, for a process, a clock or a disk.
SEEDS ?= 100
JOBS := $(shell nproc)
TESTS_AT_ONCE := $(shell expr 2 '*' $$(nproc))

# How long `make chaos` goes on.
MINUTES := 30

.PHONY: help setup build demo docs test simulate hunt chaos

help:
	@echo "make demo   five nodes on this machine, and the life of some updates (about half a minute)"
	@echo "make test   all tests"
	@echo "make chaos  kills, pauses, cuts and full disks under a stream of updates, for MINUTES=30; as root on hosts of their own"
	@echo "make docs   docs/CLI.md anew, from the commands' own descriptions"
	@echo "make setup  install what both need"
	@echo "make simulate SEEDS=1000   whole clusters on virtual time, see docs/SIMULATION.md"
	@echo "make hunt   plants known bugs, and sees whether the simulation finds them"

setup:
	@tests/setup/packages $(PACKAGES)

build: setup
	cargo build --workspace --locked

demo: build
	"$(TARGET)/debug/tribune" demo

docs: build
	"$(TARGET)/debug/tribune" markdown > docs/CLI.md

test: setup
	@tests/setup/packages $(TEST_PACKAGES)
	@tests/setup/wheels
	@tests/setup/nextest
	@# All at once: what the tests depend on has further features, with which the node would be compiled a second time.
	cargo build --workspace --locked --all-targets
	cargo nextest run --workspace --locked --test-threads $(TESTS_AT_ONCE)
	cargo test --workspace --locked --doc

simulate: build
	"$(TARGET)/debug/tribune-simulations" sweep --seeds "1..$$(( $(SEEDS) + 1 ))" --jobs $(JOBS) --table

hunt: build
	"$(TARGET)/debug/tribune-simulations" hunt --jobs $(JOBS)

chaos: build
	@tests/setup/packages $(CHAOS_PACKAGES)
	TRIBUNE_CHAOS_MINUTES=$(MINUTES) cargo test --locked --workspace --test chaos -- --nocapture whatever_breaks
