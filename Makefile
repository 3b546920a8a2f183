# The commands that README.md names. Each works from a fresh clone with Rust; the tests say what else they would use.

IMAGE ?= sidescale:0.1.0

FUZZ_SECONDS ?= 300

ROTATIONS ?= 100000

.PHONY: demo test quick e2e model soak bench fuzz lint image

# Everything: unit tests, the suite, and the real servers as far as this machine can run them.
test:
	cargo test --workspace -- --include-ignored

# All but the real servers and the longest tests, for the minutes between two edits.
quick: export SIDESCALE_MODEL_ROTATIONS ?= 400
quick: lint
	cargo test --workspace --lib
	cargo test -p sidescale-webhook --test '*'
	cargo test -p sidescale --test suite -- --test-threads 6

# The real servers alone.
e2e:
	cargo test --test e2e -- --nocapture

# The model of rotation, for far longer than `make test` has it run. Two minutes go to a build that is optimised a little.
model:
	SIDESCALE_MODEL_ROTATIONS=$(ROTATIONS) cargo test -p sidescale --lib \
		--config 'profile.test.package.sidescale.opt-level=1' --config 'profile.test.package.sidescale-core.opt-level=1' \
		--config 'profile.test.package.sidescale-rotation.opt-level=1' \
		rotations_with -- --nocapture

# What `make test` does a part of: 500 pods of a Job, 300 fat pods, a minute of hostile bodies, ten thousand services of one
# namespace. Half an hour.
soak: export SIDESCALE_SOAK = 1
soak:
	cargo test --release -p sidescale --test suite -- --nocapture greedy::
	cargo test --test e2e -- --nocapture honest::
	cargo test --release --test e2e -- --nocapture memory::

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# Everything on one laptop, with nothing installed.
demo:
	cargo run --quiet -- demo

# Writes target/bench.json.
bench:
	cargo bench --bench review

# Looks for new paths with cargo-fuzz, on a nightly toolchain: `cargo install --locked cargo-fuzz`, `rustup toolchain
# install nightly`. It stops at the first failure and names a file, which belongs into fuzz/seeds/<target>: `make test`
# tries the same functions on the seeds, and on ten seconds of bytes made from them.
fuzz:
	for target in review annotations config; do \
		mkdir -p fuzz/corpus/$$target && \
		cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target tests/cases -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

image:
	docker build --tag $(IMAGE) .
