// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// BPF verdicts, from linux/bpf.h.
const (
	xdpAborted  = 0
	xdpDrop     = 1
	xdpPass     = 2
	xdpTx       = 3
	xdpRedirect = 4
)

var verdictNames = []string{"aborted", "drop", "pass", "tx", "redirect"}

func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		tb.Fatal("loading BPF programs takes root, and with CI=true nothing is skipped")
	}
	tb.Skip("loading BPF programs takes root")
}

// A program is the XDP program in the kernel, with services on 443 and 8443 of the families' addresses,
// and the world that it sees.
type program struct {
	Objects
	tb    testing.TB
	world *world
	mem   *memory // nil: not shared
}

type options struct {
	spec     func(*ebpf.CollectionSpec)
	noSocket bool // no AF_XDP socket on queue 0
	shared   bool // maps in memory that the test sees: memory_test.go
}

func load(tb testing.TB, o options) *program {
	tb.Helper()
	needRoot(tb)
	spec, err := Load()
	must(tb, err)
	for name, value := range map[string]any{"cfg_mac": MACWords(serverMAC), "cfg_mss4": families[0].ourMSS, "cfg_mss6": families[1].ourMSS} {
		must(tb, spec.Variables[name].Set(value))
	}
	for _, m := range []string{"flows4", "flows6"} {
		spec.Maps[m].MaxEntries = 1 << 10
	}
	if o.spec != nil {
		o.spec(spec)
	}
	if o.shared {
		shareMaps(spec)
	}
	p := &program{tb: tb, world: worldOf(tb, spec)}
	must(tb, spec.LoadAndAssign(&p.Objects, nil))
	tb.Cleanup(func() { p.Close() })
	if o.shared {
		p.mem = p.share()
	}

	for _, f := range families {
		p.serve(f.server, 1<<3, 0)
		p.serve(f.other, 1<<63, 0)
	}
	p.setKeys(testKeys())
	p.setControl(testControl())
	if !o.noSocket {
		p.bindSocket(0)
		p.world.socket = true
	}
	return p
}

// worldOf is the world of a program with these constants, before anything is put into its maps.
func worldOf(tb testing.TB, spec *ebpf.CollectionSpec) *world {
	tb.Helper()
	w := &world{
		ports: map[uint16]uint64{}, addrs: map[netip.Addr]uint64{}, prefixes: map[netip.Prefix]uint64{},
		flows: map[flow]Handshake{},
	}
	var lists bool
	var mac [3]uint16
	for name, to := range map[string]any{
		"cfg_mac": &mac, "cfg_mss4": &w.mss4, "cfg_mss6": &w.mss6, "cfg_wscale": &w.wscale, "cfg_window": &w.window,
		"cfg_partial_checksums": &w.partial, "cfg_reset": &w.reset, "cfg_kernel": &w.kernel, "cfg_kernel_wscale": &w.kernelWS, "cfg_kernel_options": &w.kernelOpts, "cfg_outlive": &w.outlive,
		"cfg_lists": &lists, "cfg_allow_only": &w.allowOnly,
	} {
		must(tb, spec.Variables[name].Get(to))
	}
	for i, word := range mac {
		binary.NativeEndian.PutUint16(w.mac[2*i:], word)
	}
	if lists {
		w.lists = map[netip.Prefix]uint32{}
	}
	return w
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// testKeys has keys 0 and 1 valid, and makes SYN/ACKs with 1.
func testKeys() *CookieKeys {
	k := &CookieKeys{Current: 1, Valid: 0b0011, Timestamp: SiphashKey{K0: 0x0123456789abcdef, K1: 0xfedcba9876543210}}
	for i := range k.Key {
		k.Key[i] = SiphashKey{K0: 0x9e3779b97f4a7c15 * uint64(i+1), K1: 0xbf58476d1ce4e5b9 * uint64(i+1)}
	}
	return k
}

func (p *program) setKeys(k *CookieKeys) {
	p.tb.Helper()
	must(p.tb, p.Keys.Put(uint32(0), k))
	p.world.keys = *k
}

// testControl is a daemon that is alive for ever, with all services armed.
func testControl() Control {
	return Control{
		Lease: math.MaxUint64, Armed: math.MaxUint64,
		SketchKey: [3]uint64{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb},
	}
}

func (p *program) setControl(c Control) {
	p.tb.Helper()
	must(p.tb, p.Controls.Put(uint32(0), c))
	p.world.control = c
}

func portKey(port uint16) uint32 {
	return uint32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port)))
}

// serve adds services to a port and an address; the address goes probe slots behind its first.
func (p *program) serve(at netip.AddrPort, services uint64, probe uint32) {
	p.tb.Helper()
	must(p.tb, p.Ports.Put(portKey(at.Port()), services))
	word, table, slot := localEntry(at.Addr(), services, p)
	must(p.tb, table.Put((LocalSlot(word)+probe)%LocalSlots, slot))
	p.world.ports[at.Port()] = services
	p.world.addrs[at.Addr()] = services
}

// localEntry is what LocalSlot wants to know of an address, and its table and entry.
func localEntry(a netip.Addr, services uint64, p *program) (word uint32, table *ebpf.Map, slot any) {
	b := a.AsSlice()
	if a.Is4() {
		word = binary.NativeEndian.Uint32(b)
		return word, p.Locals4, Local4{Services: services, Addr: word}
	}
	l := Local6{Services: services}
	for i := range l.Addr {
		l.Addr[i] = binary.NativeEndian.Uint32(b[4*i:])
		word ^= l.Addr[i]
	}
	return word, p.Locals6, l
}

// xdpMD is struct xdp_md.
type xdpMD struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }

// A result is what became of a frame.
type result struct {
	verdict uint32
	reason  Reason
	meta    []byte // in front of the frame
	frame   []byte
}

// run gives the program one frame, and finds the reason in the counters: exactly one must have
// gone up, by one.
func (p *program) run(frame []byte) result {
	p.tb.Helper()
	before := p.counters()
	r := p.runUncounted(frame, xdpMD{})
	after := p.counters()
	r.reason = Reason(ReasonCount)
	for i := range after {
		if after[i] == before[i] {
			continue
		}
		if after[i] != before[i]+1 || r.reason != Reason(ReasonCount) {
			p.tb.Fatalf("one packet changed the counters from %v to %v", before, after)
		}
		r.reason = Reason(i)
	}
	if r.reason == Reason(ReasonCount) {
		p.tb.Fatal("the packet was not counted")
	}
	if verdict, _ := ReasonLabels(r.reason); verdict != verdictNames[r.verdict] {
		p.tb.Fatalf("verdict %s, counted as %s", verdictNames[r.verdict], reasonNames[r.reason])
	}
	return r
}

func (p *program) runUncounted(frame []byte, md xdpMD) result {
	p.tb.Helper()
	md.DataEnd = uint32(len(frame))
	r, err := testRun(p.Xdptcp.FD(), frame, md, make([]byte, len(frame)+512))
	must(p.tb, err)
	return r
}

func (p *program) counters() (sum [ReasonCount]uint64) {
	p.tb.Helper()
	if p.mem != nil {
		return p.mem.counters()
	}
	var perCPU []uint64
	for i := range sum {
		must(p.tb, p.Counters.Lookup(uint32(i), &perCPU))
		for _, n := range perCPU {
			sum[i] += n
		}
	}
	return sum
}

// expect runs a frame and checks verdict (by the reason's name) and reason.
func (p *program) expect(frame []byte, want Reason) result {
	p.tb.Helper()
	r := p.run(frame)
	if r.reason != want {
		p.tb.Fatalf("%s, want %s", reasonNames[r.reason], reasonNames[want])
	}
	if r.verdict == xdpPass && !bytes.Equal(r.frame, frame) {
		p.tb.Fatalf("the packet was passed, but changed:\n in %x\nout %x", frame, r.frame)
	}
	if r.verdict == xdpPass && want != PassHandedOver && len(r.meta) != 0 {
		p.tb.Fatalf("the packet was passed with metadata %x", r.meta)
	}
	return r
}

// with is p for a subtest.
func (p *program) with(tb testing.TB) *program {
	return &program{Objects: p.Objects, tb: tb, world: p.world, mem: p.mem}
}

// bindSocket puts an AF_XDP socket into the sockets map at a queue. It is bound to the loopback device
// of a network namespace of its own, as far from real traffic as can be.
func (p *program) bindSocket(at uint32) {
	p.tb.Helper()
	inNewNetns(p.tb, func() error { return p.insertSocket(at, 1, 0) })
}

func (p *program) insertSocket(at uint32, ifindex int, queue uint32) error {
	const chunks, chunk = 16, 4096
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	p.tb.Cleanup(func() { unix.Close(fd) })
	umem, err := unix.Mmap(-1, 0, chunks*chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	p.tb.Cleanup(func() { unix.Munmap(umem) })
	reg := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&umem[0]))), Len: uint64(len(umem)), Size: chunk}
	if _, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0); errno != 0 {
		return os.NewSyscallError("XDP_UMEM_REG", errno)
	}
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_RX_RING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, ring, chunks); err != nil {
			return os.NewSyscallError("ring size", err)
		}
	}
	sa := &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(ifindex), QueueID: queue}
	if err := unix.Bind(fd, sa); err != nil {
		return os.NewSyscallError("bind", err)
	}
	return p.Sockets.Put(at, uint32(fd))
}

// inNewNetns runs f on a thread in a network namespace of its own, which ends with f and the sockets
// that f opened.
func inNewNetns(tb testing.TB, f func() error) {
	tb.Helper()
	done := make(chan error, 1)
	go func() {
		defer close(done)      // also if f ends this goroutine with a Fatal
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("unshare", err)
			return
		}
		done <- f()
	}()
	must(tb, <-done)
}

// The verifier's work is part of the design: it must stay far from its limit of a million
// instructions, on older kernels too, which prune less. Constants that are zero take the code behind them
// out, so the program with everything on is the one that counts.
func TestVerifierNeedsFewInstructions(t *testing.T) {
	for name, constants := range map[string]map[string]any{
		"with the defaults": {},
		"with everything on": {
			"cfg_kernel": uint64(0b1000), "cfg_outlive": uint64(0b1000), "cfg_shield": uint64(0b1000),
			"cfg_shield_on": uint32(100), "cfg_shield_off": uint32(50), "cfg_kernel_options": HandshakeSACK,
			"cfg_prefixes": true, "cfg_lists": true, "cfg_allow_only": true, "cfg_reset": true, "cfg_reply_fib": true,
			"cfg_reply_cap": uint32(100), "cfg_open_cap": uint32(100),
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := load(t, options{noSocket: true, spec: set(t, constants)})
			expectFewInstructions(t, p.Xdptcp)
		})
	}
}

func expectFewInstructions(t *testing.T, p *ebpf.Program) {
	t.Helper()
	info, err := p.Info()
	must(t, err)
	n, ok := info.VerifiedInstructions()
	if !ok {
		t.Skip("this kernel does not tell (5.16 does)")
	}
	jited, _ := info.JitedSize()
	t.Logf("verifier: %d instructions processed; program: %d bytes of machine code", n, jited)
	if n > 500_000 {
		t.Errorf("the verifier processed %d instructions, more than 500,000", n)
	}
}

// The tcx program of kernel services loads wherever the kernel has what it is made for.
func TestHandOffLoads(t *testing.T) {
	needRoot(t)
	kernel, err := btf.LoadKernelSpec()
	must(t, err)
	var assign *btf.Func
	if kernel.TypeByName("bpf_sk_assign_tcp_reqsk", &assign) != nil {
		t.Skip("kernel services need Linux 6.9 or later")
	}
	spec, err := LoadHandoff()
	must(t, err)
	var o HandoffObjects
	must(t, spec.LoadAndAssign(&o, nil))
	defer o.Close()
	info, err := o.Handoff.Info()
	must(t, err)
	n, _ := info.VerifiedInstructions()
	t.Logf("verifier: %d instructions processed for the tcx program", n)
	if n > 100_000 {
		t.Errorf("the verifier processed %d instructions, more than 100,000", n)
	}
}
