# The front door: each target only calls the host programs. `make help` lists them.
#
# Variables of run-arm64: SCRIPT=file.py ARGS='its arguments' CPUS=4 MEM=1G CPU=cortex-a53 GIC=3
# APPEND='kernel command line' PIP_INDEX=url CA_BUNDLE=file.pem QEMU_ARGS='-device virtio-rng-device'
# Variables of image-arm64: REPL_TOKEN=secret REPL_CERT=cert.pem REPL_KEY=key.pem
# Variables of put and get: FILE=from TO=to ADDRESS=127.0.0.1:5556
# Variables of test-cpython: ONLY='test_os test_asyncio' SYSTEM=piton|linux|both JOBS=2 LIMIT=seconds FRESH=1 FAILED=1
# STALE=keep
# Variables of packages: PACKAGES='requests numpy'

CARGO  ?= cargo
BOARD  := $(CARGO) board
TARGET := aarch64-unknown-none-softfloat
# What builds for the bare target only, and what boots the image: the rest is tested on the host.
BARE   := kernel arch-aarch64
HOST   := --workspace $(BARE:%=--exclude %)

RUN = $(if $(SCRIPT),--script '$(SCRIPT)') $(if $(CPUS),--cpus '$(CPUS)') $(if $(MEM),--memory '$(MEM)') \
      $(if $(CPU),--cpu '$(CPU)') $(if $(GIC),--gic '$(GIC)') $(if $(APPEND),--append '$(APPEND)') \
      $(if $(PIP_INDEX),--pip-index '$(PIP_INDEX)') $(if $(CA_BUNDLE),--ca-bundle '$(CA_BUNDLE)') \
      $(foreach arg,$(QEMU_ARGS),--qemu-arg='$(arg)') $(if $(ARGS),-- $(ARGS))

SUITE = $(if $(ONLY),--only '$(ONLY)') $(if $(SYSTEM),--system '$(SYSTEM)') $(if $(JOBS),--jobs '$(JOBS)') \
        $(if $(LIMIT),--limit '$(LIMIT)') $(if $(FRESH),--fresh) $(if $(FAILED),--failed) \
        $(if $(filter keep,$(STALE)),--keep-stale)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-tests image-arm64 run-arm64 put get lint test test-cpython fuzz robustness soak packages stress bench clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "make %-13s %s\n", $$1, $$2 }'

setup: ## find or install what is needed; the other targets do this first
	@sh board/setup.sh

setup-tests: ## the same, with what the tests need beside
	@sh board/setup.sh tests

image-arm64: setup ## make build/arm64/kernel8.img: kernel, symbols, root image
	@$(if $(REPL_TOKEN),PITON_REPL_TOKEN='$(REPL_TOKEN)') $(if $(REPL_CERT),PITON_REPL_CERT='$(REPL_CERT)') \
	    $(if $(REPL_KEY),PITON_REPL_KEY='$(REPL_KEY)') $(CARGO) run --quiet --package cpython -- build >&2
	@$(BOARD) image arm64 >&2

run-arm64: image-arm64 ## boot it in QEMU to `>>>`; SCRIPT=f.py ARGS= CPUS= MEM= CPU= GIC= APPEND= QEMU_ARGS=
	@$(BOARD) run qemu-virt $(RUN)

put: setup ## copy FILE= of this machine to TO= on the running one; ADDRESS=127.0.0.1:5556
	@$(BOARD) put '$(FILE)' '$(or $(TO),.)' $(if $(ADDRESS),--address '$(ADDRESS)')

get: setup ## copy FILE= of the running machine to TO= on this one
	@$(BOARD) get '$(FILE)' '$(or $(TO),.)' $(if $(ADDRESS),--address '$(ADDRESS)')

lint: setup ## formatting, clippy, who imports whom
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --quiet $(HOST) --all-targets -- --deny warnings
	@$(CARGO) clippy --quiet --release $(BARE:%=--package %) --target $(TARGET) -- --deny warnings
	@$(BOARD) check-layers

test: setup-tests lint image-arm64 ## lint, host unit tests, then the tests that boot the image
	@PYTHONPATH=python python3 -B -m unittest discover --start-directory python/tests
	@$(CARGO) test $(HOST) --exclude tests
	@$(CARGO) test --no-fail-fast --package tests

test-cpython: image-arm64 ## CPython's whole test suite on Piton and on Linux; ONLY= SYSTEM= JOBS= LIMIT= FRESH= FAILED= STALE=
	@$(CARGO) run --release --quiet --package tests --bin test-cpython -- $(SUITE)

fuzz: setup ## fuzz the device-tree view, the ELF loader and EROFS longer than `test` does; ITERATIONS=100000
	@PITON_FUZZ_ITERATIONS=$(or $(ITERATIONS),100000) $(CARGO) test --package dtb --package klib \
	    --test fuzz --test elf_fuzz --test erofs_fuzz -- --nocapture

robustness: image-arm64 ## random system calls and frames, and heavy load, for long; SECONDS=3600 COUNT=10000 FRAMES=2000000 SEED=1
	@PITON_SECONDS=$(or $(SECONDS),3600) PITON_COUNT=$(or $(COUNT),10000) PITON_SEED=$(or $(SEED),1) \
	    PITON_FRAMES=$(or $(FRAMES),2000000) \
	    $(CARGO) test --package tests --test robustness --test net -- --nocapture --test-threads 1

soak: image-arm64 ## 64 sessions at once from the host, for long; SECONDS=3600
	@PITON_SOAK=$(or $(SECONDS),3600) $(CARGO) test --package tests --test boot -- --nocapture as_many_sessions

packages: image-arm64 ## pip in the machine installs large packages from the host's index; PACKAGES='requests numpy'
	@PITON_PACKAGES='$(or $(PACKAGES),requests numpy pillow cryptography pydantic)' \
	    $(CARGO) test --package tests --test net -- --nocapture packages_are

stress: image-arm64 ## Debian's stress-ng, every stressor, and trinity on the machine; SECONDS=1 TRINITY=60 CPUS=1 ONLY= LIMIT=5400
	@PITON_STRESS=$(or $(SECONDS),1) PITON_TRINITY=$(or $(TRINITY),60) PITON_CPUS=$(or $(CPUS),1) PITON_ONLY='$(ONLY)' \
	    PITON_LIMIT=$(or $(LIMIT),5400) \
	    $(CARGO) test --package tests --test robustness -- --ignored --nocapture stress_ng_and_trinity

bench: image-arm64 ## measure against Linux in the same QEMU; writes build/bench.json
	@$(CARGO) run --release --quiet --package tests --bin bench

clean: ## remove everything that was built
	@$(CARGO) clean --quiet
	@rm -rf build
