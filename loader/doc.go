// SPDX-License-Identifier: Apache-2.0

// Package loader puts xdptcp's XDP program on an interface and takes it off again. It knows what the
// interface and the kernel can do, and who owns which packets; what a segment is, it does not know.
//
//	r, err := loader.Prepare(opts)   // everything but the last step: nothing is taken from anyone yet
//	engine, err := userspace.New(…)  // on r.Sockets()
//	err = r.Attach()                 // from here on XDP answers
//	…
//	r.Close()                        // program off first, then the sockets
//
// Without Options.PinDir program, maps and sockets live as long as the process has them open: when it dies,
// however that happens, the kernel takes all of it away. With it the program outlives the process; but its lease
// runs out within a second, and packets pass as before until the next Prepare takes over.
package loader
