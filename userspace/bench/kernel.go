// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// congestion is the usual default, whatever this machine's is. (A namespace may not choose for itself, but a socket may.)
const congestion = "cubic"

func openKernel(place) (*stack, error) {
	return &stack{
		listen: func(port uint16) (net.Listener, error) {
			config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
				var err error
				return errors.Join(c.Control(func(fd uintptr) {
					err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
				}), err)
			}}
			config.SetMultipathTCP(false)
			return config.Listen(context.Background(), "tcp4", fmt.Sprintf(":%d", port))
		},
		close: func() {},
	}, nil
}
