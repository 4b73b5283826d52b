// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is one end of a lab: a network namespace with a loopback and one
// Ethernet interface. Its fields do not change after New.
type Host struct {
	Name    string           // "server" or "client", for messages
	Iface   string           // the interface's name inside the namespace: "srv0", "cli0"
	IfIndex int              // its index, which means something inside the namespace only
	MAC     net.HardwareAddr // its address
	Addr4   netip.Addr       // its IPv4 address, in a /24
	Addr6   netip.Addr       // its IPv6 address, in a /64

	home *home
	made Offloads // as the kernel made the interface

	mu       sync.Mutex
	closed   bool
	cmds     map[*Cmd]struct{} // started, not yet waited for
	groups   map[int]struct{}  // process groups of all that was ever started
	captures map[*Capture]struct{}
}

// NS returns a handle of the namespace. It belongs to the lab: don't close it,
// and don't use it after the lab's Close.
func (h *Host) NS() netns.NsHandle { return h.home.ns }

// NSPath returns a path that opens the namespace while the lab exists, from this
// process or from another one that may look into it:
//
//	nsenter --net=/proc/1234/fd/7 ip addr
func (h *Host) NSPath() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(h.home.ns))
}

// Panic is what Do panics with when its function did: the value, with the stack
// of the goroutine that it was first thrown on.
type Panic struct {
	Value any
	Stack []byte
}

// Error gives the value and the stack.
func (p *Panic) Error() string { return fmt.Sprintf("%v\n\n%s", p.Value, p.Stack) }

// Unwrap returns the value if it is an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// Do runs f inside the host's namespace and returns its error. f gets a
// goroutine and an OS thread of its own, so the caller's thread never changes
// its namespace, whatever f does. Goroutines that f starts are not inside;
// sockets that f makes stay inside wherever they are used.
//
// The thread is switched back afterwards, or thrown away if that fails. A panic
// of f becomes a panic of Do with a *Panic; runtime.Goexit in f (t.FailNow, say)
// ends the caller's goroutine too.
func (h *Host) Do(f func() error) error {
	var (
		err      error
		returned bool
		thrown   *Panic
		done     = make(chan struct{})
	)
	lockedOffMain(func() {
		defer close(done)
		var back int
		back, err = h.enter()
		if err != nil {
			returned = true
			runtime.UnlockOSThread() // still where it was
			return
		}
		defer func() {
			if e := goBack(back); e != nil {
				err = errors.Join(err, fmt.Errorf("%s: leave the namespace: %w; its thread is thrown away", h.Name, e))
				return // still locked: the runtime ends the thread
			}
			runtime.UnlockOSThread()
		}()
		defer func() {
			if v := recover(); v != nil {
				thrown = &Panic{Value: v, Stack: debug.Stack()}
			}
		}()
		err = f()
		returned = true
	})
	<-done
	if thrown != nil {
		panic(thrown)
	}
	if !returned {
		runtime.Goexit()
	}
	return err
}

// enter moves the calling thread into the namespace and returns a descriptor of
// the one it came from.
func (h *Host) enter() (back int, err error) {
	back, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: open /proc/thread-self/ns/net to come back to: %w; is /proc mounted?", h.Name, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		err = ErrClosed
	} else {
		err = unix.Setns(int(h.home.ns), unix.CLONE_NEWNET)
	}
	if err != nil {
		unix.Close(back)
		return -1, fmt.Errorf("%s: enter the namespace: %w%s", h.Name, err, advice(err))
	}
	return back, nil
}

func goBack(fd int) error {
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}

// Dial connects from inside the namespace, as net.Dialer.DialContext does. The
// address is numeric, such as "192.0.2.1:80" or "[2001:db8::1]:80": there is no
// resolver inside. The connection stays inside wherever it is used. The method
// fits http.Transport's DialContext.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return h.DialWith(ctx, new(net.Dialer), network, addr)
}

// DialWith is Dial with a Dialer of the caller's: for a local address, socket
// options (Control) or a timeout.
func (h *Host) DialWith(ctx context.Context, d *net.Dialer, network, addr string) (net.Conn, error) {
	if err := h.numeric("dial", network, addr); err != nil {
		return nil, err
	}
	var c net.Conn
	err := h.Do(func() (err error) {
		// One numeric address: net makes the socket on this goroutine, not on
		// another one (which would be outside) as it does to race two families.
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	return c, nil
}

// Listen listens inside the namespace, as net.Listen does, by plain TCP (not
// MPTCP, which Go prefers). The address is numeric; an empty host means all of
// the namespace's addresses.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	if err := h.numeric("listen", network, addr); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	var ln net.Listener
	err := h.Do(func() (err error) {
		ln, err = lc.Listen(context.Background(), network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	return ln, nil
}

// numeric refuses addresses that would need a resolver.
func (h *Host) numeric(verb, network, addr string) error {
	if strings.HasPrefix(network, "unix") {
		return fmt.Errorf("%s: %s %s %s: unix sockets know no network namespaces; use tcp or udp", h.Name, verb, network, addr)
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s: %s %s: %w", h.Name, verb, network, err)
	}
	if host == "" && verb == "listen" {
		return nil
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return fmt.Errorf("%s: %s %s %s: a lab has no resolver; give a numeric address, such as %s or [%s]",
			h.Name, verb, network, addr, h.Addr4, h.Addr6)
	}
	return nil
}

// SetSysctl sets a variable of the namespace: SetSysctl("net.ipv4.tcp_syncookies", "2").
func (h *Host) SetSysctl(name, value string) error {
	return h.inHost(func() error { return writeSysctl(name, value) })
}

// Sysctl reads a variable of the namespace.
func (h *Host) Sysctl(name string) (string, error) {
	var b []byte
	err := h.inHost(func() (err error) {
		if b, err = os.ReadFile(sysctlPath(name)); err != nil {
			return fmt.Errorf("read the sysctl %s: %w", name, err)
		}
		return nil
	})
	return strings.TrimSpace(string(b)), err
}

// inHost is Do with the host's name in front of the error.
func (h *Host) inHost(f func() error) error {
	return h.Do(func() error {
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		return nil
	})
}

// sysctlPath: /proc/sys/net shows the namespace of the thread that opens it, so
// it is opened inside.
func sysctlPath(name string) string {
	return "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
}

func writeSysctl(name, value string) error {
	err := os.WriteFile(sysctlPath(name), []byte(value), 0o644)
	switch {
	case errors.Is(err, os.ErrNotExist) && strings.HasPrefix(name, "net.ipv6."):
		return fmt.Errorf("set the sysctl %s=%s: %w; the kernel needs IPv6 (not ipv6.disable=1)", name, value, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("set the sysctl %s=%s: %w; a container needs a writable /proc/sys (--privileged)", name, value, err)
	case err != nil:
		return fmt.Errorf("set the sysctl %s=%s: %w%s", name, value, err, advice(err))
	}
	return nil
}
