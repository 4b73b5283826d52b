// SPDX-License-Identifier: Apache-2.0

package bpf

// The objects are committed, so building needs no clang; `make generate` remakes them and CI
// fails if that leaves a difference.
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package bpf -cflags "-O2 -g -mcpu=v3 -Wall -Wextra -Werror -fdebug-compilation-dir=. -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" -type reason -type handshake -type handshake_flags -type flow4 -type flow6 -type local4 -type local6 -type cookie_keys -type sipstate -type control -type prefix4 -type prefix6 -type listed -type window -type shield -target bpfel,bpfeb object xdptcp.c

// The hand-off to the kernel: see handoff.c for why it is apart.
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package bpf -cflags "-O2 -g -mcpu=v3 -Wall -Wextra -Werror -fdebug-compilation-dir=. -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" -no-global-types -target bpfel,bpfeb handoff handoff.c

// The benchmark's harness, for the test binary alone.
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package bpf -cflags "-O2 -g -mcpu=v3 -Wall -Wextra -Werror -fdebug-compilation-dir=. -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" -output-suffix _test -target bpfel,bpfeb bench testdata/bench.c
