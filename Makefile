# The commands of the README. `make test` is what CI runs.

CARGO ?= cargo
# CI builds once: what the next build could take over is not worth its time there, nor are line numbers of backtraces.
ifeq ($(CI),true)
export CARGO_INCREMENTAL := 0
export CARGO_PROFILE_DEV_DEBUG := 0
endif
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
DEBIAN_PACKAGES := build-essential bind9-dnsutils docker.io iptables nftables iproute2 busybox-static iperf3 tcpdump ethtool iputils-ping procps util-linux curl python3-venv haproxy docker-compose

.PHONY: clients demo build test unit e2e e2e-matrix lint deny bench bench-micro bench-compare bench-build bench-balancer bench-control bench-deps \
  bench-smoke soak soak-switch churn fuzz deps

# Two hosts on this machine, one encrypted network, containers that talk. Cleans up after itself.
demo:
	$(CARGO) build --release -p weaved
	$(TARGET_DIR)/release/weaved demo

build:
	$(CARGO) build --workspace --all-targets

# Everything CI runs. Needs root: hosts are network namespaces, containers are real.
test: deps lint unit e2e

# State machines, wire formats, properties, the corpus of the fuzz targets, the kernel devices. Two minutes. `--tests` because the
# docs hold no examples that could be run.
unit: build
	$(CARGO) test --workspace --tests -- --skip suites::

# Real processes and real dockerds in namespaces, two tests at a time, or one that wants the cores for itself. `SUITES="names keys"` runs these.
# The whole workspace is named because cargo builds dependencies anew for each other choice of packages.
SUITES ?=
E2E := WEAVED_BIN=$(TARGET_DIR)/debug/weaved $(CARGO) test --workspace --test e2e -- --test-threads=2

e2e: build clients
	$(E2E) $(SUITES:%=suites::%::)

# The suites that carry traffic, with each switch in each position.
MATRIX_SUITES := two_hosts three_hosts on_the_wire underlay_mtu survival
MATRIX_POSITIONS := tap-offload=on,udp-gso=on,udp-gro=on,bridge-redirect=on tap-offload=off udp-gso=off udp-gro=off \
  bridge-redirect=on container-gso=off cipher=aegis-256 cipher=aes-256-gcm cipher=chacha20-poly1305 tap-offload=off,udp-gso=off,udp-gro=off

e2e-matrix: build
	for position in $(MATRIX_POSITIONS); do \
	  echo "== $$position"; \
	  WEAVED_TEST_LAUNCH_FLAGS="--$$(echo $$position | sed 's/,/ --/g')" $(E2E) $(MATRIX_SUITES:%=suites::%::) || exit 1; \
	done

# Consul's clients as they are published, each in an environment of its own, for the contract tests.
CLIENTS := $(TARGET_DIR)/consul-clients

# One pip serves them all, because an environment takes ten times as long to make with a pip in it.
PIP := $(CLIENTS)/pip/bin/pip

$(PIP): | deps
	python3 -m venv $(CLIENTS)/pip

clients: deps $(PIP)
	@for client in consulate==0.6.0 python-consul==1.1.0 py-consul==1.8.0; do \
	  dir=$(CLIENTS)/$${client%%=*}; \
	  test -e $$dir/$$client || \
	    { python3 -m venv --without-pip $$dir && $(PIP) --python $$dir/bin/python --disable-pip-version-check install --quiet $$client && \
	      touch $$dir/$$client; } || exit 1; \
	done

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings

# Licences, bans and sources of the dependencies.
deny:
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check licenses bans sources

# Micro-benchmarks of the core, then ratios against kernel VXLAN in one run. See docs/performance.md.
bench: bench-micro bench-compare

bench-micro:
	$(CARGO) bench -p weaved-bench --benches

# The bench itself is not optimised: it starts others and reads what they say. What makes the traffic is. Needs root.
# BENCH_FLAGS says what is measured; without it everything is, which takes about half an hour, and docs/ is written anew.
# BENCH_PEERS names newer executables of other overlays: --peer wireguard-go=FILE
BENCH := WEAVED_BIN=$(TARGET_DIR)/release/weaved WEAVED_LABTOOL=$(TARGET_DIR)/release/labtool $(TARGET_DIR)/debug/weaved-bench
ONE_FRAME := --peer one-frame=$(TARGET_DIR)/release/weaved-bench-one-frame
BENCH_RUN := $(TARGET_DIR)/bench-run

bench-compare: deps bench-build
ifdef BENCH_FLAGS
	$(BENCH) $(ONE_FRAME) $(BENCH_FLAGS)
else
	$(MAKE) bench-deps
	rm -rf $(BENCH_RUN)
	$(BENCH) --results $(BENCH_RUN) --sides veth,vxlan,weaved --seconds 2 \
	  --rows tcp1,tcp1-back,tcp1-both,tcp8,tcp8-back,ping,ping-bulk,udp64,udp1400,udp-flood,http,idle,outage,fan-out,footprint
	$(BENCH) $(ONE_FRAME) --results $(BENCH_RUN) --sides vxlan,one-frame,switches,weaved:cipher=aegis-256,weaved:cipher=aes-256-gcm --seconds 2 --pairs 3 --rows tcp1,ping,udp64
	$(BENCH) --results $(BENCH_RUN) --sides vxlan,weaved --seconds 2 --pairs 3 --rows loss,reorder
	$(BENCH) $(ONE_FRAME) $(BENCH_PEERS) --results $(BENCH_RUN) --between hosts --sides veth,vxlan,weaved,peers --seconds 2 --rows tcp1,tcp8,ping,udp64
	$(BENCH) --results $(BENCH_RUN) --between containers --seconds 2 --pairs 3 --rows tcp1,tcp8,ping,udp64
	$(TARGET_DIR)/debug/weaved-bench report --chart docs/performance.svg --into docs/performance.md $(BENCH_RUN)/*.jsonl
endif

bench-build:
	$(CARGO) build --release -p weaved -p weaved-netns-tests
	$(CARGO) build --release -p weaved-bench --bin weaved-bench-one-frame
	$(CARGO) build -p weaved-bench

# Other overlays to compare with, from Debian and crates.io; the latter into the target directory.
BENCH_PACKAGES := wireguard-go tinc nebula

bench-deps:
	@dpkg -s $(BENCH_PACKAGES) >/dev/null 2>&1 || \
	  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(BENCH_PACKAGES))
	@for crate in boringtun-cli vpncloud; do \
	  test -x $(TARGET_DIR)/peers/bin/$$crate || \
	    CARGO_TARGET_DIR=$(TARGET_DIR)/peers-build $(CARGO) install --locked --root $(TARGET_DIR)/peers $$crate || exit 1; \
	done

# The balancer beside HAProxy, in turns. About three minutes.
bench-balancer: deps
	$(CARGO) build --release -p weaved-bench --bin weaved-bench-balancer
	ulimit -n 20000 && $(TARGET_DIR)/release/weaved-bench-balancer $(BENCH_FLAGS)

# Names and keys against etcd and dnsmasq from Debian, in turns. Needs root; three minutes.
BENCH_CONTROL_PACKAGES := etcd-server etcd-client dnsmasq-base
BENCH_CONTROL_FLAGS ?=

bench-control: deps
	@dpkg -s $(BENCH_CONTROL_PACKAGES) >/dev/null 2>&1 || \
	  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(BENCH_CONTROL_PACKAGES))
	$(CARGO) build --release -p weaved -p weaved-netns-tests
	$(CARGO) build --release -p weaved-bench --bin weaved-bench-control
	WEAVED_BIN=$(TARGET_DIR)/release/weaved WEAVED_LABTOOL=$(TARGET_DIR)/release/labtool \
	  $(TARGET_DIR)/release/weaved-bench-control run $(BENCH_CONTROL_FLAGS)

# Shows that the comparison works; its figures mean nothing.
bench-smoke: deps
	$(CARGO) build -p weaved -p weaved-netns-tests -p weaved-bench
	WEAVED_BIN=$(TARGET_DIR)/debug/weaved $(TARGET_DIR)/debug/weaved-bench --smoke --sides veth,vxlan,weaved --rows all

# Three hosts at full speed for so long, then a verdict: memory flat, no session lost, every drop explained, the counters add up.
SOAK_MINUTES ?= 10

soak: deps
	$(CARGO) build --release -p weaved -p weaved-netns-tests
	WEAVED_BIN=$(TARGET_DIR)/release/weaved $(TARGET_DIR)/release/soak $$(($(SOAK_MINUTES) * 60))

# A thousand containers on three hosts with real dockerds, so many on each, of which a part lives at a time. 10 to 15 minutes.
CHURN_CONTAINERS ?= 334
CHURN_ALIVE ?= 80

churn: deps build
	WEAVED_CHURN_CONTAINERS=$(CHURN_CONTAINERS) WEAVED_CHURN_ALIVE=$(CHURN_ALIVE) $(E2E) --nocapture suites::churn::

# Switches under load on three hosts with real Docker, until there were 20 of them and 100,000 requests, the same through HAProxy,
# then with controls that are killed, a version that turns sick, hosts that are cut off and hosts that die. Some minutes.
SWITCHES ?= 20
REQUESTS ?= 100000

soak-switch: deps
	$(CARGO) build --release -p weaved -p weaved-netns-tests
	WEAVED_BIN=$(TARGET_DIR)/release/weaved $(TARGET_DIR)/release/switch_soak $(SWITCHES) $(REQUESTS)

# Each fuzz target for so long. What it finds lies in fuzz/artifacts beside it; `make unit` replays the corpus. The versions of
# the dependencies are those of the program.
# The fuzzer wants flags of a nightly compiler, which the usual one is told to take: a nightly of May 2026 made `gossip` fall on its
# own seeds, where the compiler of the program does not.
FUZZ_SECONDS ?= 60
FUZZ_CARGO := RUSTC_BOOTSTRAP=1 $(CARGO)
FUZZ_TARGETS ?= wire handshake decap encap framing
GATEWAY_FUZZ_TARGETS ?= dns upstream http proxy
CONTROL_FUZZ_TARGETS ?= gossip consul labels balancer files template

define fuzz_in
	cp Cargo.lock $(1)
	cd $(1) && for target in $(2); do \
	  mkdir -p found/$$target && \
	  $(FUZZ_CARGO) fuzz run --target-dir $(TARGET_DIR)/fuzz $$target found/$$target corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done
endef

fuzz:
	command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	$(call fuzz_in,dataplane/core/fuzz,$(FUZZ_TARGETS))
	$(call fuzz_in,control/gateway/fuzz,$(GATEWAY_FUZZ_TARGETS))
	$(call fuzz_in,control/fuzz,$(CONTROL_FUZZ_TARGETS))

# Debian packages that the tests use. Quiet when they are there.
deps:
	@dpkg -s $(DEBIAN_PACKAGES) >/dev/null 2>&1 || \
	  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN_PACKAGES))
