# r2vfs: make, make test, make install. No configure.
#
#   make                       build/r2vfs.so (the extension) and build/libr2vfs.a (to link statically)
#   make CC=clang BUILD=build/clang
#   make SANITIZE=address,undefined BUILD=build/asan
#   make test                  everything; scripts/test says what
#   make test-lang             other languages, packages and applications: what needs large downloads
#   make packages              build/packages: Python wheel, npm package, Debian package
#   make model, sim, fuzz      the protocol's models; the simulator (SEEDS=5000); hostile bytes (SECONDS=60)
#   make soak                  an hour of load with faults (MINUTES=60), long runs of sim and histories
#   make sqlite-suite          SQLite's own test suite (ARGS=--full)
#   make units T=wal           one kind of test; T: only programs whose name contains it
#   make V=1                   shows the commands
#   make install PREFIX=/usr/local [LIBDIR=...] [DESTDIR=...]

BUILD    ?= build
PREFIX   ?= /usr/local
LIBDIR   ?= $(PREFIX)/lib
PYTHON   ?= $(firstword $(wildcard /usr/bin/python3) python3)
OPT      ?= -O2
SANITIZE ?=
T        ?=
Q        := $(if $(V),,@)

UNAME := $(shell uname -s)
ifeq ($(UNAME),Darwin)
SUFFIX  := dylib
SHARED  := -dynamiclib
else
SUFFIX  := so
SHARED  := -shared -Wl,-z,defs -Wl,-z,relro -Wl,-z,now -Wl,--as-needed -Wl,--gc-sections \
           -Wl,-z,noseparate-code
endif

PKG_CONFIG ?= pkg-config
LIB_CFLAGS := $(shell $(PKG_CONFIG) --cflags libcurl libcrypto liblz4 2>/dev/null)
LIBS       := $(or $(shell $(PKG_CONFIG) --libs libcurl libcrypto liblz4 2>/dev/null),-lcurl -lcrypto -llz4) -lpthread

WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Werror
FLAGS := -std=c11 $(OPT) -g -fPIC -fvisibility=hidden $(WARNINGS) -D_GNU_SOURCE -Ivfs $(LIB_CFLAGS)
ifeq ($(SANITIZE),)
# The size budget: tables for unwinding are in the debugging information.
FLAGS += -ffunction-sections -fno-asynchronous-unwind-tables
else
FLAGS += -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
FLAGS += $(CPPFLAGS) $(CFLAGS)

SOURCES := $(wildcard vfs/*.c) $(filter-out ext/preload.c,$(wildcard ext/*.c))
OBJECTS := $(SOURCES:%.c=$(BUILD)/obj/%.o)
# What is done once, or for one who waits anyway: small.
SELDOM  := $(filter vfs/config% vfs/replica_travel% vfs/replica_status% vfs/replica_resolve% vfs/replica_layout% vfs/log_past% \
           vfs/log_list% vfs/log_collect% vfs/store_s3_verdict% vfs/s3xml% vfs/when% vfs/replica_open% \
           vfs/replica_checkpoint% vfs/store_s3_multipart% vfs/store_dir% vfs/dirobj% vfs/dirmeta% ext/%,$(SOURCES))
SMALL   :=
# A program that links r2vfs statically has SQLite at hand and no table of its functions:
# SQLITE_CORE turns sqlite3ext.h's indirect calls into direct ones.
STATICS := $(SOURCES:%.c=$(BUILD)/static/%.o)

TESTS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c tests/r2/*.c tests/crash/*.c))
HELPERS := $(patsubst %.c,$(BUILD)/static/%.o,$(filter-out $(wildcard tests/unit/test_*.c),$(wildcard tests/unit/*.c)))

SIM     := $(patsubst %.c,$(BUILD)/static/%.o,$(wildcard tests/sim/*.c))

EXTENSION := $(BUILD)/r2vfs.$(SUFFIX)
LIBRARY   := $(BUILD)/libr2vfs.a
PRELOAD   := $(if $(wildcard ext/preload.c),$(BUILD)/r2vfs-preload.$(SUFFIX))

.PHONY: all tests install install-built uninstall clean distclean lint demo test test-lang packages units \
        integration sanitize sqlite-suite bench model sim fuzz histories soak FORCE

all: $(EXTENSION) $(LIBRARY) $(PRELOAD)

# The size budget is 300 KB: debugging information goes into a file of its own, where gdb finds it.
$(EXTENSION): $(OBJECTS)
	@mkdir -p $(@D)
	@echo '$(CC) $@'
	$(Q)$(CC) $(FLAGS) $(SHARED) $(LDFLAGS) -o $@.new $(OBJECTS) $(LIBS)
ifeq ($(UNAME)$(SANITIZE),Linux)
	$(Q)objcopy --only-keep-debug $@.new $@.debug
	$(Q)objcopy --strip-all --add-gnu-debuglink=$@.debug $@.new
endif
	$(Q)mv $@.new $@

$(LIBRARY): $(STATICS)
	@rm -f $@
	@echo '$(AR) $@'
	$(Q)$(AR) rcs $@ $(STATICS)

$(BUILD)/r2vfs-preload.$(SUFFIX): ext/preload.c $(BUILD)/flags
	@echo '$(CC) $@'
	$(Q)$(CC) $(FLAGS) $(SHARED) $(LDFLAGS) -o $@ $< -ldl

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '$(CC) $@'
	$(Q)$(CC) $(FLAGS) $(SMALL) -MMD -MP -c -o $@ $<

$(BUILD)/static/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '$(CC) $@'
	$(Q)$(CC) $(FLAGS) $(SMALL) -DSQLITE_CORE -MMD -MP -c -o $@ $<

ifeq ($(SANITIZE)$(OPT),-O2)
$(SELDOM:%.c=$(BUILD)/obj/%.o) $(SELDOM:%.c=$(BUILD)/static/%.o): SMALL := -Os
endif

# Test programs; -rdynamic for the names in a backtrace.
tests: $(TESTS) $(BUILD)/tests/sim/r2sim

$(BUILD)/tests/%: $(BUILD)/static/tests/%.o $(HELPERS) $(LIBRARY)
	@mkdir -p $(@D)
	@echo '$(CC) $@'
	$(Q)$(CC) $(FLAGS) $(LDFLAGS) -o $@ $< $(HELPERS) $(LIBRARY) -lcunit -lsqlite3 $(LIBS) -ldl -lm

$(BUILD)/tests/sim/r2sim: $(SIM) $(LIBRARY)
	@mkdir -p $(@D)
	@echo '$(CC) $@'
	$(Q)$(CC) $(FLAGS) $(LDFLAGS) -o $@ $^ -lsqlite3 $(LIBS) -ldl -lm

# Other flags, another compiler: everything anew.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(FLAGS)' | cmp -s - $@ || echo '$(CC) $(FLAGS)' >$@

.SECONDARY:
-include $(OBJECTS:.o=.d) $(STATICS:.o=.d) $(TESTS:$(BUILD)/tests/%=$(BUILD)/static/tests/%.d) $(HELPERS:.o=.d) $(SIM:.o=.d)

install: all
	@$(MAKE) --no-print-directory install-built

# What is built already, whatever its flags were. The manual page and the pkg-config file have the
# version, the paths, and README's tables in them.
install-built:
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/share/man/man7
	install -m 755 $(EXTENSION) $(wildcard $(PRELOAD)) $(DESTDIR)$(LIBDIR)/
	install -m 644 $(LIBRARY) $(DESTDIR)$(LIBDIR)/
	install -m 644 vfs/r2vfs.h $(DESTDIR)$(PREFIX)/include/
	$(PYTHON) scripts/man page >$(BUILD)/r2vfs.7
	$(PYTHON) scripts/man pc $(PREFIX) $(LIBDIR) >$(BUILD)/r2vfs.pc
	install -m 644 $(BUILD)/r2vfs.7 $(DESTDIR)$(PREFIX)/share/man/man7/
	install -m 644 $(BUILD)/r2vfs.pc $(DESTDIR)$(LIBDIR)/pkgconfig/

uninstall:
	rm -f $(DESTDIR)$(LIBDIR)/r2vfs.$(SUFFIX) $(DESTDIR)$(LIBDIR)/r2vfs-preload.$(SUFFIX) \
	    $(DESTDIR)$(LIBDIR)/libr2vfs.a $(DESTDIR)$(LIBDIR)/pkgconfig/r2vfs.pc \
	    $(DESTDIR)$(PREFIX)/include/r2vfs.h $(DESTDIR)$(PREFIX)/share/man/man7/r2vfs.7

clean:
	rm -rf build

# Also the emulator, which lies outside the repository.
distclean: clean
	cd "$${R2VFS_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/r2vfs}" 2>/dev/null && rm -rf emulator-* node-* || true

demo:
	@scripts/setup build
	@$(MAKE) --no-print-directory all
	@scripts/demo

lint:
	@scripts/lint

test:
	@scripts/setup test
	@$(PYTHON) scripts/test

test-lang:
	@scripts/setup lang
	@$(PYTHON) scripts/test lang $(T)

packages: all
	@$(PYTHON) scripts/packages $(BUILD)

units integration sanitize:
	@$(PYTHON) scripts/test $@ $(T)

sqlite-suite: all
	@scripts/sqlite-suite $(ARGS)

model:
	@scripts/model

sim: $(BUILD)/tests/sim/r2sim
	@R2SIM=$< scripts/sim $(or $(SEEDS),5000) $(FIRST)

fuzz:
	@scripts/fuzz --seconds $(or $(SECONDS),60)

soak: all
	@scripts/soak lock-page
	@scripts/soak --minutes $(or $(MINUTES),60)

bench: all
	@scripts/bench
