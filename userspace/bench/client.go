// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The clients are the kernel's TCP by blocking system calls on one thread, but for conns: as little as possible of what is
// measured is theirs.

// What the clients print.
type (
	transferred struct {
		Bytes, Nanoseconds int64 // measured, after a start
		Total              int64 // with the start
	}
	served struct {
		Served, Nanoseconds int64
	}
	pinged struct {
		P50, P99 int64 // nanoseconds
		N        int
	}
)

// client is a client's process: SERVER KIND DURATION, or SERVER idle N.
func client(args []string, stdout io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("client %q: want the server's address, a kind and a duration", args)
	}
	runtime.LockOSThread()
	addr, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	var result any
	if args[1] == "idle" {
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		if err := holdIdle(addr, n); err != nil {
			return err
		}
		if err := json.NewEncoder(stdout).Encode(served{Served: int64(n)}); err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}
	d, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	switch args[1] {
	case "down":
		result, err = clientDown(addr, d)
	case "up":
		result, err = clientUp(addr, d)
	case "ping":
		result, err = clientPing(addr, d)
	case "conns":
		result, err = clientConns(addr, d)
	default:
		err = fmt.Errorf("no client %q", args[1])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(result)
}

func dial(addr netip.Addr, port uint16) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion); err != nil {
		return -1, errors.Join(fmt.Errorf("setsockopt(TCP_CONGESTION): %w", err), unix.Close(fd))
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(port), Addr: addr.As4()}); err != nil {
		return -1, errors.Join(fmt.Errorf("connect to port %d: %w", port, err), unix.Close(fd))
	}
	return fd, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// warmUp is how long a stream runs before it is measured: congestion and receive windows need a moment to open.
func warmUp(d time.Duration) time.Duration { return min(d/2, 300*time.Millisecond) }

func clientDown(addr netip.Addr, d time.Duration) (t transferred, err error) {
	fd, err := dial(addr, portDown)
	if err != nil {
		return t, err
	}
	defer unix.Close(fd)
	b := make([]byte, 256<<10)
	return stream(d, func() (int, error) { return unix.Read(fd, b) })
}

func clientUp(addr netip.Addr, d time.Duration) (t transferred, err error) {
	fd, err := dial(addr, portUp)
	if err != nil {
		return t, err
	}
	defer unix.Close(fd)
	b := make([]byte, 256<<10)
	// What the peer has acknowledged, not what is in our buffer.
	acked := int64(0)
	return stream(d, func() (int, error) {
		if _, err := unix.Write(fd, b); err != nil {
			return 0, err
		}
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return 0, err
		}
		n := int64(info.Bytes_acked) - acked
		acked += n
		return int(n), nil
	})
}

// stream moves bytes until d is over, and measures all but the start.
func stream(d time.Duration, move func() (int, error)) (t transferred, err error) {
	start := time.Now()
	began := time.Time{}
	for {
		n, err := move()
		if err != nil {
			return t, err
		}
		now := time.Now()
		t.Total += int64(n)
		switch {
		case began.IsZero():
			if now.Sub(start) >= warmUp(d) {
				began = now
			}
		default:
			t.Bytes += int64(n)
			if now.Sub(began) >= d {
				t.Nanoseconds = int64(now.Sub(began))
				return t, nil
			}
		}
	}
}

func clientPing(addr netip.Addr, d time.Duration) (p pinged, err error) {
	fd, err := dial(addr, portPing)
	if err != nil {
		return p, err
	}
	defer unix.Close(fd)
	b := make([]byte, 1)
	var took []int64
	for start := time.Now(); ; {
		began := time.Now()
		if _, err := unix.Write(fd, b); err != nil {
			return p, err
		}
		if n, err := unix.Read(fd, b); err != nil || n != 1 {
			return p, fmt.Errorf("read %d: %w", n, err)
		}
		now := time.Now()
		if began.Sub(start) >= warmUp(d) {
			took = append(took, int64(now.Sub(began)))
		}
		if now.Sub(start) >= warmUp(d)+d {
			break
		}
	}
	slices.Sort(took)
	return pinged{P50: took[len(took)/2], P99: took[len(took)*99/100], N: len(took)}, nil
}

func holdIdle(addr netip.Addr, n int) error {
	limit := unix.Rlimit{Cur: uint64(n) + 100, Max: uint64(n) + 100}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("setrlimit: %w", err)
	}
	for range n {
		if _, err := dial(addr, portHold); err != nil {
			return err
		}
	}
	return nil
}
