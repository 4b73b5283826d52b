// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// replace attaches a second daemon in the place of the first, which must end by itself, well.
func replace(t *testing.T, l *lab.Lab, before *daemon, args ...string) *daemon {
	t.Helper()
	d := attach(t, l, append(args, "--replace")...)
	select {
	case <-before.exited:
	case <-time.After(patience):
		t.Fatal("the daemon that was replaced goes on")
	}
	if code := before.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the daemon that was replaced ended with exit code %d", code)
	}
	if want := fmt.Sprintf("replaced by pid %d", d.cmd.Process.Pid); !strings.Contains(before.stderr.String(), want) {
		t.Errorf("the log of the daemon that was replaced has no %q:\n%s", want, before.stderr)
	}
	return d
}

// answers counts the SYN/ACKs to spoofed sources that a tap sees until it is closed.
func answers(tap *lab.Capture) map[netip.AddrPort]int {
	n := map[netip.AddrPort]int{}
	for p := range tap.Packets() {
		if s, ok := decode(p); ok && !s.outgoing && s.flags == flagSYN|flagACK && isSpoofed(s.dst.Addr()) {
			n[s.dst]++
		}
	}
	return n
}

func isSpoofed(a netip.Addr) bool {
	return netip.MustParsePrefix("198.18.0.0/15").Contains(a) || netip.MustParsePrefix("2001:2::/32").Contains(a)
}

// While SYNs keep coming and clients connect, one daemon replaces another, several times.
func TestAReplacementLeavesNoSYNUnansweredAndNoClientAlone(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--key-rotation", "1s")

	tap, err := l.Client.Capture(lab.CaptureOptions{Buffer: 1 << 18})
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	var counting, working sync.WaitGroup
	var answered map[netip.AddrPort]int
	counting.Go(func() { answered = answers(tap) })

	sent := map[netip.AddrPort]bool{}
	var over atomic.Bool
	raws := newSender(t, l.Client)
	working.Go(func() { // about 5000 SYNs a second
		fams := families(l)
		options := append([]byte(nil), synOptions...)
		for i := 0; !over.Load(); i++ {
			binary.BigEndian.PutUint32(options[8:], uint32(i))
			f := fams[i%2]
			syn := raw{to: l.Server.MAC, from: l.Client.MAC, src: spoofed(f.server.Is4(), i), dst: f.serverPort(8080),
				seq: uint32(i) * 2654435761, flags: flagSYN, options: options}
			if err := raws.send(syn.frame()); err != nil {
				t.Error(err)
				return
			}
			sent[syn.src] = true
			if i%25 == 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
	})
	var served atomic.Int32
	var longest atomic.Int64
	for i := range 4 {
		working.Go(func() {
			for !over.Load() {
				start := time.Now()
				client := httpClient(t, l, patience)
				_, err := fetch(client, families(l)[i%2].url("/bytes?n=20000"))
				client.CloseIdleConnections()
				if err != nil {
					t.Errorf("client %d, after %v: %v", i, time.Since(start), err)
					return
				}
				served.Add(1)
				for took := int64(time.Since(start)); ; {
					if before := longest.Load(); took <= before || longest.CompareAndSwap(before, took) {
						break
					}
				}
			}
		})
	}
	const swaps = 3
	for swap := range swaps {
		time.Sleep(1200 * time.Millisecond) // a key grows older than its rotation
		if swap == 1 {
			// A request that never ends keeps the daemon to the end of its grace, longer than a lease.
			if _, err := dial(t, l, families(l)[0].addr(8080)).Write([]byte("GET")); err != nil {
				t.Fatal(err)
			}
		}
		d = replace(t, l, d, "--key-rotation", "1s")
	}
	time.Sleep(300 * time.Millisecond)
	over.Store(true)
	working.Wait()
	time.Sleep(200 * time.Millisecond)
	if err := tap.Close(); err != nil {
		t.Fatal(err)
	}
	counting.Wait()
	if n := tap.Dropped(); n > 0 {
		t.Fatalf("the tap lost %d frames: nothing can be said", n)
	}
	unanswered, twice := 0, 0
	for src := range sent {
		switch n := answered[src]; {
		case n == 0:
			unanswered++
		case n > 1:
			twice++
		}
	}
	t.Logf("%d SYNs, %d clients served in %d replacements; the slowest took %v", len(sent), served.Load(), swaps, time.Duration(longest.Load()))
	if unanswered > 0 || twice > 0 || len(answered) != len(sent) || len(sent) < 5000 {
		t.Errorf("of %d SYNs %d were not answered and %d more than once", len(sent), unanswered, twice)
	}
}

func TestCookiesOfADaemonAreGoodForTheOneThatReplacesIt(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	const rotation = 4 * time.Second // cookies without timestamps live as long at least, and a replacement must not take longer
	services := []string{"--listen", ":7=echo", "--key-rotation"}
	d := attach(t, l, append(services, rotation.String())...)
	time.Sleep(rotation + 100*time.Millisecond) // so that there are two keys
	early := strangers(t, l, 10)
	d = replace(t, l, d, append(services, "1h", "--flows", "5000")...)
	d.finish(early, "redirect", "opened")
	d.finish(strangers(t, l, 20), "redirect", "opened")
}

func TestAReplacementTakesLinkPinAndFlowTablesOver(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	dir := ownPins(t)
	d := attach(t, l, "--pin", dir)
	dial(t, l, families(l)[0].addr(8080))
	before := pinned(t, dir)
	id := xdpProgram(t, l.Server)
	d = replace(t, l, d, "--pin", dir)
	if after := pinned(t, dir); len(after) != 1 || after[0] != before[0] {
		t.Errorf("pinned before: %v, after: %v", before, after)
	}
	if xdpProgram(t, l.Server) == id {
		t.Error("the program is the old one")
	}
	eventually(t, "the ports are held again", func() bool {
		ln, err := l.Server.Listen("tcp", families(l)[0].addr(8080))
		if err == nil {
			ln.Close()
		}
		return err != nil
	})
	d.signal(unix.SIGKILL)
	if xdpProgram(t, l.Server) == 0 {
		t.Error("the program did not outlive its daemon")
	}
	attach(t, l, "--pin", dir).stop()
	if list := pinned(t, dir); len(list) != 0 {
		t.Errorf("still pinned: %v", list)
	}
	expectNothing(t, l)
}

func TestWithoutAPinAReplacementTakesOverToo(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--pin", "")
	d = replace(t, l, d, "--pin", "", "--listen", ":8080=http", "--listen", ":7=echo")
	for _, f := range families(l) {
		if err := echo(dial(t, l, f.addr(7)), payload(1, 1000)); err != nil {
			t.Error(err)
		}
	}
	d.stop()
	expectNothing(t, l)
}

func TestAReplacementThatCannotBeLeavesTheFirstAlone(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--mode", "native")
	id := xdpProgram(t, l.Server)
	ln, err := l.Server.Listen("tcp", "127.0.0.1:9999")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	kernelEcho(t, l, families(l)[0].addr(9090))
	for _, c := range []struct {
		args  []string
		names []string
	}{
		{[]string{"--mode", "generic"}, []string{`"srv0"`, "native", "xdptcp detach srv0"}},
		{[]string{"--metrics", "127.0.0.1:9999"}, []string{"127.0.0.1:9999"}},
		{[]string{"--metrics", "127.0.0.1:9401", "--listen", ":9090=http"}, []string{"9090", "--takeover"}},
		{[]string{"--pin", "/proc/x"}, []string{"/proc"}},
	} {
		refused(t, l.Server.Command(product, append([]string{"attach", "srv0", "--replace", "--pin", pinDir}, c.args...)...), 1, c.names...)
	}
	if got := xdpProgram(t, l.Server); got != id || !d.running() {
		t.Errorf("program %d, was %d; running: %t", got, id, d.running())
	}
	if _, err := fetch(httpClient(t, l, patience), families(l)[0].url("/")); err != nil {
		t.Error(err)
	}
}

func TestAHungDaemonIsReplacedOnceItIsKilledAndEndsByItselfIfItGoesOn(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	hung := attach(t, l)
	if err := hung.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its lease has run out", func() bool { _, _, code := run(t, l.Server, "status"); return code == 4 })
	_, stderr, code := run(t, l.Server, "attach", "srv0", "--pin", pinDir, "--metrics", "")
	if code != 1 || !strings.Contains(stderr, fmt.Sprintf("kill -9 %d", hung.cmd.Process.Pid)) || !strings.Contains(stderr, "waiting") {
		t.Errorf("exit code %d, stderr:\n%s", code, stderr)
	}
	if err := hung.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-hung.exited:
	case <-time.After(patience):
		t.Fatal("it goes on, though another daemon was to take its place")
	}
	attach(t, l)
	if _, err := fetch(httpClient(t, l, patience), families(l)[0].url("/")); err != nil {
		t.Error(err)
	}
}

func TestOfTwoAttachesAtOnceOneIsRefused(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	outcomes := make(chan int, 2)
	var cmds []*lab.Cmd
	stderr := new(lab.Output)
	for range 2 {
		c := l.Server.Command(product, "attach", "srv0", "--pin", pinDir, "--metrics", "")
		c.Stderr = stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, c)
		go func() { _ = c.Wait(); outcomes <- c.ProcessState.ExitCode() }()
	}
	select {
	case code := <-outcomes:
		if code != 1 {
			t.Errorf("the one that is refused ended with exit code %d", code)
		}
		if !strings.Contains(stderr.String(), "already has an xdptcp") {
			t.Errorf("it was not refused for the other's sake:\n%s", stderr)
		}
	case <-time.After(patience):
		t.Fatal("both are attached")
	}
	if _, err := fetch(httpClient(t, l, patience), families(l)[0].url("/")); err != nil {
		t.Error(err)
	}
	for _, c := range cmds {
		_ = c.Process.Signal(unix.SIGTERM) // one is over already
	}
	if code := <-outcomes; code != 0 {
		t.Errorf("the other ended with exit code %d", code)
	}
	expectNothing(t, l)
}
