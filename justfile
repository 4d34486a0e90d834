# Everything that is checked before a change lands: the same script that CI runs.
verify:
    .ci/run

# A cluster of three nodes on this machine.
dev *ARGS:
    cargo run --release -- dev {{ARGS}}

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

test *ARGS:
    cargo test --workspace {{ARGS}}

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Start, talk across nodes, kill one, stop, start again.
smoke:
    .ci/smoke

# A minute of faults on a real cluster; other profiles: just chaos standard --minutes 10
chaos PROFILE="smoke" *ARGS:
    cargo run --release -p heliograph-chaos-tests --bin chaos -- run --profile {{PROFILE}} {{ARGS}}

# The simulation, for a night: a thousand seeds.
simulate SEEDS="0..1000":
    SIM_SEEDS={{SEEDS}} cargo test --release -p heliograph-cluster --test sim -- --nocapture
