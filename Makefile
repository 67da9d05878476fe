# Commands for developers. Every target does its own set-up; nothing outside this folder is changed.
#   make demo          the main job: a live update on an emulated machine
#   make demo-qemu     the same for a Linux guest of QEMU, which counts on its serial console
#   make test          linters, types, import rules, tests
#   make test-random   tests of random input, with ten times as many examples as in make test
#   make test-crash    luod and its clients, killed at every call that changes state, and with calls that fail
#   make test-hostile  attacks of one user against the others
#   make test-qemu     guests of an unmodified QEMU through updates: as root, with mmdebstrap, for a newer QEMU
#   make test-libvirt  domains of a real libvirt through updates: as root, with mmdebstrap and the network
#   make test-fleet    roll-outs of unmodified Ansible on emulated hosts; the first time with the network, for Ansible
#   make test-ssh      the collection over real connections of ssh, which a kexec leaves open: as root, with mmdebstrap
#   make kernel        a Linux with LUO, built once into ~/.cache/luod (docs/kernel-machine.md)
#   make test-kernel   the tests for a real kernel, on that Linux
#   make test-minimal  demo and test in minimal Debian 12, 13 and sid, as root and as an ordinary user: as root, with
#                      mmdebstrap and the network, up to two hours; MINIMAL='trixie/root/*' is one part of it
#   make test-all      all of these whose names begin with test, and the demo
#   make docs          the documentation site, into build/site
#   make install       programs, units and manual pages below DESTDIR and PREFIX (docs/install.md); make uninstall
#   make deb           Debian packages, into build/deb: as root, with mmdebstrap and the network
#   make dist          sdist and wheel, into build/dist
#   make test-install  make install, make uninstall and the wheel in a minimal Debian 13: as root, with mmdebstrap
#   make test-systemd  luod as systemd's service, in a Debian with these packages, emulated and on that Linux: as root, with mmdebstrap
#   make bench         benchmarks (never part of the tests), compared with docs/performance.md; UPDATE=1 writes there
#   make bench-kernel  those that also run on that Linux
#   make bench-systemd the start of a VMM's unit after an update, with luod and with LUOSession=: as root, with mmdebstrap
#   make bench-fleet   rehearsals of roll-outs on 5 and on 50 hosts
#   make bench-qemu    the pause of a guest of QEMU, and QEMU's own save and restore: as root, with mmdebstrap

# Debian's own Python if there is one: other uids can run it, unlike one under /root.
PYTHON ?= $(shell test -x /usr/bin/python3 && echo /usr/bin/python3 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 4
KERNEL ?= 7.3
# Names or patterns of runs of scripts/test-minimal; by default all.
MINIMAL ?=
# The slowest files first, so that none is left for the end. xdist would start with the files with the most tests.
KERNEL_TESTS ?= tests/test_updates.py tests/test_demo.py tests/test_document.py tests/kernel tests/conformance

.PHONY: demo demo-qemu test how-long lint style types pytest test-random test-crash test-hostile test-qemu test-libvirt test-fleet test-ssh kernel test-kernel test-systemd test-minimal test-all
.PHONY: bench bench-kernel bench-qemu bench-systemd bench-fleet docs install uninstall man deb dist test-install clean setup

demo: $(READY)
	@$(BIN)/python -m demo

demo-qemu: $(READY)
	@kernel=$$(kernel/build $(KERNEL)) && LUOD_KERNEL=$$kernel $(BIN)/python -m demo.qemu

# What it took when it was last measured. Measure it on an idle machine, and change both.
TEST_TOOK := 2:40 to 4:20 minutes
TEST_MACHINE := 2 idle processors of two machines, Python 3.11, in a new checkout, on 2026-11-28
# In a new checkout mypy takes half a minute, on one processor, so the tests begin meanwhile.
test: how-long
	@$(MAKE) --no-print-directory style
	@$(MAKE) --no-print-directory --jobs=2 types pytest || { echo "make test: mypy or the tests failed, see above"; exit 1; }

how-long:
	@echo "make test takes about $(TEST_TOOK) ($(TEST_MACHINE)), and longer on a busy machine"

lint: style types

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(READY)
	$(BIN)/mypy

# Bytecode is written also where the environment forbids it: each worker would rewrite the assertions of all files, which
# takes 11 s. Workers that start together in a new checkout would do so, too, so one process does it before them. What
# cannot be collected is an error of `pytest`.
$(VENV)/.collected: $(READY)
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --collect-only --quiet >/dev/null || :
	@touch $@

# A file stays with one worker: its tests may share a machine and its kexecs. Reordered by xdist, the files of the most
# tests would come first; in pytest's order those with machines do, and no worker is left with one at the end.
pytest: $(READY) $(VENV)/.collected
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Their examples are others in each run.
test-random: $(READY)
	$(BIN)/pytest -n 2 -m hypothesis --hypothesis-profile thorough --timeout 600

# One machine serves a test's boots, one for each call.
test-crash: $(READY)
	$(BIN)/pytest -n 2 tests/crash

# One worker: the tests measure a well-behaved client during each attack.
test-hostile: $(READY)
	$(BIN)/pytest tests/hostile

# Guests of the machine's QEMU and of a newer one; the Linux guest is the kernel of `make kernel`.
test-qemu: $(READY)
	@kernel=$$(kernel/build $(KERNEL)) && qemu=$${LUOD_NEWER_QEMU:-$$(scripts/fetch-qemu)} && \
		LUOD_KERNEL=$$kernel LUOD_NEWER_QEMU=$$qemu $(BIN)/pytest --timeout 300 -n 2 --dist worksteal \
		tests/agents/qemu/carried

# libvirt has users and folders of its own, so it runs in a Debian 12 of its own.
test-libvirt: $(READY)
	@root=$${LUOD_LIBVIRT_ROOT:-$$(scripts/fetch-libvirt)} && LUOD_LIBVIRT_ROOT=$$root \
		$(BIN)/pytest --timeout 300 -n 2 --dist worksteal tests/agents/libvirt/carried

# Ansible has an environment of its own: luod needs none of its packages.
ANSIBLE := build/ansible
test-fleet: $(READY) $(ANSIBLE)/.ready
	LUOD_ANSIBLE=$(abspath $(ANSIBLE))/bin $(BIN)/pytest --timeout 300 -n 2 --dist worksteal tests/fleet/rollout

$(ANSIBLE)/.ready: ansible/test-requirements.txt
	@$(PYTHON) -m venv $(ANSIBLE)
	@$(ANSIBLE)/bin/pip install --quiet --disable-pip-version-check -r ansible/test-requirements.txt
	@touch $@

# A Debian with systemd and sshd on the project's kernel; Ansible, ssh and the packages are this machine's.
test-ssh: $(READY) $(ANSIBLE)/.ready deb
	@kernel=$$(kernel/build $(KERNEL)) && scripts/systemd-root --ssh build/ssh-root $$kernel/bzImage && \
		scripts/systemd-image build/ssh.img build/ssh-root && \
		LUOD_KERNEL=$$kernel LUOD_SSH_IMAGE=build/ssh.img LUOD_ANSIBLE=$(abspath $(ANSIBLE))/bin \
			$(BIN)/pytest --timeout 2400 tests/fleet/ssh

test-all: test demo test-random test-hostile test-crash test-qemu test-libvirt test-fleet test-ssh test-kernel test-systemd test-install test-minimal

kernel:
	@kernel/build $(KERNEL)

# An option of kernel/build: also kernels without some features, which some tests boot.
KERNEL_VARIANTS ?= --variants
# One boot serves a module's tests, so a module stays with one worker. Bytecode is compiled before: a machine with a
# read-only disk would compile it at every start of a program, on an emulated processor.
test-kernel: $(READY)
	@$(BIN)/python -m compileall -q src tests demo
	@kernel=$$(kernel/build $(KERNEL_VARIANTS) $(KERNEL)) && echo "testing on $$kernel" && \
		LUOD_KERNEL=$$kernel $(BIN)/pytest --luod-machine kernel --timeout 300 -n 2 --dist loadfile \
		--no-loadscope-reorder $(KERNEL_TESTS)

SYSTEMD_TESTS ?= tests/systemd
# Those that are run, also or only, on a real kernel, where an update takes a minute. The others of test_service.py and
# test_jump.py take 20 minutes there: SYSTEMD_KERNEL_TESTS='tests/systemd/test_service.py tests/systemd/test_jump.py'.
SYSTEMD_UPDATES := tests/systemd/test_service.py::test_pid_1_holds_every_session \
	tests/systemd/test_service.py::test_no_session_is_lost_when_every_process_of_luod_ends \
	tests/systemd/test_service.py::test_guests_live_through_three_updates_in_a_row \
	tests/systemd/test_jump.py::test_guests_live_through_three_updates_by_systemd_in_a_row
SYSTEMD_KERNEL_TESTS ?= $(SYSTEMD_UPDATES) tests/systemd/test_unit_sessions.py tests/systemd/test_cold_reboot.py
# One boot serves a module's tests, so a module stays with one worker. An empty list leaves a kind of machine out.
test-systemd: $(READY) deb
	@kernel=$$(kernel/build $(KERNEL)) && scripts/systemd-root build/systemd-root $$kernel/bzImage && \
		export LUOD_KERNEL=$$kernel LUOD_SYSTEMD_ROOT=build/systemd-root LUOD_SYSTEMD_IMAGE=build/systemd.img \
			LUOD_SYSTEMD_QEMU_ROOT=build/systemd-qemu-root && \
		{ [ -z "$(strip $(SYSTEMD_TESTS))" ] || { \
			scripts/systemd-root --qemu build/systemd-qemu-root $$kernel/bzImage && \
			$(BIN)/pytest --timeout 300 -n 2 --dist loadfile --durations 10 $(SYSTEMD_TESTS); }; } && \
		{ [ -z "$(strip $(SYSTEMD_KERNEL_TESTS))" ] || { scripts/systemd-image build/systemd.img build/systemd-root && \
			$(BIN)/pytest --luod-machine kernel --timeout 600 -n 2 --dist loadfile --durations 10 \
			$(SYSTEMD_KERNEL_TESTS); }; }

test-minimal:
	@set -f; scripts/test-minimal $(MINIMAL)

test-install:
	@scripts/test-minimal --instead 'PYTHON=/usr/bin/python3 scripts/try-install' trixie/root/demo

bench: $(READY)
	$(BIN)/python -m bench $(if $(UPDATE),--update)

bench-kernel: $(READY)
	@$(BIN)/python -m compileall -q src bench
	@kernel=$$(kernel/build $(KERNEL)) && LUOD_KERNEL=$$kernel $(BIN)/python -m bench.kernel $(if $(UPDATE),--update)

bench-qemu: $(READY)
	@qemu=$${LUOD_NEWER_QEMU:-$$(scripts/fetch-qemu)} && LUOD_NEWER_QEMU=$$qemu $(BIN)/python -m bench.qemu $(if $(UPDATE),--update)

bench-systemd: $(READY) deb
	@kernel=$$(kernel/build $(KERNEL)) && scripts/systemd-root build/systemd-root $$kernel/bzImage && \
		scripts/systemd-image build/systemd.img build/systemd-root && \
		LUOD_KERNEL=$$kernel LUOD_SYSTEMD_ROOT=build/systemd-root LUOD_SYSTEMD_IMAGE=build/systemd.img \
		$(BIN)/python -m bench.systemd $(if $(UPDATE),--update)

bench-fleet: $(READY) $(ANSIBLE)/.ready
	@LUOD_ANSIBLE=$(abspath $(ANSIBLE))/bin $(BIN)/python -m bench.fleet

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

$(VENV)/.docs: $(READY)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

DESTDIR ?=
PREFIX ?= /usr/local
UNITS ?= $(PREFIX)/lib/systemd
LIBRARY := $(PREFIX)/lib/luod
# Programs that ignore the user's environment and packages: the same luod on every host, whatever pip did to its Python.
install: man
	rm -rf $(DESTDIR)$(LIBRARY)
	install -d $(DESTDIR)$(LIBRARY) $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(UNITS)/system
	tar -cC src --exclude=__pycache__ luod | tar -xC $(DESTDIR)$(LIBRARY)
	$(PYTHON) -m compileall -q $(if $(DESTDIR),-s $(DESTDIR) -p /) $(DESTDIR)$(LIBRARY)
	for program in luod=luod.daemon.main luoctl=luod.ctl.main luoemu=luod.emulator.machine.main luod-fleet=luod.fleet.main; do \
		scripts/launcher $(LIBRARY) $${program#*=} $$(command -v $(PYTHON)) >$(DESTDIR)$(PREFIX)/bin/$${program%=*} && \
		chmod 755 $(DESTDIR)$(PREFIX)/bin/$${program%=*} || exit; done
	for unit in systemd/*.service systemd/*.socket systemd/*.target systemd/*.timer; do \
		sed 's,/usr/sbin/luod,$(PREFIX)/bin/luod,; s,/usr/bin/luoctl,$(PREFIX)/bin/luoctl,' $$unit \
			>$(DESTDIR)$(UNITS)/system/$${unit#systemd/} || exit; done
	install -D -m 644 systemd/luod.catalog $(DESTDIR)$(UNITS)/catalog/luod.catalog
	install -D -m 644 systemd/luod.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/luod.conf
	for page in build/man/*; do \
		install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man$${page##*.} $$page || exit; done
	install -D -m 644 build/completions/luoctl $(DESTDIR)$(PREFIX)/share/bash-completion/completions/luoctl
	install -D -m 644 build/completions/luoctl.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/luoctl.fish
	install -D -m 644 build/completions/_luoctl $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_luoctl

# With the same DESTDIR, PREFIX and UNITS. The state directory and the policy stay.
uninstall:
	rm -rf $(DESTDIR)$(LIBRARY)
	cd $(DESTDIR)$(PREFIX) && rm -f bin/luod bin/luoctl bin/luoemu bin/luod-fleet share/man/man?/luod.8 share/man/man?/luoctl.1 \
		share/man/man?/luoemu.1 share/man/man?/luod-fleet.1 share/man/man?/luod.toml.5 lib/tmpfiles.d/luod.conf \
		share/bash-completion/completions/luoctl share/fish/vendor_completions.d/luoctl.fish \
		share/zsh/site-functions/_luoctl
	cd $(DESTDIR)$(UNITS) && rm -f catalog/luod.catalog \
		$(patsubst systemd/%,system/%,$(foreach kind,service socket target timer,$(wildcard systemd/*.$(kind))))

# Manual pages and completions, made from the parsers.
man:
	@$(PYTHON) scripts/man_pages.py build/man
	@mkdir -p build/completions
	@PYTHONPATH=src $(PYTHON) -m luod.ctl.main completion bash >build/completions/luoctl
	@PYTHONPATH=src $(PYTHON) -m luod.ctl.main completion fish >build/completions/luoctl.fish
	@PYTHONPATH=src $(PYTHON) -m luod.ctl.main completion zsh >build/completions/_luoctl

deb:
	@scripts/build-deb

dist: $(READY)
	@$(BIN)/pip install --quiet --disable-pip-version-check build twine
	@rm -rf build/dist
	@mkdir -p build
	@$(BIN)/python -m build --outdir build/dist . >build/dist.log || { tail -n 20 build/dist.log; exit 1; }
	@$(BIN)/twine check --strict build/dist/*

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "luod needs Python 3.11 or newer with venv: apt install python3 python3-venv (or make PYTHON=…)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "venv is missing: apt install python3-venv"; exit 1; }
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
