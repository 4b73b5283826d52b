// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The server's ports, and what is served there.
const (
	portDown  = 9001 // bytes without end
	portUp    = 9002 // takes bytes
	portPing  = 9003 // gives back what comes
	portHTTP  = 9004 // an answer for each request
	portClose = 9005 // one answer, and the end
	portHold  = 9006 // nothing, and no goroutine either
)

var ports = []uint16{portDown, portUp, portPing, portHTTP, portClose, portHold}

// answer is what a small page is.
var answer = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n" + strings.Repeat("x", 63) + "\n")

// A stack is what the server runs on.
type stack struct {
	listen   func(port uint16) (net.Listener, error)
	counters func() map[string]uint64 // nil: it has none
	ready    func() error             // after the listeners are there; nil: nothing to do
	close    func()
}

const (
	stackXdptcp       = "xdptcp"
	stackGvisor       = "gvisor"
	stackGvisorPacket = "gvisor_packet"
	stackKernel       = "kernel"
)

var stackNames = []string{stackXdptcp, stackGvisor, stackGvisorPacket, stackKernel}

// place is where a stack is opened.
type place struct {
	iface   string
	peerMAC net.HardwareAddr
}

var stacks = map[string]func(place) (*stack, error){
	stackXdptcp:       openXdptcp,
	stackGvisor:       openGvisor,
	stackGvisorPacket: openGvisorPacket,
	stackKernel:       openKernel,
}

// What the server is asked on its standard input.
const (
	askUsage  = "usage"
	askMemory = "memory"
)

// usage is what a server's process has used.
type usage struct {
	CPU      time.Duration
	Memory   uint64 // of heap and stacks; asked for by askMemory, after a garbage collection
	Held     int    // connections
	Counters map[string]uint64
}

// since lists what was counted since an earlier time.
func (u usage) since(before usage) string {
	names := make([]string, 0, len(u.Counters))
	for name := range u.Counters {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		if n := u.Counters[name] - before.Counters[name]; n != 0 {
			fmt.Fprintf(&b, " %s=%d", name, n)
		}
	}
	return strings.TrimSpace(b.String())
}

// A server holds what is asked about it.
type server struct {
	stack *stack
	mu    sync.Mutex
	held  []net.Conn
}

// serve is the server's process: STACK IFACE PEER-MAC [PROFILE]. It serves until its standard input ends.
func serve(args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) < 3 || stacks[args[0]] == nil {
		return fmt.Errorf("serve %q: want a stack, an interface and the peer's MAC address", args)
	}
	mac, err := net.ParseMAC(args[2])
	if err != nil {
		return err
	}
	st, err := stacks[args[0]](place{args[1], mac})
	if err != nil {
		return err
	}
	defer st.close()
	s := &server{stack: st}
	for _, port := range ports {
		l, err := st.listen(port)
		if err != nil {
			return err
		}
		go s.accept(l, port)
	}
	if st.ready != nil {
		if err := st.ready(); err != nil {
			return err
		}
	}
	if len(args) > 3 {
		f, err := os.Create(args[3])
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	fmt.Fprintln(stdout, "ready")
	in := bufio.NewScanner(stdin)
	for in.Scan() {
		if in.Text() == askMemory {
			runtime.GC()
			runtime.GC() // what the first one's pools let go
		}
		if err := json.NewEncoder(stdout).Encode(s.usage()); err != nil {
			return err
		}
	}
	return in.Err()
}

func (s *server) usage() (u usage) {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		panic("getrusage: " + err.Error()) // cannot fail on Linux
	}
	u.CPU = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	s.mu.Lock()
	u.Held = len(s.held)
	s.mu.Unlock()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.Memory = m.HeapAlloc + m.StackInuse
	if s.stack.counters != nil {
		u.Counters = s.stack.counters()
	}
	return u
}

func (s *server) accept(l net.Listener, port uint16) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		switch port {
		case portDown:
			go down(c)
		case portUp:
			go up(c)
		case portPing:
			go echo(c)
		case portHTTP:
			go requestsOn(c, false)
		case portClose:
			go requestsOn(c, true)
		case portHold:
			s.mu.Lock()
			s.held = append(s.held, c)
			s.mu.Unlock()
		}
	}
}

// transfer is what bulk streams are read and written by.
const transfer = 64 << 10

func down(c net.Conn) {
	defer c.Close()
	b := make([]byte, transfer)
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func up(c net.Conn) {
	defer c.Close()
	b := make([]byte, transfer)
	for {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}

func echo(c net.Conn) {
	defer c.Close()
	b := make([]byte, 64)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// requestsOn answers requests without a body, of which the next does not come before the last one's answer.
func requestsOn(c net.Conn, once bool) {
	defer c.Close()
	b := make([]byte, 2048)
	for n := 0; ; {
		got, err := c.Read(b[n:])
		if err != nil {
			return
		}
		if n += got; n == len(b) {
			return
		}
		if !bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) {
			continue
		}
		n = 0
		if _, err := c.Write(answer); err != nil || once {
			return
		}
	}
}
