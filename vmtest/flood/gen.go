// SPDX-License-Identifier: Apache-2.0

package flood

// The objects are committed, so building needs no clang; `make generate` remakes them and CI
// fails if that leaves a difference.
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package flood -cflags "-O2 -g -mcpu=v3 -Wall -Wextra -Werror -fdebug-compilation-dir=. -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" -type tally -output-stem object -target bpfel,bpfeb flood flood.c
