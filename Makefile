# The commands that README.md names. Each works from a fresh clone with Rust; the tests say what else they would use.

IMAGE ?= sidescale:0.1.0

.PHONY: demo test e2e bench lint image

# Everything: unit tests, the suite, and the real servers as far as this machine can run them.
test:
	cargo test --workspace -- --include-ignored

# The real servers alone.
e2e:
	cargo test --test e2e -- --nocapture

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# Everything on one laptop, with nothing installed.
demo:
	cargo run --quiet -- demo

# Writes target/bench.json.
bench:
	cargo bench --bench review

image:
	docker build --tag $(IMAGE) .
